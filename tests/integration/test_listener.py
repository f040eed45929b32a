"""New requests are noticed at once, and the listener reconnects when the database comes back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.core.queue_values import FRONT, QueuePosition
from provisioner.postgres import listener
from provisioner.postgres.listener import CHANNEL, Listener, read_payload
from provisioner.postgres.migrations import migrate
from provisioner.postgres.pool import Database as Pool
from provisioner.sandbox.postgres import PostgresServer
from tests.support import eventually, majors
from tests.support.builders import project
from tests.support.postgres import Database
from tests.support.sessions import connected, insert

if TYPE_CHECKING:
    from tests.support.sessions import Session

EVERYTHING = (None, FRONT)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """Lend a server that a test may stop."""
    with PostgresServer(settings={"fsync": "off"}, bin_directory=majors.chosen()) as server:
        yield server


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[list[tuple[str | None, QueuePosition]]]:
    """Listen, and provide what arrives; the first event means that anything may have happened before."""
    heard: list[tuple[str | None, QueuePosition]] = []
    ours = Listener(Pool(url, size=1), hear=lambda target, place: heard.append((target, place)))
    task = asyncio.create_task(ours.run(), name="listener")
    try:
        await eventually(lambda: EVERYTHING in heard)
        yield heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class TestPayload:
    """The contents of a notification."""

    @pytest.mark.parametrize(
        ("payload", "places"),
        [
            ("default,0,17", {"default": QueuePosition(0, 17)}),
            ("eu,-5,1;us,3,99", {"eu": QueuePosition(-5, 1), "us": QueuePosition(3, 99)}),
            ("eu,3,1;eu,-2,7;eu,0,1", {"eu": QueuePosition(-2, 7)}),
            ("", {}),
            ("nonsense", {}),
            ("eu,1", {}),
            ("eu,one,2", {}),
            ("eu,0,1;nonsense", {}),
            ("eu,0,1;", {}),
        ],
    )
    def test_is_read_or_taken_for_nothing_known(self, payload: str, places: dict[str, QueuePosition]) -> None:
        """The first position of each target; unknown contents mean that anything may have happened."""
        assert read_payload(payload) == places


class TestListening:
    """With a running database."""

    async def test_an_insert_is_heard_at_once(self, database: Database, session: "Session") -> None:
        """Target and place of the newcomers arrive without anybody looking."""
        async with listening(database.url) as heard:
            heard.clear()
            await insert(session, target="eu", priority=3)
            await eventually(lambda: heard == [("eu", QueuePosition(-3, 1))])

    async def test_each_target_is_told(self, database: Database, session: "Session") -> None:
        """One statement for several targets wakes each of them."""
        async with listening(database.url) as heard:
            heard.clear()
            await session.execute(
                "INSERT INTO provisioner.connection_requests (target, project_id) VALUES ('eu', $1), ('us', $1)",
                project(1),
            )
            await eventually(
                lambda: sorted(heard, key=str) == [("eu", QueuePosition(0, 1)), ("us", QueuePosition(0, 1))]
            )

    async def test_an_unknown_payload_means_everything(self, database: Database, session: "Session") -> None:
        """A payload that is not understood means polling everything."""
        async with listening(database.url) as heard:
            heard.clear()
            await session.execute("SELECT pg_notify($1, 'of a later version')", CHANNEL)
            await eventually(lambda: heard == [EVERYTHING])

    async def test_a_connection_that_is_cut_is_made_again(self, database: Database, session: "Session") -> None:
        """However the session ends, it listens again, and then reports that anything may have happened meanwhile."""
        async with listening(database.url) as heard:
            heard.clear()
            await session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
            await eventually(lambda: heard == [EVERYTHING])
            await insert(session)
            await eventually(lambda: ("default", QueuePosition(0, 1)) in heard)

    async def test_it_ends_when_it_is_cancelled(self, database: Database, session: "Session") -> None:
        """No session is left behind."""
        async with listening(database.url):
            pass
        left = "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        gone: Callable[[], bool | Awaitable[bool]] = partial(session.fetchval, left)
        await eventually(gone)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_it_comes_back_after_the_server_does(own_server: PostgresServer, mode: str) -> None:
    """After a restart or a crash it listens again, and what came meanwhile is not overheard."""
    await migrate(own_server.url())
    async with listening(own_server.url()) as heard:
        heard.clear()
        stop = own_server.stop
        await asyncio.to_thread(stop, "immediate" if mode == "immediate" else "fast")
        assert heard == []
        await asyncio.to_thread(own_server.start)
        await eventually(lambda: heard[-1:] == [EVERYTHING], within=30)
        async with connected(own_server.url()) as session:
            await insert(session)
        await eventually(lambda: ("default", QueuePosition(0, 1)) in heard)


async def test_it_waits_for_a_server_that_is_not_there_yet(own_server: PostgresServer) -> None:
    """Started before the database, it listens as soon as there is one."""
    own_server.stop()
    heard: list[tuple[str | None, QueuePosition]] = []
    ours = Listener(Pool(own_server.url(), size=1), hear=lambda target, place: heard.append((target, place)))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ours.run())
        await asyncio.to_thread(own_server.start)
        await eventually(lambda: heard == [EVERYTHING], within=30)
        task.cancel()


async def test_a_database_that_refuses_us_ends_it(database: Database) -> None:
    """A role that may not connect stops listening and leaves it to polling, instead of retrying for ever."""
    wrong = database.url.replace(database.name, "no_such_database")
    async with asyncio.timeout(10):
        await Listener(Pool(wrong, size=1), hear=lambda *_: None).run()


class TestFlood:
    """A role that may only connect, and notifies without end."""

    async def test_many_are_heard_as_few(self, database: Database, session: "Session") -> None:
        """A thousand notifications, each in a transaction of its own, are passed on a few times."""
        async with listening(database.url) as heard:
            heard.clear()
            for number in range(1000):
                await session.execute(f"NOTIFY {CHANNEL}, 'rubbish {number}'")
            await insert(session, target="eu")
            await eventually(lambda: heard and heard[-1] in {EVERYTHING, ("eu", QueuePosition(0, 1))})
            # There is a tenth of a second between two deliveries: their number depends on the time, not on
            # notifications.
            assert len(heard) < 100

    async def test_places_are_gathered_by_target(self, database: Database, session: "Session") -> None:
        """Of several positions in one commit, each target gets the first, once."""
        async with listening(database.url) as heard:
            heard.clear()
            async with session.transaction():
                for turn in (5, 3, 4):
                    await session.execute("SELECT pg_notify($1, $2)", CHANNEL, f"eu,0,{turn}")
                await session.execute("SELECT pg_notify($1, 'us,1,9')", CHANNEL)
            await eventually(lambda: len(heard) == 2)
            assert sorted(heard, key=str) == [("eu", QueuePosition(0, 3)), ("us", QueuePosition(1, 9))]

    async def test_nobody_listens_to_a_flood(
        self, database: Database, session: "Session", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Above a number of notifications a second, the channel is ignored for a while, and then used again."""
        monkeypatch.setattr(listener, "PEACE", 0.2)
        async with listening(database.url) as heard:
            heard.clear()
            await session.execute(
                f"SELECT pg_notify('{CHANNEL}', 'rubbish ' || n) FROM generate_series(1, {2 * listener.FLOOD}) AS n"
            )
            # A new listener reports that anything may have happened meanwhile.
            await eventually(lambda: heard.count(EVERYTHING) >= 2)
            heard.clear()
            await eventually(_listens(session))
            await insert(session)
            await eventually(lambda: ("default", QueuePosition(0, 1)) in heard or EVERYTHING in heard)
            assert len(heard) < 10


def _listens(session: "Session") -> Callable[[], Any]:
    found = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    return partial(session.fetchval, found)
