"""What one layer's values mean for those of the layers below it."""

from collections.abc import Mapping, Sequence
from typing import Final

from provisioner.core.secret import Secret
from provisioner.settings.layers import Given, Layer
from provisioner.settings.proxies import proxy_for
from provisioner.settings.sections import INFISICAL_FIELDS, OPENROUTER
from provisioner.settings.shape import Setting

# What is given tells how to log in; the first that fits counts, and several may.
_IMPLIED: Final = {
    "token": ("token",),
    "client_id": ("universal",),
    "client_secret": ("universal",),
    "jwt_file": ("kubernetes", "oidc"),
    "jwt": ("oidc", "kubernetes"),
}

_REACHED: Final = frozenset({"targets", "notify", "openrouter"})  # the sections of addresses that are reached by HTTP


def merged(layers: Sequence[Layer], environ: Mapping[str, str]) -> dict[Setting, Given]:
    """Return each setting as the highest layer has it; `layers` stand in the order of their precedence."""
    for section, name in dict.fromkeys(setting[:2] for layer in layers for setting in layer.given if len(setting) == 3):
        if section == "credentials":
            _keep_one_place(layers, name)
        else:
            _infer_auth(layers, name)
    given = {setting: one for layer in reversed(layers) for setting, one in layer.given.items()}
    return given | _proxies(given, environ)


def _proxies(given: Mapping[Setting, Given], environ: Mapping[str, str]) -> dict[Setting, Given]:
    """The proxy that the environment names for each address without one of its own, as a value of its variable."""
    found = {}
    usual = {("openrouter", "url"): Given(OPENROUTER, "openrouter.url", "default")}
    for setting, url in (usual | dict(given)).items():
        if setting[0] not in _REACHED or setting[-1] != "url" or (*setting[:-1], "proxy") in given:
            continue
        text = url.value.reveal() if isinstance(url.value, Secret) else str(url.value)
        if proxy := proxy_for(text, environ):
            found[*setting[:-1], "proxy"] = Given(Secret(proxy.url), proxy.variable, f"environment {proxy.variable}")
    return found


def _keep_one_place(layers: Sequence[Layer], name: str) -> None:
    """Let the highest layer that places a credential replace, not extend, what lower ones say."""
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
    """Let the highest layer that says anything about logging in decide how; what fits a lower one's word obeys it."""
    auth = ("targets", name, "auth")
    said = next((str(layer.given[auth].value).lower() for layer in layers if auth in layer.given), None)
    for layer in layers:
        if auth in layer.given:
            return
        implied = [
            (method, key)
            for key in _IMPLIED
            if ("targets", name, key) in layer.given
            for method in _implied(key, layer.given["targets", name, key])
        ]
        if any(method == said for method, _ in implied):
            return
        if implied:
            method, key = implied[0]
            cause = layer.given["targets", name, key]
            layer.given[auth] = Given(method, cause.name, cause.source)
            return


def _implied(key: str, given: Given) -> tuple[str, ...]:
    """What a value says about how to log in; a file of Infisical's own variable for OIDC says more than its place."""
    return _IMPLIED["jwt"] if given.name == "INFISICAL_AUTH_JWT_FILE" else _IMPLIED[key]
