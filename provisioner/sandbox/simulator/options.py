"""The options of a simulator, and the checks for changing them while it runs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf, isfinite
from typing import Any, Literal, TypeVar, cast, get_args

from provisioner.sandbox.simulator.chance import FAULTS, ROTATION_FAULTS, check_shares
from provisioner.sandbox.simulator.model import (
    ABILITIES,
    ENVIRONMENTS,
    PROJECT_TYPES,
    UUID,
    Grant,
    Revoked,
    Secret,
    Standing,
    camel,
)

__all__ = ["STARTED", "Mode", "Options", "SettingsError", "check", "snake"]

T = TypeVar("T")
Check = Callable[[object], T]
Mode = Literal["cloud", "self-hosted"]


class SettingsError(ValueError):
    """An invalid setting; `field` names it."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.field = name
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the simulated Infisical behaves. Everything except the ids can be changed while it runs.

    Times are in seconds; 0 means no limit for times to live and numbers of uses. Limits are requests per `window` for
    each route and client address. The same `seed` gives the same ids, secrets and faults. If `client_id` and
    `client_secret` are omitted, they are derived from the seed.
    """

    port: int = 0
    """The TCP port on 127.0.0.1; 0 chooses a free one."""
    mode: Mode = "cloud"
    """`cloud` limits rates; `self-hosted` has neither a rate limiter nor its headers."""
    write_limit: int = 200
    read_limit: int = 350
    login_limit: int = 200
    secret_limit: int = 120
    window: float = 60.0
    latency: float = 0.0
    """How long every request waits before it is processed."""
    projects: int = 10
    """The number of projects."""
    any_project: bool = False
    """Accept any UUID as a project of the organization."""
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    secret_ttl: int = 0
    secret_uses: int = 0
    token_ttl: int = 2_592_000
    """The lifetime of an access token."""
    token_max_ttl: int = 0
    token_uses: int = 0
    organization_slug: str = ""
    """The organization that logins may name; if empty, they may name none."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """The share of creates that each named fault strikes; see `chance.FAULTS`."""
    rotation_faults: Mapping[str, float] = field(default_factory=dict)
    """The same for creates of rotations; see `chance.ROTATION_FAULTS`."""
    change_faults: Mapping[str, float] = field(default_factory=dict)
    """The same for updates and deletions of both, by the names of `faults`."""
    secrets: Sequence[Mapping[str, object]] = field(default=(), repr=False)
    """Secrets that exist from the start, in the form of the setting `secrets`."""
    seed: int = 0
    cut_after: float = 100.0
    """How long a request may go unanswered before its connection is cut; its work continues."""
    late_by: float = 0.5
    """How long after the cut the fault `late-commit` inserts its row."""
    replica_lag: float = 0.0
    """How long a new connection stays invisible to reads."""
    role_lag: float = 0.0
    """How long a changed role goes unnoticed: about 10 s on a real server. Joining a project takes effect at once."""
    clock_offset: float = 0.0
    """The server's clock minus the real one: in `Date`, `createdAt` and `updatedAt`."""
    upstream_pace: float = 1.0
    """A factor for every delay of the call to OpenRouter: 0.01 makes tests a hundred times faster."""
    pool: int = 10
    """How many database connections the server has; 0 means unlimited, and creates take no time."""
    pool_wait: float = 60.0
    """How long a request waits for a database connection before its 500."""
    pool_step: float = 0.0045
    """How long each of a create's two turns occupies the only thread; 0.0045 allows about 110 creates a second."""
    maintenance: bool = False
    outage: str = "none"
    open_router: str = "ok"
    old_secrets: bool = False
    """Only the older route returns secrets."""
    plan_restricted: bool = False
    """The organization's plan does not include rotations."""
    web_interface: bool = True
    """A self-hosted server serves web pages under all other paths."""

    def public(self) -> dict[str, Any]:
        """Return what can be changed, by JSON name, without secrets."""
        return {name: getattr(self, snake(name)) for name in STARTED if name != "secrets"}


def snake(name: str) -> str:
    """Return the Python name of a JSON name."""
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


# Each check returns the value, or raises a `ValueError` that says what is wrong.


def _number(*, least: float = -inf, above: float = -inf, whole: bool = False) -> Check[Any]:
    def check_number(value: object) -> float:
        kinds = int if whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds) or not (whole or isfinite(value)):
            raise ValueError(f"must be a {'whole ' if whole else ''}number, not {value!r}")
        if value < least:
            raise ValueError(f"must be at least {least:g}, not {value!r}")
        if value <= above:
            raise ValueError(f"must be more than {above:g}, not {value!r}")
        return value if whole else float(value)

    return check_number


def _whole(least: float = -inf) -> Check[int]:
    return _number(least=least, whole=True)


def _choice(*choices: str) -> Check[str]:
    def check_word(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    return check_word


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")  # noqa: TRY004 - one kind of error for callers
    return value


def _any_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 - and the message repeats nothing: it may be a secret
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def _path(value: object) -> str:
    return _text(value).rstrip("/") or "/"


def _uuid(value: object) -> str:
    if not isinstance(value, str) or not UUID.match(value):
        raise ValueError(f"must be a UUID, not {value!r}")
    return value.lower()


def _moment(value: object) -> float:
    try:
        parsed = datetime.fromisoformat(cast("str", value))
    except (TypeError, ValueError):
        raise ValueError(f"must be a time such as 2026-11-23T17:02:28.690Z, not {value!r}") from None
    if parsed.tzinfo is None:
        raise ValueError(f"must name its time zone, such as Z: {value!r}")
    return parsed.timestamp()


def _optional(check_value: Check[T]) -> Check[T | None]:
    return lambda value: None if value is None else check_value(value)


def _list(check_item: Check[T]) -> Check[list[T]]:
    def check_list(value: object) -> list[T]:
        if not isinstance(value, list | tuple | set | frozenset):
            raise ValueError(f"must be a list, not {value!r}")  # noqa: TRY004 - one kind of error for callers
        return [check_item(item) for item in value]

    return check_list


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"must be an object, not {value!r}")  # noqa: TRY004 - one kind of error for callers
    return value


def _of_projects(check_value: Check[T]) -> Check[dict[str, T]]:
    return lambda value: {_uuid(project): check_value(given) for project, given in _mapping(value).items()}


def _object(fields: Mapping[str, Check[Any]], *needed: str) -> Check[dict[str, Any]]:
    """Return a check for an object with these fields, some of them required; the result has Python names."""

    def check_object(value: object) -> dict[str, Any]:
        given = _mapping(value)
        for name in needed:
            if name not in given:
                raise ValueError(f"each needs {' and '.join(needed)}")
        return {snake(name): found for name, found in _checked(given, fields).items()}

    return check_object


def _faults(known: Mapping[str, str] = FAULTS) -> Check[dict[str, float]]:
    return lambda value: check_shares(_mapping(value), known)


def _grant(value: object) -> Grant:
    if value == "none":
        return "none"
    if value == "foreign":
        return "foreign"
    try:
        return frozenset(_list(_choice(*sorted(ABILITIES)))(value))
    except ValueError as error:
        raise ValueError(f"{error}; besides a list of abilities, 'none' and 'foreign' are possible") from None


def _end(word: str, *others: str) -> Check[str | None]:
    """Return a check for how tokens end: true means this word, false nothing, and other words mean themselves."""
    return lambda value: (word if value else None) if isinstance(value, bool) else _choice(word, *others)(value)


def _secret(value: object) -> Secret:
    return Secret(**_object(SECRET, "name", "projectId", "environment")(value))


SECRET: dict[str, Check[Any]] = {
    "name": _text,
    "projectId": _uuid,
    "environment": _text,
    "path": _path,
    "value": _optional(_any_text),
    "access": _choice("read", "describe", "none"),
}
FOLDER: dict[str, Check[Any]] = {"projectId": _uuid, "environment": _choice(*ENVIRONMENTS), "path": _path}
PLANT: dict[str, Check[Any]] = {
    "name": _text,
    "projectId": _optional(_uuid),
    "app": _text,
    "description": _optional(_text),
    "createdAt": _moment,
    "apiKey": _text,
}
PROJECT: dict[str, Check[Any]] = {"name": _text, "slug": _text, "type": _choice(*PROJECT_TYPES)}
FIELDS: dict[str, Check[Any]] = {
    "mode": _choice(*get_args(Mode)),
    "writeLimit": _whole(least=1),
    "readLimit": _whole(least=1),
    "loginLimit": _whole(least=1),
    "secretLimit": _whole(least=1),
    "window": _number(above=0),
    "latency": _number(least=0),
    "tokenTtl": _whole(least=0),
    "tokenMaxTtl": _whole(least=0),
    "tokenUses": _whole(least=0),
    "secretTtl": _whole(least=0),
    "secretUses": _whole(least=0),
    "faults": _faults(),
    "rotationFaults": _faults(ROTATION_FAULTS),
    "changeFaults": _faults(),
    "seed": _whole(),
    "cutAfter": _number(above=0),
    "replicaLag": _number(least=0),
    "clockOffset": _number(),
    "lateBy": _number(least=0),
    "maintenance": _boolean,
    "outage": _choice("none", "refuse", "reset", "hang", "stopping"),
    "openRouter": _choice("ok", "401", "403", "429", "500", "slow", "down"),
    "upstreamPace": _number(least=0),
    "pool": _whole(least=0),
    "poolWait": _number(above=0),
    "poolStep": _number(least=0),
    "identity": _choice(*get_args(Standing)),
    "revokeTokens": _end(*get_args(Revoked)),
    "expireTokens": _end("expired"),
    "lapseTokens": _end("lapsed"),
    "unlock": _boolean,
    "clientSecret": _text,
    "addProjects": _list(_uuid),
    "projects": _of_projects(_object(PROJECT)),
    "removeProjects": _list(_uuid),
    "permissions": _of_projects(_grant),
    "plant": _list(_object(PLANT, "name", "projectId")),
    "secrets": _list(_secret),
    "folders": _list(_object(FOLDER, *FOLDER)),
    "planRestricted": _boolean,
    "oldSecrets": _boolean,
    "organizationSlug": _any_text,
    "webInterface": _boolean,
    "roleLag": _number(least=0),
}
"""Every field of POST /_simulator/settings and its check, in the order in which changes apply."""
# The options `projects` (a number) and `client_secret` (which may be None) differ from the fields of these names.
STARTED = frozenset(map(camel, Options.__dataclass_fields__)) & FIELDS.keys() - {"projects", "clientSecret"}
"""The fields that are also options."""


def _checked(given: Mapping[str, object], fields: Mapping[str, Check[Any]]) -> dict[str, Any]:
    for name in given:
        if name not in fields:
            raise SettingsError(name, f"unknown; known are {', '.join(fields)}")
    checked = {}
    for name, read in fields.items():
        if name in given:
            try:
                checked[name] = read(given[name])
            except SettingsError as error:
                raise SettingsError(f"{name}.{error.field}", error.problem) from None
            except ValueError as error:
                raise SettingsError(name, str(error)) from None
    return checked


def check(changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the checked values by JSON name, in the order in which they apply, or raise `SettingsError`.

    Python names work too: `write_limit` means `writeLimit`.
    """
    return _checked({camel(name): value for name, value in changes.items()}, FIELDS)
