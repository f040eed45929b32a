"""Who a worker is at a target: the values that one way of logging in needs, all of them there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from provisioner.core.secret import Secret
from provisioner.settings.errors import SettingsError, listing
from provisioner.settings.sections import Target
from provisioner.settings.shape import ECOSYSTEM, variable

SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")  # where Kubernetes mounts it


@dataclass(frozen=True, slots=True, kw_only=True)
class UniversalIdentity:
    """A client id and its secret."""

    client_id: str
    client_secret: Secret
    organization_slug: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIdentity:
    """An access token that is used as it is."""

    token: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIdentity:
    """A machine identity that a signed token proves: exactly one of `jwt` and `jwt_file` is there."""

    method: Literal["kubernetes", "oidc"]
    identity_id: str
    jwt: Secret | None = None
    jwt_file: Path | None = None
    organization_slug: str | None = None


Identity = UniversalIdentity | TokenIdentity | JwtIdentity


def identity_of(name: str, target: Target) -> Identity:
    """Return who to be at the target of this name; raise `SettingsError` naming the variables that are not set."""
    slug = target.organization_slug
    if target.auth == "token":
        if target.token is not None:
            return TokenIdentity(token=target.token)
        raise _missing(name, target, "token")
    if target.auth == "universal":
        if target.client_id is not None and target.client_secret is not None:
            return UniversalIdentity(
                client_id=target.client_id, client_secret=target.client_secret, organization_slug=slug
            )
        raise _missing(name, target, "client_id", "client_secret")
    file = SERVICE_ACCOUNT_TOKEN if target.auth == "kubernetes" and target.jwt_file is None else target.jwt_file
    if target.identity_id is not None and (target.jwt is not None or file is not None):
        return JwtIdentity(
            method=target.auth,
            identity_id=target.identity_id,
            jwt=target.jwt,
            jwt_file=file if target.jwt is None else None,
            organization_slug=slug,
        )
    raise _missing(name, target, "identity_id", *(() if file else ("jwt",)))


def doubled(targets: Mapping[str, Target]) -> list[str]:
    """Name each target that is another one once more: one connection would be recorded for a request of each."""
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


# The first name of the US region's instance.
_CLOUD: Final = {"https://app.infisical.com": "https://us.infisical.com"}


def _who(target: Target) -> tuple[object, ...] | None:
    """Who somebody is at a target, as far as the settings tell."""
    if target.auth == "token":
        return None if target.token is None else ("token", target.token)
    if target.auth == "universal":
        return None if target.client_id is None else ("client", target.client_id.lower(), target.organization_slug)
    return None if target.identity_id is None else ("identity", target.identity_id, target.organization_slug)


def _missing(name: str, target: Target, *fields: str) -> SettingsError:
    """Name each value that is not there, by the variables that set it."""
    wanted = [
        listing([*_own_names(name, field), variable("targets", name, field)])
        for field in fields
        if getattr(target, field) is None
    ]
    return SettingsError(f"targets.{name} cannot log in (auth = {target.auth}): set {' and '.join(wanted)}")


def _own_names(name: str, field: str) -> list[str]:
    return [own for own, path in ECOSYSTEM.items() if path == ("targets", name, field)]
