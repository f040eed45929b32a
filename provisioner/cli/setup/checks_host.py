"""The checks of `doctor` that are about this host: open files, and the way out to Infisical."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from provisioner.cli.setup.checks import Check, ok, problem, warning

if TYPE_CHECKING:
    from provisioner.settings import Settings

USUAL: Final = 16  # connections to one target that are enough for what it bears
OWN: Final = 2  # connections to the database besides the pool's


def check_files(settings: "Settings") -> Iterator[Check]:
    """Check that this process may have as many files open as its targets need."""
    from provisioner.descriptors import connections_each, highest_limit, least_limit

    targets, database = len(settings.targets), settings.database.max_connections + OWN
    limit, least = highest_limit(), least_limit(targets=targets, database=database)
    each = connections_each(limit, targets=targets, database=database)
    count = f"{targets:,} {'target' if targets == 1 else 'targets'}"
    raise_it = "raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit of Docker)"
    if limit < least:
        said = f"this process may open {limit:,} files and connections, and {count} need at least {least:,}"
        yield problem("files", said, raise_it)
    elif each < USUAL:
        said = f"this process may open {limit:,} files and connections: {each:,} connections for each of {count}"
        yield warning("files", said, raise_it)
    else:
        yield ok("files", f"this process may open {limit:,} files and connections, enough for {count}")


def check_proxy(settings: "Settings", name: str) -> Iterator[Check]:
    """Tell through which proxy a target is reached, if any; a password in its URL is not shown."""
    if via := through(settings, name):
        yield ok("proxy", f"{name} is reached {via}")


def through(settings: "Settings", name: str) -> str:
    """Say through which proxy a target is reached, and what says so; empty if it is reached directly."""
    proxy = settings.targets[name].proxy
    if proxy is None:
        return ""
    parts = urlsplit(proxy.reveal())
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    source = settings.sources().get(f"targets.{name}.proxy", "")
    return f"through the proxy {parts.scheme}://{host}{port} ({source})"
