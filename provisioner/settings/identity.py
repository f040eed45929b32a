"""The identity of a worker at a target: whether a login is possible, and whether two targets are the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from provisioner.settings.errors import SettingsError, listing
from provisioner.settings.sections import Target
from provisioner.settings.shape import ECOSYSTEM, variable

SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")  # where Kubernetes mounts it

_NEEDED: Final = {
    "universal": ("client_id", "client_secret"),
    "token": ("token",),
    "kubernetes": ("identity_id",),
    "oidc": ("identity_id", "jwt"),
}
# The old name of the US region's instance.
_CLOUD: Final = {"https://app.infisical.com": "https://us.infisical.com"}


def able_to_log_in(name: str, target: Target) -> Target:
    """Return the target with everything that a login needs; raise `SettingsError` naming the missing variables."""
    missing = [
        listing([*(own for own, path in ECOSYSTEM.items() if path == setting), variable(*setting)])
        for field in _NEEDED[target.auth]
        if getattr(target, field) is None and not (field == "jwt" and target.jwt_file)
        for setting in [("targets", name, field)]
    ]
    if missing:
        raise SettingsError(f"targets.{name} cannot log in (auth = {target.auth}): set {', and '.join(missing)}")
    if target.auth == "kubernetes" and target.jwt is None and target.jwt_file is None:
        return target.model_copy(update={"jwt_file": SERVICE_ACCOUNT_TOKEN})
    return target


def doubled(targets: Mapping[str, Target]) -> list[str]:
    """Report every target that is the same as another: both would record the same connections."""
    first: dict[tuple[object, ...], str] = {}
    problems = []
    for name, target in targets.items():
        if (who := _who(target)) is None:
            continue
        place = (_CLOUD.get(target.url, target.url), *who)
        if (other := first.setdefault(place, name)) != name:
            problems.append(
                f"targets.{name} is the same Infisical as targets.{other} with the same machine identity, so both "
                "would record the same connections: remove one of them, or set a different organization_slug for each"
            )
    return problems


def _who(target: Target) -> tuple[object, ...] | None:
    """Return the identity at a target, as far as the settings say."""
    if target.auth == "token":
        return None if target.token is None else ("token", target.token)
    if target.auth == "universal":
        return None if target.client_id is None else ("client", target.client_id.lower(), target.organization_slug)
    return None if target.identity_id is None else ("identity", target.identity_id, target.organization_slug)
