"""How many files and sockets this process may have open, and how they are shared out.

Each target keeps connections of its own. With many targets they would take what the database, the status port and files
need, and whatever then fails would be blamed on somebody else.
"""

import contextlib
import resource
from typing import Final

# More than any host has a use for; a limit of a billion, which some container runtimes give, is a loop for others.
ENOUGH: Final = 2**20
# Besides the connections to Infisical and to the database: the status port's 64, name look-ups, files, the event loop.
RESERVED: Final = 128
FEWEST: Final = 2  # connections of a target: a create, and a login or a look-up beside it


def current_limit() -> int:
    """How many may be open now."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def highest_limit() -> int:
    """How far the limit can be raised without anybody's help."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def raise_limit() -> None:
    """Raise the limit of this process as far as it may."""
    if current_limit() < highest_limit():
        with contextlib.suppress(ValueError, OSError):  # macOS has a further limit of its own
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest_limit(), hard))


def _number(limit: int) -> int:
    return ENOUGH if limit == resource.RLIM_INFINITY else min(limit, ENOUGH)


def connections_each(limit: int, *, targets: int, database: int) -> int:
    """How many connections each target may have, with so many descriptors and connections to the database."""
    return max(FEWEST, (limit - RESERVED - database) // max(1, targets))


def least_limit(*, targets: int, database: int) -> int:
    """The limit below which the targets cannot even have `FEWEST` connections each."""
    return RESERVED + database + FEWEST * targets
