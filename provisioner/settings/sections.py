"""The fields of each section, their meaning, and combinations that are refused.

The descriptions here are the documentation: the table in `docs/settings.md` is generated from them.
"""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from provisioner.core.projects import ProjectType
from provisioner.core.secret import SecretLocation
from provisioner.settings.values import (
    EVENTS,
    Address,
    AnyPath,
    BaseUrl,
    Choice,
    DatabaseUrl,
    Events,
    ExistingFile,
    Globs,
    HttpUrl,
    IdentityId,
    IdText,
    InFlight,
    KeyCheck,
    KeyText,
    Limit,
    Period,
    SecretText,
    Text,
    Word,
    normalise_name,
    parse_address,
    refuse,
    require_encryption,
    seconds_of,
)

# The shortest timeout for an answer, in seconds. Infisical cuts a connection after 100 s of silence, so its last
# answers come shortly before; waiting less than 30 would lose many that its database or OpenRouter delayed.
SHORTEST_TIMEOUT: Final = 30.0
LONGEST_TIMEOUT: Final = 120.0
OPENROUTER: Final = "https://openrouter.ai/api/v1"
CACHE: Final = 300.0  # seconds
KINDS: Final = ("env", "file", "value", "project")  # the field that determines a credential's kind
INFISICAL_FIELDS: Final = ("project", "environment", "path", "secret", "target", "cache")


Proxy = Annotated[
    HttpUrl | None,
    Field(description="HTTP proxy, as `http://user:password@host:port`; by default the one from the environment"),
]


class Section(BaseModel):
    """A group of settings: immutable, and never shows a value that it refuses."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class Database(Section):
    """Where the requests are."""

    url: DatabaseUrl | None = Field(
        default=None,
        description="PostgreSQL, as `postgresql://user:password@host/database`; or `embedded`, or `embedded:/path`: "
        "[the embedded database](embedded.md)",
    )
    max_connections: int = Field(
        default=4, ge=1, le=100, description="connections that one worker may open, besides the listener"
    )
    ssl_root_cert: ExistingFile | None = Field(
        default=None, description="file with the CA certificates (PEM) that the server's certificate is checked against"
    )


class Target(Section):
    """One Infisical: an instance and an organization, and how to log in there."""

    url: BaseUrl = Field(description="base URL of the Infisical instance")
    auth: Annotated[Literal["universal", "token", "kubernetes", "oidc"], Choice] = Field(
        default="universal",
        description="how to log in: `universal`, `token`, `kubernetes` or `oidc`; derived from the others by default",
    )
    client_id: IdText | None = Field(default=None, description="machine identity's client id, for `universal`")
    client_secret: KeyText | None = Field(default=None, description="machine identity's client secret, for `universal`")
    token: KeyText | None = Field(
        default=None, description="access token, for `token`; it is used as given and never renewed"
    )
    identity_id: IdentityId | None = Field(
        default=None, description="machine identity's id, a UUID, for `kubernetes` and `oidc`"
    )
    jwt: KeyText | None = Field(
        default=None, description="signed token that proves the identity, for `kubernetes` and `oidc`"
    )
    jwt_file: AnyPath | None = Field(
        default=None,
        description="file with that token, read at each login; for `kubernetes`, the service account's by default",
    )
    organization_slug: Text | None = Field(
        default=None, description="organization to log in to, if the identity is in several"
    )
    write_limit: Limit = Field(
        default="auto",
        description='rate limit for creates: `auto` (learned from the answers), `none`, or for example `"200/min"`',
    )
    read_limit: Limit = Field(default="auto", description="rate limit for reads, written like `write_limit`")
    login_limit: Limit = Field(default="auto", description="rate limit for logins, written like `write_limit`")
    shared_budget: bool = Field(
        False, description="count replacements and deletions toward `write_limit` as well, as Infisical documents it"
    )
    max_in_flight: InFlight = Field(
        default="auto",
        description="creates in flight at once, over all workers: `auto` (learned from the answers), or a maximum",
    )
    timeout: float = Field(default=105.0, description="seconds to wait for an answer; more than 30 and at most 120")
    ca_file: ExistingFile | None = Field(
        default=None,
        description="file with the CA certificates (PEM) that the instance's certificate is checked against",
    )
    proxy: Proxy = None
    allow_http: bool = Field(False, description="allow `http://` to other hosts, which sends every key unencrypted")
    marker: bool = Field(
        False, description="add a marker to descriptions, which identifies our connections with certainty"
    )

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if not SHORTEST_TIMEOUT < self.timeout <= LONGEST_TIMEOUT:
            raise refuse(
                "must be more than 30 and at most 120 seconds: Infisical answers within 100 s or not at all, and the "
                "outcome of a create is unknown to a worker that stops waiting earlier",
                "timeout",
            )
        if not self.allow_http:
            rule = "must begin with https:// (or set allow_http = true, which sends every key unencrypted)"
            require_encryption(self.url, rule)
        return self


class Credential(Section):
    """Where the OpenRouter management key of one name is: in exactly one place."""

    env: Word | None = Field(default=None, description="environment variable that holds the key")
    file: AnyPath | None = Field(default=None, description="file that holds the key, read when it is needed")
    project: Text | None = Field(default=None, description="Infisical secret that holds the key: its project's id")
    environment: Text | None = Field(default=None, description="Infisical secret: its environment's slug")
    path: Text | None = Field(default=None, description="Infisical secret: its folder; `/` by default")
    secret: Text | None = Field(default=None, description="Infisical secret: its name")
    target: Annotated[str, AfterValidator(normalise_name)] | None = Field(
        default=None, description="Infisical secret: the target whose instance it is in; by default the request's own"
    )
    cache: float | None = Field(
        default=None,
        gt=0,
        le=86400,
        description="Infisical secret: seconds to keep the key before reading it again; 300 by default",
    )
    value: KeyText | None = Field(default=None, description="the key itself; a file or a variable is better")

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
        given = [name for name in KINDS if getattr(self, name) is not None]
        parts = [name for name in INFISICAL_FIELDS if getattr(self, name) is not None]
        if parts and "project" not in given:
            given.append(parts[0])
        if len(given) != 1:
            raise refuse(
                "is not alone: a credential has exactly one of env, file, value, or an Infisical secret (project, …)",
                *given[1:],
            )
        missing = {"project", "environment", "secret"}.difference(parts)
        if parts and missing:
            raise refuse(f"needs the Infisical secret's {' and '.join(sorted(missing))} too", parts[0])
        return self

    @property
    def kept(self) -> float:
        """The seconds for which a key from Infisical is cached."""
        return CACHE if self.cache is None else self.cache

    @property
    def place(self) -> SecretLocation | None:
        """The place of the key in Infisical, if it is there."""
        if self.project is None or self.environment is None or self.secret is None:
            return None
        return SecretLocation(
            project=self.project, environment=self.environment, path=self.path or "/", name=self.secret
        )


class Openrouter(Section):
    """How OpenRouter itself is asked about keys before creates are spent on them."""

    check: KeyCheck = Field(
        default="auto",
        description="ask OpenRouter once whether each key of a named credential is a management key: `auto`"
        " (if it can be reached, and not for an Infisical on this machine), `true`, or `false`",
    )
    url: BaseUrl = Field(default=OPENROUTER, description="base URL of OpenRouter's API")
    proxy: Proxy = None

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        require_encryption(self.url, "must begin with https://, because keys are sent there")
        return self


class Retry(Section):
    """How often and at which intervals a request is tried."""

    max_attempts: int = Field(
        default=8, ge=1, le=1000, description="attempts that may fail because of the request itself, before it fails"
    )
    base: float = Field(
        default=2.0,
        gt=0,
        le=86400,
        description="seconds before the second attempt; the wait doubles each time, with full jitter",
    )
    cap: float = Field(default=300.0, gt=0, le=86400, description="longest wait between attempts, in seconds")

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.base > self.cap:
            raise refuse("cannot work: retry.base must not be more than retry.cap", "base", "cap")
        return self


class Worker(Section):
    """How a worker behaves towards the others."""

    lease: float = Field(
        default=30.0,
        ge=5,
        le=3600,
        description="seconds that a lease lasts; a living worker renews it, and a dead worker's requests wait for its "
        "end",
    )
    grace: float = Field(default=45.0, ge=1, le=3600, description="seconds to finish what is in flight when stopping")
    poll: float = Field(
        default=1.0,
        gt=0,
        le=1800,
        description="seconds between polls; twice that for an idle worker that notifications reach",
    )
    name: Text | None = Field(
        default=None, max_length=200, description="name of this worker; by default host and process"
    )
    keep_attempts: int = Field(default=30, ge=1, le=3650, description="days to keep the attempt log")

    @model_validator(mode="after")
    def _looks_in_time(self) -> Self:
        if self.poll >= self.lease / 2:
            raise refuse("cannot work: worker.poll must be less than half of worker.lease", "poll", "lease")
        return self


class Listen(Section):
    """Where the daemon answers probes."""

    address: Address = Field(default="127.0.0.1:9464", description="host and port of the status port, or `off`")

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """The host and port; None if it is off."""
        return parse_address(self.address)


class Sealing(Section):
    """The keys that open sealed credentials."""

    key_file: AnyPath = Field(
        default=Path("~/.config/provisioner/sealing.keys"),
        validate_default=True,
        description="file with the private sealing keys",
    )
    keep_failed: int = Field(
        default=30, ge=0, le=3650, description="days after which the sealed key of a failed request is wiped"
    )


class Notify(Section):
    """Who gets a notice when a batch has finished or something needs a person."""

    url: HttpUrl | None = Field(default=None, description="URL that notices are posted to; without it, none are sent")
    events: Events = Field(
        default=", ".join(EVENTS), description="which events to send, as a list or separated by commas"
    )
    format: Annotated[Literal["json", "slack"], Choice] | None = Field(
        default=None, description="`json` or `slack`; by default what the URL's host expects"
    )
    signing_key: SecretText | None = Field(default=None, description="key that signs each body with HMAC-SHA256")
    ca_file: ExistingFile | None = Field(
        default=None,
        description="file with the CA certificates (PEM) that the receiver's certificate is checked against",
    )
    proxy: Proxy = None
    allow_http: bool = Field(default=False, description="allow `http://` to other hosts")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.url and not self.allow_http:
            require_encryption(self.url.reveal(), "must begin with https:// (or set allow_http = true)")
        return self

    @property
    def told(self) -> tuple[str, ...]:
        """The events that are sent."""
        return tuple(self.events.split(", "))


class Discover(Section):
    """Which of Infisical's projects get a request automatically."""

    every: Period = Field(
        default="off",
        description="how often to look for projects that have no request yet, such as `10min`; or `off`",
    )
    target: Annotated[str, AfterValidator(normalise_name)] = Field(default="default", description="the target to ask")
    type: Annotated[Literal[tuple(map(str, ProjectType))], Choice] = Field(  # type: ignore[valid-type]  # made of its words
        default="secret-manager", description="type of the projects, or `all`"
    )
    names: Globs = Field(
        default="", description="globs, as a list or separated by commas: only projects whose name or slug matches"
    )
    exclude: Globs = Field(default="", description="globs in the same form: projects to leave out")
    credential: Annotated[str, AfterValidator(normalise_name)] = Field(
        default="default", description="credential of the new requests"
    )
    batch: Text | None = Field(default=None, max_length=200, description="batch of the new requests")
    on_gone: Annotated[Literal["nothing", "remove"], Choice] = Field(
        default="nothing",
        description="what to do with the requests of a project that was deleted in Infisical: `nothing`, or `remove`",
    )

    @property
    def seconds(self) -> float | None:
        """The period in seconds; None if it is off."""
        return seconds_of(self.every)


class Verify(Section):
    """Whether recorded connections are continuously compared with Infisical."""

    every: Period = Field(
        default="off",
        description="how often to compare all recorded connections with Infisical, such as `1d`; or `off`",
    )

    @property
    def seconds(self) -> float | None:
        """The period in seconds; None if it is off."""
        return seconds_of(self.every)


class Log(Section):
    """What is written to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], Choice] = Field(
        default="info", description="lowest level that is logged: `debug`, `info`, `warning`, `error` or `critical`"
    )
    format: Annotated[Literal["auto", "console", "json"], Choice] = Field(
        default="auto", description="`console`, `json`, or `auto`: console on a terminal, otherwise json"
    )


class Sections(Section):
    """All sections; targets and credentials can have any number of names."""

    database: Database = Database()
    targets: dict[str, Target]
    credentials: dict[str, Credential]
    openrouter: Openrouter = Openrouter()
    retry: Retry = Retry()
    worker: Worker = Worker()
    listen: Listen = Listen()
    sealing: Sealing = Sealing()
    notify: Notify = Notify()
    discover: Discover = Discover()
    verify: Verify = Verify()
    log: Log = Log()
