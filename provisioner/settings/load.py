"""Load the settings: merge the layers, check the result, and report every problem in one line."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from provisioner.settings.errors import SettingsError
from provisioner.settings.identity import doubled
from provisioner.settings.layers import Given, Layer, command_line, defaults, ecosystem, environment, file
from provisioner.settings.model import Settings
from provisioner.settings.proxies import proxies_of
from provisioner.settings.sections import INFISICAL_FIELDS
from provisioner.settings.shape import NAMED, Setting, dotted, in_file, variable

# What a value implies about how to log in; the first method is the likelier one.
_IMPLIED: Final = {
    "token": ("token",),
    "client_id": ("universal",),
    "client_secret": ("universal",),
    "jwt_file": ("kubernetes", "oidc"),
    "jwt": ("oidc", "kubernetes"),
}

# What a value must be, by pydantic's name of the error. Its own messages are for programmers.
_RULES: Final = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "too_long": "must be at most {max_length} characters",
    "string_pattern_mismatch": "must be letters, digits and underscores",
    "secret_type": "must be text",
    "path_type": "must be the path of a file",
    "path_not_file": "must be the path of an existing file",
    "rule": "{rule}",
}


def load_settings(
    *,
    config: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> Settings:
    """Return the effective settings: command line over environment over file over defaults.

    `config` is the file that the command line names; `overrides` contains its other settings, as nested tables. Raises
    `SettingsError`, which names every unknown, unreadable or unusable setting the way its user wrote it.
    """
    base = cwd or Path()
    layers = [
        command_line(overrides or {}, base),
        environment(environ, base),
        ecosystem(environ, base),
        file(config, environ, base),
    ]
    layers.append(defaults(layers))
    problems = [problem for layer in layers for problem in layer.problems]
    if problems:
        raise SettingsError(*problems)
    given = _merged(layers)
    given |= proxies_of(given, environ)
    try:
        settings = Settings.of(given)
    except ValidationError as error:
        # Not chained: pydantic's error contains the value, and a traceback would show it.
        raise SettingsError(*(_sentence(problem, given) for problem in error.errors(include_url=False))) from None
    if problems := doubled(settings.targets):
        raise SettingsError(*problems)
    asked: dict[Setting, str] = {
        ("credentials", name, "target"): one.target for name, one in settings.credentials.items() if one.target
    }
    if settings.discover.seconds is not None:
        asked["discover", "target"] = settings.discover.target
    if astray := [setting for setting, target in asked.items() if target not in settings.targets]:
        there = ", ".join(settings.targets)
        raise SettingsError(*(f"{_name([setting], given)} has to be one of: {there}" for setting in astray))
    return settings


def _sentence(problem: Any, given: Mapping[Setting, Given]) -> str:
    """Say in a sentence what is wrong with one setting."""
    location = tuple(str(part) for part in problem["loc"])
    context = problem.get("ctx", {})
    if problem["type"] == "missing":
        return f"{dotted(location[:-1])} has no {location[-1]}: set {variable(*location)} or {in_file(location)}"
    fields = context.get("fields", ())
    depth = 3 if location[0] in NAMED else 2
    settings = [(*location, name) for name in fields] or [location[:depth]]
    rule = _RULES.get(problem["type"], "has a value that cannot be used").format(**context)
    return f"{_name(settings, given)} {rule}"


def _name(settings: Sequence[Setting], given: Mapping[Setting, Given]) -> str:
    """Name the setting as the user did; of several, the first that was set."""
    return next((given[setting].name for setting in settings if setting in given), dotted(settings[0]))


def _merged(layers: Sequence[Layer]) -> dict[Setting, Given]:
    """Return each setting from the highest layer that has it; `layers` are in order of precedence."""
    for section, name in dict.fromkeys(setting[:2] for layer in layers for setting in layer.given if len(setting) == 3):
        if section == "credentials":
            _keep_one_place(layers, name)
        else:
            _infer_auth(layers, name)
    return {setting: one for layer in reversed(layers) for setting, one in layer.given.items()}


def _keep_one_place(layers: Sequence[Layer], name: str) -> None:
    """Let the highest layer that says where a credential is replace the lower ones instead of extending them."""
    kept: set[str] = set()
    for layer in layers:
        here = {setting: _kind(setting) for setting in layer.given if setting[:2] == ("credentials", name)}
        for setting, kind in here.items():
            if kept and kind not in kept:
                del layer.given[setting]
        kept = kept or set(here.values())


def _kind(setting: Setting) -> str:
    return "infisical" if setting[2] in INFISICAL_FIELDS else setting[2]


def _infer_auth(layers: Sequence[Layer], name: str) -> None:
    """Let the highest layer that says anything about logging in decide the method, unless a lower one's `auth` fits."""
    auth = ("targets", name, "auth")
    said = next((str(layer.given[auth].value).lower() for layer in layers if auth in layer.given), None)
    for layer in layers:
        if auth in layer.given:
            return
        implied: dict[str, Given] = {}
        for key, methods in _IMPLIED.items():
            if given := layer.given.get(("targets", name, key)):
                # Infisical's own variable for OIDC implies more than a file does.
                ways = _IMPLIED["jwt"] if given.name == "INFISICAL_AUTH_JWT_FILE" else methods
                for method in ways:
                    implied.setdefault(method, given)
        if implied:
            if said not in implied:
                method, cause = next(iter(implied.items()))
                layer.given[auth] = Given(method, cause.name, cause.source)
            return
