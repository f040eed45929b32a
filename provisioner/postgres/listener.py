"""Learn of new requests at once, by `LISTEN` on a connection of its own.

This is optional: polling finds them too, slightly later.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type
from tenacity.wait import wait_exponential, wait_random

from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable, ProvisionerError
from provisioner.core.queue_values import FRONT, QueuePosition
from provisioner.postgres.connector import is_pooled
from provisioner.postgres.pool import Database, database_errors

if TYPE_CHECKING:
    import asyncpg

log = structlog.stdlib.get_logger()

CHANNEL: Final = "provisioner"
# Seconds between two probes that detect a connection that died silently.
PROBE: Final = 30.0
ECHO: Final = 2.0  # seconds that a notification may take through a pooler
# Any role that can connect may notify. Notifications within this time after the last delivery are merged: a poll and a
# claim from the front take some milliseconds each, and people do not notice a tenth of a second.
GATHER: Final = 0.1
DISTINCT: Final = 16  # different payloads; more of them are treated as "anything may have happened"
# Above this many notifications a second, stop listening for a while: receiving them takes much of a core. Polling does.
FLOOD: Final = 2000
PEACE: Final = 10.0
LONGEST_PEACE: Final = 300.0


def read_payload(payload: str) -> dict[str, QueuePosition]:
    """Return the positions of new requests by target.

    The payload is `target,rank,turn;…`. The result is empty for any other payload: anyone may notify, and a position
    that no column can hold would make every claim fail.
    """
    places: dict[str, QueuePosition] = {}
    for part in payload.split(";"):
        target, _, place = part.partition(",")
        rank, _, turn = place.partition(",")
        try:
            found = QueuePosition(int(rank), int(turn))
        except ValueError:
            return {}
        if not (abs(found.rank) < 2**31 and abs(found.turn) < 2**63):
            return {}  # anyone may notify: a position that does not fit the columns is not ours
        places[target] = min(found, places.get(target, found))
    return places


class NotificationsLost(ProvisionerError):
    """A pooler shares sessions, so notifications do not arrive; polling finds new requests."""


async def hears(connection: "asyncpg.Connection[asyncpg.Record]", database: Database) -> bool:
    """Whether another session's notifications reach this one; through a pooler that shares sessions they do not.

    A session's own notifications would arrive even there. A negative answer takes `ECHO` seconds.
    """
    channel, heard = f"{CHANNEL}_{secrets.token_hex(8)}", asyncio.Event()

    def listen(*_: object) -> None:
        heard.set()

    await connection.add_listener(channel, listen)
    try:
        await database.execute("SELECT pg_notify($1, '')", channel)
        async with asyncio.timeout(ECHO):
            await heard.wait()
    except TimeoutError:
        return False
    finally:
        await connection.remove_listener(channel, listen)
    return True


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()


class Listener:
    """Listens while it runs, and reconnects when the database comes back.

    `hear` is called with a target's name, or None for all targets, and the first position at which a request is in
    line. `notified` is called when notifications begin or cease to arrive.
    """

    def __init__(
        self,
        database: Database,
        *,
        hear: Callable[[str | None, QueuePosition], None],
        notified: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._hear = hear
        self._tell_notified = notified
        self._payloads: set[str] = set()
        self._telling = False
        self._told_at = float("-inf")
        self._since, self._number = float("-inf"), 0
        self._flooded = asyncio.Event()
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(DatabaseUnavailable),
            wait=wait_exponential(multiplier=0.1, max=5.0) + wait_random(0, 0.5),
        )

    async def run(self) -> None:
        """Listen until cancelled, or until notifications prove not to arrive: then polling has to do."""
        peace = PEACE
        while True:
            try:
                await self._retrying.copy()(self._listen)
                if self._flooded.is_set():
                    log.warning("notifications_flooded", channel=CHANNEL, listening_again_in=peace)
                    await asyncio.sleep(peace)
                    peace = min(2 * peace, LONGEST_PEACE)
                    self._flooded.clear()
            except (DatabaseUnusable, NotificationsLost) as error:
                log.warning("listening_refused", error=str(error))
                return

    async def _listen(self) -> None:
        """Listen until the connection is lost. Raises `DatabaseUnavailable` if it could not be opened."""
        connection: asyncpg.Connection[asyncpg.Record] = await self._database.connect()
        try:
            gone = asyncio.Event()
            connection.add_termination_listener(lambda _connection: gone.set())
            with self._database.errors():
                if await is_pooled(connection) and not await hears(connection, self._database):
                    raise NotificationsLost
                await connection.add_listener(CHANNEL, self._notified)
            self._hear(None, FRONT)  # notifications may have been missed meanwhile
            self._tell_notified(True)
            try:
                await self._attend(connection, gone)
            except (DatabaseUnavailable, DatabaseUnusable) as error:
                log.debug("listening_interrupted", error=str(error))
        finally:
            self._tell_notified(False)
            connection.terminate()

    async def _attend(self, connection: "asyncpg.Connection[asyncpg.Record]", gone: asyncio.Event) -> None:
        while not gone.is_set() and not self._flooded.is_set():
            try:
                async with asyncio.timeout(PROBE):
                    await first_of(gone, self._flooded)
            except TimeoutError:
                with database_errors():
                    await connection.execute("SELECT 1", timeout=5.0)

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._since > 1.0:
            self._since, self._number = now, 0
        self._number += 1
        if self._number > FLOOD:
            self._flooded.set()
        if len(self._payloads) <= DISTINCT:
            self._payloads.add(str(payload))
        if not self._telling:
            self._telling = True
            loop.call_at(max(now, self._told_at + GATHER), self._tell)

    def _tell(self) -> None:
        """Deliver what arrived since the last delivery, merged."""
        self._telling, self._told_at = False, asyncio.get_running_loop().time()
        payloads, self._payloads = self._payloads, set()
        foremost: dict[str, QueuePosition] = {}
        unknown = len(payloads) > DISTINCT
        for payload in payloads:
            places = read_payload(payload)
            unknown = unknown or not places
            for target, place in places.items():
                foremost[target] = min(place, foremost.get(target, place))
        if unknown:
            self._hear(None, FRONT)
            return
        for target, place in foremost.items():
            self._hear(target, place)
