"""All settings, and the names of each: in a file, in the environment, in other products' variables, in the docs."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Final, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from provisioner.core.secret import Secret
from provisioner.settings.sections import INFISICAL_FIELDS, Section, Sections
from provisioner.settings.values import UNSET, displayed

Setting = tuple[str, ...]  # ("retry", "base"), ("targets", "default", "url")

PREFIX: Final = "PROVISIONER_"
DEFAULT_URL: Final = "https://us.infisical.com"
SECTIONS: Final[dict[str, type[Section]]] = {
    # For a section with any number of entries, the last argument is the type of an entry.
    name: (get_args(field.annotation) or (field.annotation,))[-1]
    for name, field in Sections.model_fields.items()
}
# Sections with any number of entries, and the names that the database accepts for one.
NAMED: Final = {
    "targets": re.compile(r"[a-z0-9][a-z0-9-]{0,62}"),
    "credentials": re.compile(r"(?!sk-)[a-z0-9][a-z0-9-]{0,39}"),
}
ECOSYSTEM: Final[dict[str, Setting]] = {
    "INFISICAL_HOST": ("targets", "default", "url"),
    "INFISICAL_API_URL": ("targets", "default", "url"),  # of Infisical's command line, which may append /api
    "INFISICAL_DOMAIN": ("targets", "default", "url"),  # the same in newer versions
    "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": ("targets", "default", "client_id"),
    "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": ("targets", "default", "client_secret"),
    "INFISICAL_TOKEN": ("targets", "default", "token"),
    "INFISICAL_MACHINE_IDENTITY_ID": ("targets", "default", "identity_id"),
    "INFISICAL_AUTH_JWT": ("targets", "default", "jwt"),
    "INFISICAL_KUBERNETES_SERVICE_ACCOUNT_TOKEN_PATH": ("targets", "default", "jwt_file"),
    "DATABASE_URL": ("database", "url"),
}
OPENROUTER_KEY: Final = "OPENROUTER_PROVISIONING_KEY"


def dotted(path: Setting) -> str:
    """Return the name of a setting as people write it: `targets.default.url`."""
    return ".".join(path)


def variable(*path: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + "__".join(path).upper().replace("-", "_")


def in_file(path: Setting) -> str:
    """Return the name of a setting as a file has it: `[targets.default] url`."""
    return f"[{'.'.join(path[:-1])}] {path[-1]}" if len(path) > 1 else path[0]


def field_of(path: Setting) -> FieldInfo | None:
    """Return the field of a setting; None if there is no such setting."""
    section = SECTIONS.get(path[0])
    if section is None or len(path) != (3 if path[0] in NAMED else 2):
        return None
    return section.model_fields.get(path[-1])


def is_secret(field: FieldInfo | None) -> bool:
    """Tell whether the values of this field must not be shown."""
    return field is not None and Secret in _types(field.annotation)


def file_of(path: Setting) -> list[Setting]:
    """Return the setting that names a file with this setting's value; only secrets have one."""
    return [(*path[:-1], f"{path[-1]}_file")] if is_secret(field_of(path)) else []


def resolve(path: Setting) -> tuple[Setting, bool] | None:
    """Find the setting, and whether its value is in a file; None if there is no such setting.

    An Infisical secret may be written as its own table, and every secret as `…_file`.
    """
    if path[0] == "credentials" and len(path) == 4 and path[2] == "infisical" and path[3] in INFISICAL_FIELDS:
        path = (*path[:2], path[3])
    if field_of(path) is not None:
        return path, False
    plain = (*path[:-1], path[-1].removesuffix("_file"))
    return (plain, True) if plain != path and is_secret(field_of(plain)) else None


def paths(names: Iterable[str] = ("<name>",)) -> Iterator[Setting]:
    """Yield every setting in the order of the reference, with these names of targets and credentials."""
    for section, model in SECTIONS.items():
        for prefix in [(section, name) for name in names] if section in NAMED else [(section,)]:
            for field in model.model_fields:
                yield (*prefix, field)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the most similar known word."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def settings_table() -> str:
    """Return the reference of all settings as a Markdown table."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for path in paths():
        info = field_of(path)
        if info is not None:
            secret = " (secret)" if is_secret(info) else ""
            rows.append(f"| `{dotted(path)}` | {_default(info)} | {info.description}{secret} |")
    return "\n".join(rows) + "\n"


def _default(info: FieldInfo) -> str:
    # Only a target's URL is required, for every target except `default`.
    if info.default is PydanticUndefined:
        return f"`{DEFAULT_URL}` for `default`"
    return UNSET if info.default is None else f"`{displayed(info.default)}`"


def _types(annotation: object) -> Iterator[object]:
    yield annotation
    for part in get_args(annotation):
        yield from _types(part)
