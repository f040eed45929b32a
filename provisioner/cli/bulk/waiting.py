"""Wait until the requests of a file have ended, or until only a person can bring them further."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from provisioner.cli.bulk.live import watch
from provisioner.cli.terminal.output import console
from provisioner.core.errors import DatabaseUnavailable
from provisioner.core.reports import Leftovers
from provisioner.postgres.onboarding import standing, tally

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database

LOOK: Final = 1.0  # seconds between two looks
PATIENCE: Final = 30.0  # seconds without a worker: one that is restarted is back by then


async def wait(database: "Database", ids: Sequence[int], *, sees_all: bool, quiet: bool) -> Leftovers:
    """Show how far they are, and tell what is left in the end; who does not `sees_all` waits for every one of them."""
    showing = None
    if sees_all and not quiet:
        showing = asyncio.create_task(watch(database, ids, console(stderr=True)), name="progress")
    try:
        return await _ended(database, ids, sees_all=sees_all)
    finally:
        if showing is not None:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing


async def _ended(database: "Database", ids: Sequence[int], *, sees_all: bool) -> Leftovers:
    served = time.monotonic()
    while True:
        with suppress(DatabaseUnavailable):
            if not sees_all:
                done = await tally(database, ids, own=True)
                if not done.pending:
                    return Leftovers(succeeded=done.succeeded, failed=dict(done.failed))
            else:
                left = await standing(database, ids)
                if not left.unserved:
                    served = time.monotonic()
                if not left.unfinished and (not left.unserved or time.monotonic() - served > PATIENCE):
                    return left
        await asyncio.sleep(LOOK)
