"""The types of settings, and the checks of their values.

No message repeats the value: it may be a secret in the wrong place.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, PlainValidator, StringConstraints
from pydantic_core import PydanticCustomError

from provisioner.core.conninfo import ConninfoError, parse, unwrapped
from provisioner.core.key_text import NoKey, key_in
from provisioner.core.secret import MASK, Secret

T = TypeVar("T", bound=str | Secret)

UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}  # seconds
MOST_IN_FLIGHT: Final = 4096
UNSET: Final = "\N{EN DASH}"  # what people see where nothing is set
_LIMIT: Final = re.compile(r"([0-9]{1,7})/([0-9]{1,5})?(s|min|h)")
_LIMIT_RULE: Final = '"auto", "none" or a number per time, such as "200/min", "5/s" or "20/10s"'
_EMBEDDED: Final = re.compile(r"embedded(?::(.*))?")
PERIODS: Final = {"min": 60.0, "h": 3600.0, "d": 86400.0}  # seconds
_PERIOD: Final = re.compile(r"([1-9][0-9]{0,3})(min|h|d)")
EVENTS: Final = ("batch_finished", "needs_attention", "recovered")
_EVENTS_RULE: Final = f"must be one or more of {', '.join(EVENTS)}"
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A number of calls per window."""

    permits: int
    window: float  # seconds

    def __str__(self) -> str:
        """Format it as in a setting."""
        for unit in ("h", "min", "s"):
            count = self.window / UNITS[unit]
            if count >= 1 and count.is_integer():
                return f"{self.permits}/{'' if count == 1 else int(count)}{unit}"
        return f"{self.permits}/{self.window:g}s"


def normalise_name(name: str) -> str:
    """Normalise the name of a target or credential for comparison: lower case, `-` for `_`."""
    return name.lower().replace("_", "-")


def refuse(rule: str, *fields: str) -> PydanticCustomError:
    """Return an error that says what a value must be; `fields` are the ones to blame."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "fields": fields})


def parse_limit(given: object) -> RateLimit | Literal["auto", "none"]:
    """Parse a rate limit: `auto`, `none`, or a number per time."""
    if isinstance(given, RateLimit):
        return given
    text = given.strip().lower() if isinstance(given, str) else ""
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    match = _LIMIT.fullmatch(text.replace(" ", ""))
    if match is None or int(match[1]) < 1 or int(match[2] or 1) < 1:
        raise refuse(f"must be {_LIMIT_RULE}")
    return RateLimit(int(match[1]), int(match[2] or 1) * UNITS[match[3]])


def parse_most(given: object) -> int | Literal["auto"]:
    """Parse the number of calls in flight: `auto`, or a number."""
    if isinstance(given, str):
        text = given.strip().lower()
        if text == "auto":
            return "auto"
        given = int(text) if text.isascii() and text.isdigit() else given
    if not isinstance(given, int) or isinstance(given, bool):
        raise refuse('must be a whole number or "auto"')
    if not 1 <= given <= MOST_IN_FLIGHT:
        raise refuse("must be at least 1" if given < 1 else f"must be at most {MOST_IN_FLIGHT}")
    return given


def parse_check(given: object) -> bool | Literal["auto"]:
    """Parse whether keys are checked: `auto`, true or false."""
    text = str(given).strip().lower() if isinstance(given, str | bool) else ""
    if text == "auto":
        return "auto"
    if text not in {"true", "false"}:
        raise refuse('must be "auto", true or false')
    return text == "true"


def _words(given: object, rule: str) -> list[str]:
    """Read a list of words, or a text with commas in between."""
    words = given.split(",") if isinstance(given, str) else given
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise refuse(rule)
    return [word.strip() for word in words if word.strip()]


def parse_globs(given: object) -> str:
    """Read globs: a list, or a text with commas in between."""
    return ", ".join(_words(given, "must be globs, as a list or separated by commas"))


def globs_of(text: str) -> tuple[str, ...]:
    """Split the result of `parse_globs`."""
    return tuple(text.split(", ")) if text else ()


def parse_events(given: object) -> str:
    """Read event names: a list, or a text with commas in between."""
    told = dict.fromkeys(word.lower() for word in _words(given, _EVENTS_RULE))
    if not told or not told.keys() <= set(EVENTS):
        raise refuse(_EVENTS_RULE)
    return ", ".join(told)


def parse_period(given: object) -> str:
    """Parse a period: `off`, or a number of minutes, hours or days."""
    text = given.strip().lower().replace(" ", "") if isinstance(given, str) else ""
    if text != "off" and not _PERIOD.fullmatch(text):
        raise refuse('must be "off", or a time such as "1d", "12h" or "30min"')
    return text


def seconds_of(period: str) -> float | None:
    """Return the seconds in a period; None if it is off."""
    found = _PERIOD.fullmatch(period)
    return int(found[1]) * PERIODS[found[2]] if found else None


def parse_address(text: str) -> tuple[str, int] | None:
    """Split `host:port`; None for `off`. A host in brackets is an IPv6 address."""
    if text.lower() == "off":
        return None
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise refuse('must be host:port, such as 127.0.0.1:9464 or 0.0.0.0:9464, or "off"')
    return match[1].strip("[]"), int(match[2])


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def require_encryption(url: str, rule: str) -> None:
    """Refuse plain `http://` to other hosts."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise refuse(rule, "url")


def _address(text: str) -> str:
    parse_address(text)
    return text.lower()


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    """Split a URL, or say what is wrong with it."""
    wanted = " or ".join(f"{scheme}://" for scheme in schemes)
    problem = refuse(f"must be a URL that begins with {wanted} and names a host")
    # `urlsplit` silently drops line breaks and tabs.
    if not url.isascii() or not url.isprintable() or " " in url:
        raise problem
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise problem from None
    if not usable:
        raise problem
    return parts


def _base_url(url: str) -> str:
    parts = _split(url, ("https", "http"))
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise refuse("must be a plain base URL, without user name, password, query or fragment")
    path = parts.path.rstrip("/").removesuffix("/api").rstrip("/")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    usual = {"https": 443, "http": 80}[parts.scheme]
    port = "" if parts.port in {None, usual} else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{path}"


def same_base(one: str, other: str) -> bool:
    """Tell whether two texts are base URLs of the same Infisical."""
    try:
        return _base_url(one) == _base_url(other)
    except PydanticCustomError:
        return False


def _database_url(secret: Secret) -> Secret:
    secret = _one_line(Secret(unwrapped(secret.reveal())))
    if embedded := _EMBEDDED.fullmatch(secret.reveal()):
        path = Path(os.path.expanduser(embedded[1] or "/"))  # noqa: PTH111 - Path's raises without a home
        if not path.is_absolute():
            raise refuse("must name an absolute path, such as embedded:/var/lib/provisioner/postgres")
        return Secret(f"embedded:{path}" if embedded[1] else "embedded")
    try:
        parse(secret.reveal())
    except ConninfoError as error:
        raise refuse(error.rule) from None
    return secret


def _http_url(secret: Secret) -> Secret:
    _split(secret.reveal(), ("https", "http"))
    return secret


def _key(secret: Secret) -> Secret:
    try:
        return key_in(secret.reveal())
    except NoKey as flaw:
        raise refuse(str(flaw)) from None


def _id(text: str) -> str:
    return _key(Secret(text)).reveal()


def _uuid(text: str) -> str:
    try:
        return str(UUID(_id(text)))
    except ValueError:
        raise refuse(
            "must be the id of a machine identity, a UUID such as 8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11"
        ) from None


def _one_line(given: T) -> T:
    text = given.reveal() if isinstance(given, Secret) else given
    if not text.strip() or not text.isprintable():
        raise refuse("must be one line of printable text and not empty")
    return given


def _lower(given: object) -> object:
    return given.strip().lower() if isinstance(given, str) else given


def _home(given: object) -> object:
    """Expand `~`, and refuse a path that no file system can have."""
    if isinstance(given, Path):
        given = str(given)
    if not isinstance(given, str) or not given or not given.isprintable():
        raise refuse("must be the path of a file")
    return os.path.expanduser(given)  # noqa: PTH111  # Path's raises without a home


def _file(given: Path) -> Path:
    try:
        there = given.is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise refuse("must be the path of an existing file")
    return given


def shown(value: object) -> str | int | float | bool | None:
    """Return a value for programs: secrets masked, None if unset."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, RateLimit | Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"no setting is a {type(value).__name__}")


def displayed(value: object) -> str:
    """Return a value for people: `true`, a dash, a mask."""
    plain = shown(value)
    if plain is None:
        return UNSET
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


Text = Annotated[str, AfterValidator(_one_line)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Z_a-z][0-9A-Z_a-z]*$")]
SecretText = Annotated[Secret, AfterValidator(_one_line)]
KeyText = Annotated[Secret, AfterValidator(_key)]
IdText = Annotated[str, AfterValidator(_id)]
IdentityId = Annotated[str, AfterValidator(_uuid)]
DatabaseUrl = Annotated[Secret, AfterValidator(_database_url)]
HttpUrl = Annotated[SecretText, AfterValidator(_http_url)]
Period = Annotated[str, PlainValidator(parse_period)]
Events = Annotated[str, PlainValidator(parse_events)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Address = Annotated[str, AfterValidator(_address)]
Limit = Annotated[RateLimit | Literal["auto", "none"], PlainValidator(parse_limit)]
Globs = Annotated[str, PlainValidator(parse_globs)]
KeyCheck = Annotated[bool | Literal["auto"], PlainValidator(parse_check)]
InFlight = Annotated[int | Literal["auto"], PlainValidator(parse_most)]
AnyPath = Annotated[Path, BeforeValidator(_home)]
ExistingFile = Annotated[Path, BeforeValidator(_home), AfterValidator(_file)]
Choice = BeforeValidator(_lower)
