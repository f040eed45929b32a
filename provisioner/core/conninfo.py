"""Read connection strings as libpq does: the URL form, the keyword form, and the meaning of each parameter.

Pure: nothing is looked up. Messages never repeat a value, because any part of a string may be part of a password.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from provisioner.core.libpq import KEYWORDS

DEFAULT_PORT: Final = 5432
_SCHEME: Final = re.compile(r"postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)  # SQLAlchemy puts its driver's name there
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}")
_PAIR: Final = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:\\.|[^'\\])*)'|((?:\\.|[^\s'\\])*))(?=\s|$)", re.DOTALL)
_ENCODE: Final = (
    "cannot be read: percent-encode the password (@ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25)"
)
_ADVICE: Final = "remove it; a server setting is written as options=-c%20NAME%3DVALUE"


class ConninfoError(ValueError):
    """What is wrong with a connection string, as the predicate of a sentence. `subject` replaces "the string"."""

    def __init__(self, rule: str, *, subject: str | None = None) -> None:
        super().__init__(f"{subject} {rule}" if subject else rule)
        self.rule = rule
        self.subject = subject


NUMBERS: Final = ("connect_timeout", "tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
_SECRETS: Final = ("password", "sslpassword")


def parse(text: str) -> dict[str, str]:
    """Parse a connection string and check the name and value of every parameter.

    Strips white space and quotes that a shell or an editor left around the string. Raises `ConninfoError`.
    """
    text = unwrapped(text)
    if scheme := _SCHEME.match(text):
        given = _parse_url(text[scheme.end() :])
    elif "://" in text or "=" not in text:
        raise ConninfoError("must begin with postgresql://, such as postgresql://provisioner@localhost/provisioner")
    else:
        given = _parse_pairs(text)
    for host in given.get("host", "").split(",") + given.get("hostaddr", "").split(","):
        _check_host(host)
    for port in given.get("port", "").split(","):
        _port(port)
    for name in NUMBERS:
        number_of(given, name)
    return checked(given)


def unwrapped(text: str) -> str:
    """Strip white space and quotes around the string."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def checked(given: Mapping[str, str], *, variables: bool = False, subject: str | None = None) -> dict[str, str]:
    """Check parameters and drop the empty ones. Raises `ConninfoError` for those that cannot be honoured.

    `variables`: they are environment variables, and messages use those names. `subject` names another source.
    """
    kept = {}
    for name, value in given.items():
        keyword = KEYWORDS[name]
        if not value:  # libpq ignores empty values too
            continue
        who = keyword.variable if variables else subject
        if keyword.how == "refused" and value not in keyword.values:
            rule = "has a value that" if variables else f"has the parameter {name}, which"
            raise ConninfoError(f"{rule} cannot be obeyed: {keyword.note}", subject=who)
        if keyword.how == "obeyed" and keyword.values and value not in keyword.values:
            choice = ", ".join(sorted(keyword.values))
            raise ConninfoError(
                f"has a wrong value{'' if variables else f' of {name}'}: it must be one of {choice}", subject=who
            )
        if keyword.how != "refused":
            kept[name] = value
    return kept


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Read libpq's own environment variables. Raises `ConninfoError`."""
    found = {
        keyword.name: environ[keyword.variable]
        for keyword in KEYWORDS.values()
        if keyword.variable and environ.get(keyword.variable)
    }
    return checked(found, variables=True)


def from_service(name: str, text: str, file: str) -> dict[str, str] | None:
    """Return the parameters of a service in a service file; None if it has no such service. Raises `ConninfoError`."""
    section = ""
    found: dict[str, str] | None = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[]").strip()
            found = {} if section == name and found is None else found
        elif section == name and found is not None and line and not line.startswith("#"):
            key, equals, value = (part.strip() for part in line.partition("="))
            if not equals or key not in KEYWORDS or key in {"service", "servicefile"}:
                raise ConninfoError(
                    f"has a parameter {_safe(key)} that is unknown", subject=f"service {name} in {file}"
                )
            found.setdefault(key, value)
    return None if found is None else checked(found, subject=f"service {name} in {file}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A server to try: its name, its address (which may differ), and its port."""

    name: str
    address: str
    port: int

    @property
    def is_socket(self) -> bool:
        """Whether it is the directory of a socket."""
        return self.address.startswith("/")


def hosts_of(parameters: Mapping[str, str], default: tuple[str, ...]) -> list[Host]:
    """Return the servers that are named, in order, or `default` if there are none. Raises `ConninfoError`."""
    names = parameters["host"].split(",") if "host" in parameters else []
    addresses = parameters["hostaddr"].split(",") if "hostaddr" in parameters else []
    if names and addresses and len(names) != len(addresses):
        raise ConninfoError(
            f"names {len(names)} hosts and {len(addresses)} of hostaddr: there must be one for each host"
        )
    count = max(len(names), len(addresses))
    ports = parameters["port"].split(",") if "port" in parameters else [""]
    if len(ports) not in {1, max(count, 1)}:
        raise ConninfoError(
            f"names {max(count, 1)} hosts and {len(ports)} ports: there must be one for all, or one for each"
        )
    numbers = [_port(port) for port in ports] * (1 if len(ports) > 1 else max(count, 1))
    found = []
    for index, port in enumerate(numbers):
        name = names[index] if names else ""
        address = (addresses[index] if addresses else "") or name
        choices = (address,) if address else default
        found += [Host(name=name or choice, address=choice, port=port) for choice in choices]
    for host in found:
        _check_host(host.address)
    return found


def number_of(parameters: Mapping[str, str], name: str, *, least: int = 0) -> int | None:
    """Read a parameter that is a whole number. Raises `ConninfoError`."""
    text = parameters.get(name)
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", text.strip()):
        raise ConninfoError(f"has a {name} that is not a whole number")
    return max(int(text), least)


def _parse_url(text: str) -> dict[str, str]:
    end = next((place for place, letter in enumerate(text) if letter in "/?"), len(text))
    authority, rest = text[:end], text[end:]
    path, _, query = rest.partition("?")
    if authority.count("@") > 1 or "@" in path or re.search(r"\s", text):
        raise ConninfoError(_ENCODE if "@" in text else "contains white space: percent-encode it as %20")
    login, _, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    given = {"user": _decoded(user), "password": _decoded(password), "dbname": _decoded(path[1:])}
    try:
        names, ports = zip(*map(_host, hosts.split(",")), strict=True)
    except ConninfoError:
        # The part before the first / or ? may have been meant as user and password.
        raise (
            ConninfoError(_ENCODE) if "@" in rest else ConninfoError("names a host or port that cannot be read")
        ) from None
    given |= {"host": ",".join(names) if any(names) else "", "port": ",".join(ports) if any(ports) else ""}
    given |= dict(_parse_query(query)) if query else {}
    return given


def _host(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::([0-9]*))?", text)
    if match is None:
        raise ConninfoError(_ENCODE)
    return _decoded(match[1] or match[2] or ""), match[3] or ""


def _parse_query(query: str) -> Iterator[tuple[str, str]]:
    secret = False  # an unknown name may be the rest of a password that contains &
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if (name, value) == ("ssl", "true"):  # JDBC's spelling, which libpq accepts too
            name, value = "sslmode", "require"
        if not equals or name not in KEYWORDS:
            if "@" in query:
                raise ConninfoError(_ENCODE)
            if secret:
                raise ConninfoError("cannot be read after its password: percent-encode it (& as %26, = as %3D)")
            raise ConninfoError(f"has a parameter {_safe(name)} that is unknown: {_ADVICE}")
        secret = secret or name in _SECRETS
        yield name, _decoded(value)


def _parse_pairs(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    place = 0
    while text[place:].strip():
        match = _PAIR.match(text, place)
        if match is None:
            raise ConninfoError("cannot be read as host=… dbname=…: put values with spaces into single quotes")
        name, place = match[1], match.end()
        if name not in KEYWORDS:
            if any(secret in given for secret in _SECRETS):
                raise ConninfoError("cannot be read after its password: put it into single quotes")
            raise ConninfoError(
                f"has a parameter {_safe(name)} that is unknown: {_ADVICE.replace('%20', ' ').replace('%3D', '=')}"
            )
        given[name] = re.sub(r"\\(.)", r"\1", match[2] if match[2] is not None else match[3], flags=re.DOTALL)
    return given


def _decoded(text: str) -> str:
    def octet(match: re.Match[bytes]) -> bytes:
        return bytes([int(match[1], 16)])

    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise ConninfoError(_ENCODE)
    try:
        return re.sub(rb"%([0-9A-Fa-f]{2})", octet, text.encode()).decode()
    except UnicodeError:
        raise ConninfoError("has percent-encoded text that is not UTF-8") from None


def _port(text: str) -> int:
    if not text.strip():
        return DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,5}", text.strip()) or not 0 < int(text) < 2**16:
        raise ConninfoError("has a port that is not a number from 1 to 65535")
    return int(text)


def _check_host(text: str) -> None:
    if text.startswith("@"):
        raise ConninfoError("names an abstract socket, which cannot be used: name a host or a directory")
    if not text.startswith("/") and (not text.isprintable() or re.search(r"[\s@/?#%]", text.partition("%")[0])):
        raise ConninfoError(_ENCODE)
    if not text.startswith("/"):
        try:
            text.encode("idna")
        except UnicodeError:
            raise ConninfoError("has an impossible host name") from None


def _safe(name: str) -> str:
    return name if _NAME.fullmatch(name) else "(not shown)"
