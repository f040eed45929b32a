"""The proxies in the environment, interpreted as curl does.

`https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` are read first in lower case, then in upper case. This machine
itself is never reached through a proxy unless the setting `proxy` says so.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from provisioner.core.secret import Secret
from provisioner.settings.layers import Given
from provisioner.settings.sections import OPENROUTER
from provisioner.settings.shape import Setting
from provisioner.settings.values import is_loopback

REACHED: Final = frozenset({"targets", "notify", "openrouter"})  # the sections of addresses that are reached by HTTP
VARIABLES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")  # and the same in lower case
PORTS: Final = {"https": 443, "http": 80}


class Proxy(NamedTuple):
    """A proxy's URL, which may contain a password, and the variable that names it."""

    url: str
    variable: str


def proxies_of(given: Mapping[Setting, Given], environ: Mapping[str, str]) -> dict[Setting, Given]:
    """Return the environment's proxy for each address that has none of its own, named by its variable."""
    found = {}
    usual = {("openrouter", "url"): Given(OPENROUTER, "openrouter.url", "default")}
    for setting, url in (usual | dict(given)).items():
        if setting[0] not in REACHED or setting[-1] != "url" or (*setting[:-1], "proxy") in given:
            continue
        text = url.value.reveal() if isinstance(url.value, Secret) else str(url.value)
        if proxy := proxy_for(text, environ):
            found[*setting[:-1], "proxy"] = Given(Secret(proxy.url), proxy.variable, f"environment {proxy.variable}")
    return found


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a URL; None for a direct connection."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or parts.scheme not in PORTS or is_loopback(host):
        return None
    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if any(_covers(entry, host, port or PORTS[parts.scheme]) for entry in re.split(r"[,\s]+", excepted) if entry):
        return None
    for variable in _variables(parts.scheme, environ):
        if value := environ.get(variable, "").strip():
            return Proxy(value if "://" in value else f"http://{value}", variable)
    return None


def _variables(scheme: str, environ: Mapping[str, str]) -> list[str]:
    names = [f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    # A CGI server copies the `Proxy` header of a request, which anybody can send, into HTTP_PROXY.
    return [name for name in names if name != "HTTP_PROXY" or "REQUEST_METHOD" not in environ]


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether an entry of `no_proxy` covers this host: `*`, a domain, an address or a network, perhaps with a port."""
    if entry == "*":
        return True
    name, wanted = _split(entry)
    if wanted is not None and wanted != port:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        domain = name.lower().removeprefix("*").strip(".")
        asked = host.lower().rstrip(".")
        return bool(domain) and (asked == domain or asked.endswith(f".{domain}"))
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def _split(entry: str) -> tuple[str, int | None]:
    """Split an entry into host and port; an IPv6 address contains colons itself."""
    match = re.fullmatch(r"\[([^\]]*)\](?::([0-9]{1,5}))?|([^:]*):([0-9]{1,5})", entry)
    if match is None:
        return entry, None
    name, port = (match[1], match[2]) if match[3] is None else (match[3], match[4])
    return name, int(port) if port else None
