"""Hear of new requests at once, by `LISTEN` on a connection of its own.

Optional: polling finds them too, a little later.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type
from tenacity.wait import wait_exponential, wait_random

from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable
from provisioner.core.ports import FRONT, Place
from provisioner.postgres.pool import Database, database_errors

if TYPE_CHECKING:
    import asyncpg

log = structlog.stdlib.get_logger()

CHANNEL: Final = "provisioner"
# A connection that died without a word is found out by a question every so many seconds.
PROBE: Final = 30.0
_RANKS: Final = 2**31 - 1
_TURNS: Final = 2**63 - 1


def read_payload(payload: str) -> dict[str, Place]:
    """Where newcomers stand in line, by target.

    `target,rank,turn;…`. Empty when the payload says nothing that we know: whoever may connect may notify, and a place
    that no column can hold would end every claim in an error.
    """
    places: dict[str, Place] = {}
    for part in payload.split(";"):
        target, _, place = part.partition(",")
        rank, _, turn = place.partition(",")
        try:
            found = Place(int(rank), int(turn))
        except ValueError:
            return {}
        if abs(found.rank) > _RANKS or abs(found.turn) > _TURNS:
            return {}
        places[target] = min(found, places.get(target, found))
    return places


class Listener:
    """Listens for as long as it runs, and comes back after the database does.

    `hear` is called with a target's name, or None for all of them, and the place from which on there is something in
    line.
    """

    def __init__(self, database: Database, *, hear: Callable[[str | None, Place], None]) -> None:
        self._database = database
        self._hear = hear
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailable),
            wait=wait_exponential(multiplier=0.1, max=5.0) + wait_random(0, 0.5),
        )

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                connection: asyncpg.Connection[asyncpg.Record] = await self._retrying.copy()(self._database.connect)
            except DatabaseUnusable as error:
                log.warning("listening_refused", error=str(error))
                return
            try:
                await self._listen(connection)
            except DatabaseUnavailable as error:
                log.debug("listening_interrupted", error=str(error))
            finally:
                connection.terminate()

    async def _listen(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _connection: gone.set())
        with database_errors():
            await connection.add_listener(CHANNEL, self._notified)
            self._hear(None, FRONT)  # whatever was said while nobody listened
            while not gone.is_set():
                try:
                    async with asyncio.timeout(PROBE):
                        await gone.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1", timeout=5.0)

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        places = read_payload(str(payload))
        for target, place in places.items():
            self._hear(target, place)
        if not places:
            self._hear(None, FRONT)
