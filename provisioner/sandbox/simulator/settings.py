"""What can be changed while the simulator runs, and what each field may be."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from provisioner.sandbox.simulator import checks
from provisioner.sandbox.simulator.faults import ROTATION_FAULTS, check_shares
from provisioner.sandbox.simulator.model import ABILITIES, APP, ENVIRONMENTS, PROJECT_TYPES, Grant
from provisioner.sandbox.simulator.options import Mode
from provisioner.sandbox.simulator.secrets import PlantedSecret, planted_secret
from provisioner.sandbox.simulator.tokens import Identity, Revoked

__all__ = ["FIELDS", "Plant", "Settings", "SettingsError", "check", "snake"]


class SettingsError(ValueError):
    """A setting that cannot be; `field` names it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.field = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """A connection of somebody else that is to exist; `created_at` in seconds since 1970, None is now."""

    name: str
    project_id: str | None
    app: str = APP
    description: str | None = None
    created_at: float | None = None
    api_key: str = field(default="sk-or-v1-planted", repr=False)


@dataclass(slots=True, kw_only=True)
class Settings:
    """The live settings. Times in seconds; for each time to live and number of uses, 0 means no limit.

    `old_secrets`: only the older route tells secrets. `plan_restricted`: the organization's plan has no rotations.
    Without an `organization_slug` logins may name none.
    `web_interface`: a self-hosted server has pages under all other paths. `role_lag`: how long a changed role goes
    unnoticed; about 10 s on a recorded server, and joining a project shows at once.
    """

    mode: str = "cloud"
    write_limit: int = 200
    read_limit: int = 350
    login_limit: int = 200
    secret_limit: int = 120
    window: float = 60.0
    latency: float = 0.0
    token_ttl: int = 2_592_000
    token_max_ttl: int = 0
    token_uses: int = 0
    secret_ttl: int = 0
    secret_uses: int = 0
    client_secret: str = field(default="", repr=False)
    cut_after: float = 100.0
    replica_lag: float = 0.0
    clock_offset: float = 0.0
    late_by: float = 0.5
    maintenance: bool = False
    outage: str = "none"
    open_router: str = "ok"
    old_secrets: bool = False
    plan_restricted: bool = False
    organization_slug: str = ""
    web_interface: bool = True
    role_lag: float = 0.0
    upstream_pace: float = 1.0
    pool: int = 10
    pool_wait: float = 60.0
    pool_step: float = 0.0045

    def public(self) -> dict[str, Any]:
        """Return them by their JSON names, without the secret."""
        return {
            name: getattr(self, snake(name)) for name in FIELDS if hasattr(self, snake(name)) and name != "clientSecret"
        }


def snake(name: str) -> str:
    """Return the Python name of a JSON name."""
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda letter: letter[1].upper(), name)


def _faults(value: object) -> dict[str, float]:
    return check_shares(checks.mapping(value))


def _rotation_faults(value: object) -> dict[str, float]:
    return check_shares(checks.mapping(value), ROTATION_FAULTS)


def _folder(value: object) -> tuple[str, str, str]:
    given = checks.mapping(value)
    found = _checked(
        given, {"projectId": checks.uuid, "environment": checks.choice(*ENVIRONMENTS), "path": checks.text}
    )
    if len(found) < 3:
        raise ValueError("each folder needs projectId, environment and path")
    return found["projectId"], found["environment"], found["path"].rstrip("/")


def _grant(value: object) -> Grant:
    if value == "none":
        return "none"
    if value == "foreign":
        return "foreign"
    try:
        return frozenset(checks.list_of(checks.choice(*sorted(ABILITIES)))(value))
    except ValueError as error:
        raise ValueError(f"{error}; besides a list of abilities, 'none' and 'foreign' are possible") from None


def _revoked(value: object) -> str:
    """Check what is revoked; true is each token by itself, false nothing."""
    return ("token" if value else "") if isinstance(value, bool) else checks.choice(*get_args(Revoked))(value)


def _permissions(value: object) -> dict[str, Grant]:
    granted: dict[str, Grant] = {}
    for project, grant in checks.mapping(value).items():
        granted[checks.uuid(project)] = _grant(grant)
    return granted


PLANT_FIELDS: dict[str, Callable[[object], Any]] = {
    "name": checks.text,
    "projectId": checks.optional(checks.uuid),
    "app": checks.text,
    "description": checks.optional(checks.text),
    "createdAt": checks.moment,
    "apiKey": checks.text,
}


def _plant(value: object) -> Plant:
    given = checks.mapping(value)
    for required in ("name", "projectId"):
        if required not in given:
            raise ValueError(f"each connection needs {required}")
    return Plant(**{snake(name): found for name, found in _checked(given, PLANT_FIELDS).items()})


def _projects(value: object) -> dict[str, dict[str, str]]:
    fields = {"name": checks.text, "slug": checks.text, "type": checks.choice(*PROJECT_TYPES)}
    return {
        checks.uuid(project): _checked(checks.mapping(given), fields)
        for project, given in checks.mapping(value).items()
    }


def _secret(value: object) -> PlantedSecret:
    return planted_secret(checks.mapping(value))


FIELDS: dict[str, Callable[[object], Any]] = {
    "mode": checks.choice(*get_args(Mode)),
    "writeLimit": checks.integer(least=1),
    "readLimit": checks.integer(least=1),
    "loginLimit": checks.integer(least=1),
    "secretLimit": checks.integer(least=1),
    "window": checks.number(above=0),
    "latency": checks.number(least=0),
    "tokenTtl": checks.integer(least=0),
    "tokenMaxTtl": checks.integer(least=0),
    "tokenUses": checks.integer(least=0),
    "secretTtl": checks.integer(least=0),
    "secretUses": checks.integer(least=0),
    "faults": _faults,
    "rotationFaults": _rotation_faults,
    "changeFaults": _faults,
    "seed": checks.integer(),
    "cutAfter": checks.number(above=0),
    "replicaLag": checks.number(least=0),
    "clockOffset": checks.number(),
    "lateBy": checks.number(least=0),
    "maintenance": checks.boolean,
    "outage": checks.choice("none", "refuse", "reset", "hang", "stopping"),
    "openRouter": checks.choice("ok", "401", "403", "429", "500", "slow", "down"),
    "upstreamPace": checks.number(least=0),
    "pool": checks.integer(least=0),
    "poolWait": checks.number(above=0),
    "poolStep": checks.number(least=0),
    "identity": checks.choice(*get_args(Identity)),
    "revokeTokens": _revoked,
    "expireTokens": checks.boolean,
    "lapseTokens": checks.boolean,
    "unlock": checks.boolean,
    "clientSecret": checks.text,
    "addProjects": checks.list_of(checks.uuid),
    "projects": _projects,
    "removeProjects": checks.list_of(checks.uuid),
    "permissions": _permissions,
    "plant": checks.list_of(_plant),
    "secrets": checks.list_of(_secret),
    "folders": checks.list_of(_folder),
    "planRestricted": checks.boolean,
    "oldSecrets": checks.boolean,
    "organizationSlug": checks.text,
    "webInterface": checks.boolean,
    "roleLag": checks.number(least=0),
}
"""Every field of POST /_simulator/settings with its check; applied in this order."""


def _checked(given: Mapping[str, object], fields: Mapping[str, Callable[[object], Any]]) -> dict[str, Any]:
    for name in given:
        if name not in fields:
            raise SettingsError(name, f"unknown; known are {', '.join(fields)}")
    checked = {}
    for name, read in fields.items():
        if name in given:
            try:
                checked[name] = read(given[name])
            except SettingsError as error:
                raise SettingsError(f"{name}.{error.field}", str(error).partition(": ")[2]) from None
            except ValueError as error:
                raise SettingsError(name, str(error)) from None
    return checked


def check(changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the checked values by their JSON names, in the order to apply them, or raise `SettingsError`.

    Python names are taken as well: `write_limit` is `writeLimit`.
    """
    return _checked({_camel(name): value for name, value in changes.items()}, FIELDS)
