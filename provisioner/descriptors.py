"""Share out the files and sockets that this process may have open.

Each target keeps its own connections. Many targets could take what the database, the status port and files need, and
the resulting errors would point to something else.
"""

import contextlib
import resource
from typing import Final

# More than any host needs; a limit of a billion, as in some container runtimes, makes other programs loop.
ENOUGH: Final = 2**20
# Besides the connections to Infisical and the database: the status port's 64, name look-ups, files, the event loop.
RESERVED: Final = 128
FEWEST: Final = 2  # connections of a target: a create, and a login or a look-up beside it


def current_limit() -> int:
    """Return how many may be open now."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def highest_limit() -> int:
    """Return how far this process can raise the limit itself."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def raise_limit() -> None:
    """Raise this process's limit as far as possible."""
    if current_limit() < highest_limit():
        with contextlib.suppress(ValueError, OSError):  # macOS has another limit of its own
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest_limit(), hard))


def _number(limit: int) -> int:
    return ENOUGH if limit == resource.RLIM_INFINITY else min(limit, ENOUGH)


def connections_each(limit: int, *, targets: int, database: int) -> int:
    """Return how many connections each target may have, given the limit and the database's connections."""
    return max(FEWEST, (limit - RESERVED - database) // max(1, targets))


def least_limit(*, targets: int, database: int) -> int:
    """Return the lowest limit that gives each target `FEWEST` connections."""
    return RESERVED + database + FEWEST * targets
