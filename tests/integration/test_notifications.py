"""Notices are sent once for the whole fleet, whichever worker dies, and whatever the receiver does."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from provisioner.core.notices import Delivery, trial_notice
from provisioner.core.secret import Secret
from provisioner.notify.notifier import Notifier
from provisioner.notify.receiver import HttpReceiver, ReceiverOptions
from provisioner.postgres.notices import NoticeBoard, read_undelivered
from provisioner.postgres.pool import Database
from provisioner.postgres.reports import read_status
from provisioner.sandbox.simulator import Options
from provisioner.service import run_daemon
from tests.support import eventually
from tests.support.certificates import authority, issued
from tests.support.cli import provisioner, query
from tests.support.fleet import Fleet
from tests.support.operators import ask, finish
from tests.support.receiver import Manner, Receiver
from tests.support.sessions import connected
from tests.support.ways import daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.postgres import Database as Lent

ALL = ("batch_finished", "needs_attention", "recovered")
# As if the last check were an hour ago: a turn is due, and what ended since is reported.
TURN = (
    "UPDATE provisioner.notice_turn SET (checked_at, since) = (now() - interval '1 hour', now() - interval '2 hours')"
)
EARLIER = "UPDATE provisioner.counts SET ended_at = ended_at - interval '1 minute'"


@asynccontextmanager
async def boards(lent: Lent, number: int = 1) -> AsyncIterator[list[NoticeBoard]]:
    """As many workers' outboxes, each with a pool of its own."""
    pools = [Database(lent.url, size=2) for _ in range(number)]
    try:
        yield [NoticeBoard(pool, events=ALL, read_status=partial(read_status, pool, batches=0)) for pool in pools]
    finally:
        for pool in pools:
            await pool.close()


def a_finished_batch(database: Lent, batch: str = "b", failed: int = 0) -> None:
    """A batch that ended a minute ago, and was not reported."""
    ids = ask(database, 3 + failed, batch=f"'{batch}'")
    finish(database, ids[:3])
    if failed:
        finish(database, ids[3:], "failed", "name_conflict")
    query(database, "SELECT provisioner.fold_counts(1000)")
    query(database, EARLIER)
    query(database, TURN)


async def taken(board: NoticeBoard) -> list[Delivery]:
    """Everything that is due."""
    found = []
    while (delivery := await board.take()) is not None:
        found.append(delivery)
    return found


def a_delivery() -> Delivery:
    """A notice to deliver."""
    return Delivery(id="7", notice=trial_notice(), noticed_at=datetime.now(UTC), age=timedelta(0), tries=1)


class TestReceiver:
    """The receiver's possible behaviour."""

    @pytest.mark.parametrize(
        ("manner", "reason"),
        [
            ("accept", ""),
            ("fail", "the receiver answered 503, an error"),
            ("redirect", "the receiver answered 307, a redirect, which is not followed"),
            ("hang", "no answer within 0.5 s"),
            ("reset", "the connection failed"),
            ("garble", "the connection failed"),
        ],
    )
    async def test_what_it_does_is_told_in_words(self, manner: Manner, reason: str) -> None:
        """Each delivery ends in time, is one call, and its reason names no address."""
        async with Receiver(manner) as receiver:
            options = ReceiverOptions(url=Secret(receiver.url), form="json", timeout=0.5)
            said = await HttpReceiver(options).deliver(a_delivery())
            assert said.startswith(reason)
            assert bool(said) == bool(reason)
            assert "planted" not in said
            assert [each.path for each in receiver.got] == ["/hook/planted"]

    async def test_nobody_there(self) -> None:
        """A refused connection is a reason, and no address is in it."""
        async with Receiver() as receiver:
            url = receiver.url
        said = await HttpReceiver(ReceiverOptions(url=Secret(url), form="json")).deliver(a_delivery())
        assert said.startswith("the connection failed")

    async def test_the_signature_is_that_of_the_bytes(self) -> None:
        """A receiver with the key can verify the body's signature; a key in a file is read each time."""
        keys = iter([Secret("first"), Secret("second")])
        async with Receiver() as receiver:
            options = ReceiverOptions(url=Secret(receiver.url), form="json", signing_key=lambda: next(keys))
            for _ in range(2):
                assert not await HttpReceiver(options).deliver(a_delivery())
            for key, got in zip((b"first", b"second"), receiver.got, strict=True):
                wanted = hmac.new(key, got.body, hashlib.sha256).hexdigest()
                assert got.headers["provisioner-signature"] == f"sha256={wanted}"
                assert (got.headers["provisioner-event"], got.headers["provisioner-notice"]) == ("test", "7")

    async def test_certificates_are_checked(self, tmp_path: Path) -> None:
        """A receiver of an unknown authority gets nothing; with `ca_file` it does."""
        root = authority(tmp_path, "root")
        certificate = issued(tmp_path, "receiver", root)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        async with Receiver(tls=context) as receiver:
            url = Secret(receiver.url)
            said = await HttpReceiver(ReceiverOptions(url=url, form="json")).deliver(a_delivery())
            assert said == "the receiver's certificate is not trusted"
            assert receiver.got == []
            known = ReceiverOptions(url=url, form="json", ca_file=str(root.cert))
            assert not await HttpReceiver(known).deliver(a_delivery())

    async def test_a_proxy_is_asked(self) -> None:
        """A notice through a proxy arrives there first."""
        async with Receiver("fail") as proxy:
            options = ReceiverOptions(
                url=Secret("http://receiver.invalid/hook"), form="json", proxy=Secret(proxy.url.rsplit("/hook")[0])
            )
            assert await HttpReceiver(options).deliver(a_delivery()) == "the receiver answered 503, an error"
            assert [each.path for each in proxy.got] == ["http://receiver.invalid/hook"]


class TestOutbox:
    """Which events are noticed, and by which worker."""

    async def test_one_of_the_fleet_notices(self, database: Lent) -> None:
        """However many workers check at once, one takes the turn, and there is one notice."""
        a_finished_batch(database, failed=2)
        async with boards(database, 4) as fleet:
            assert sorted(await asyncio.gather(*(board.collect() for board in fleet))) == [False, False, False, True]
            events = [delivery.notice.event.value for delivery in await taken(fleet[0])]
            assert sorted(events) == ["batch_finished", "needs_attention"]
            query(database, TURN)
            assert await fleet[1].collect()
            assert await taken(fleet[1]) == []

    async def test_an_idle_worker_writes_nothing(self, database: Lent) -> None:
        """The other workers run one statement, which changes no row."""
        async with boards(database, 2) as (one, other):
            query(database, TURN)
            assert await one.collect()
            before = query(database, "SELECT xmin, ctid FROM provisioner.notice_turn")
            assert not await other.collect()
            assert query(database, "SELECT xmin, ctid FROM provisioner.notice_turn") == before

    async def test_what_a_dead_worker_took_is_sent_by_another(self, database: Lent) -> None:
        """The same notice, with the same id, is due again when its lease has expired, and not before."""
        a_finished_batch(database)
        async with boards(database, 2) as (one, other):
            await one.collect()
            (mine,) = await taken(one)
            assert await taken(other) == []
            query(database, "UPDATE provisioner.notices SET due_at = now()")
            (theirs,) = await taken(other)
            assert (theirs.id, theirs.notice, theirs.tries) == (mine.id, mine.notice, 2)
            await other.sent(theirs)
            await one.failed(mine, reason="late", pause=0.0)  # a worker that was frozen meanwhile changes nothing
            assert await taken(one) == []

    async def test_a_worker_that_dies_before_the_commit_has_noticed_nothing(
        self, database: Lent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Alerts and notices are stored in one transaction: after a failure the next worker notices everything."""
        a_finished_batch(database, failed=1)
        async with boards(database, 2) as (one, other):

            async def die(*_: object) -> None:
                raise RuntimeError

            with monkeypatch.context() as dying:
                dying.setattr(one, "_enqueue", die)
                with pytest.raises(RuntimeError):
                    await one.collect()
            query(database, TURN)
            assert await other.collect()
            assert len(await taken(other)) == 2

    async def test_a_worker_that_was_frozen_on_its_turn_notices_nothing(self, database: Lent) -> None:
        """Its status is outdated, because another worker has taken the turn since."""
        a_finished_batch(database)
        async with boards(database, 2) as (frozen, other):
            real = frozen._read_status

            async def slow() -> object:
                seen = await real()
                query(database, TURN)
                assert await other.collect()
                return seen

            frozen._read_status = slow  # type: ignore[assignment]
            assert not await frozen.collect()
            assert len(await taken(other)) == 1

    async def test_a_batch_that_goes_on_is_told_again(self, database: Lent) -> None:
        """Each end is reported once; earlier ends are ignored."""
        async with boards(database) as (board,):
            ids = ask(database, 2, batch="'old'")
            finish(database, ids)
            assert await board.collect()  # the first check ever
            query(database, TURN.replace("2 hours", "0 hours"))
            assert await board.collect()
            assert await taken(board) == []
            a_finished_batch(database)
            query(database, TURN.replace("now() - interval '2 hours'", "now() - interval '70 seconds'"))
            query(database, "UPDATE provisioner.counts SET ended_at = now() - interval '1 hour' WHERE batch = 'old'")
            await board.collect()
            (first,) = await taken(board)
            assert first.notice.batch is not None
            assert (first.notice.batch["name"], first.notice.batch["requests"]) == ("b", 3)
            (more,) = ask(database, batch="'b'", name="'another'")
            query(database, TURN)
            await board.collect()
            finish(database, [more])
            query(database, f"SELECT provisioner.fold_counts(1000); {TURN}")
            await board.collect(last=True)
            assert [
                each.notice.batch["requests"]
                for each in await taken(board)
                if each.notice.batch and each.notice.batch["name"] == "b"
            ] == [4]


async def test_a_receiver_that_fails_is_tried_again_and_hears_it_once(database: Lent) -> None:
    """Nothing is dropped while deliveries fail; when the receiver accepts, it gets one notice, from one worker."""
    a_finished_batch(database)
    heard: list[str] = []
    async with Receiver("fail") as receiver, boards(database) as (board,), connected(database.url) as session:
        pool = Database(database.url, size=1)
        notifier = Notifier(
            board,
            HttpReceiver(ReceiverOptions(url=Secret(receiver.url), form="json")),
            heard=heard.append,
            every=0.05,
        )
        running = asyncio.create_task(notifier.run())
        try:
            await eventually(lambda: heard == ["failed"])
            left = await read_undelivered(pool)
            assert (left.notices, left.error) == (1, "the receiver answered 503, an error")
            receiver.manner = "accept"
            await session.execute("UPDATE provisioner.notices SET due_at = now()")
            await session.execute(TURN)
            await eventually(lambda: heard == ["failed", "sent"])
            assert len({each.content["id"] for each in receiver.got}) == 1
            assert (await read_undelivered(pool)).notices == 0
        finally:
            running.cancel()
            await pool.close()


async def test_a_run_that_ends_tells_before_it_goes(database: Lent) -> None:
    """A drain reports its result, though no later check will see the batch quiet."""
    ask(database, 3, batch="'first'")
    ask(database, 2, batch="'first'", credential="'nobody'")
    async with Fleet(database.url, Options(any_project=True)) as fleet, Receiver() as receiver:
        await run_daemon(fleet.settings(PROVISIONER_NOTIFY__URL=receiver.url), drain=True)
        told = {got.content["event"]: got.content for got in receiver.got}
    assert told.keys() == {"batch_finished", "needs_attention"}
    assert (told["batch_finished"]["batch"]["succeeded"], told["batch_finished"]["batch"]["failed"]) == (3, 2)
    assert told["needs_attention"]["concern"]["subject"] == "credential_unknown"


async def test_requests_do_not_wait_for_a_receiver_that_hangs(database: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a notice is being delivered, requests are worked on, and a run ends in time."""
    monkeypatch.setattr("provisioner.notify.notifier.SIGN_OFF_TIMEOUT", 0.2)
    a_finished_batch(database, "before")
    async with Fleet(database.url, Options(any_project=True), way=daemon) as fleet, Receiver("hang") as receiver:
        await fleet.start(PROVISIONER_NOTIFY__URL=receiver.url)
        await eventually(lambda: receiver.got)
        ask(database, 5, batch="'second'")
        await fleet.done()
        assert await fleet.states() == {"succeeded": 8}
        await fleet.stop()
        assert [got.content["batch"]["name"] for got in receiver.got] == ["before"]


@pytest.mark.parametrize(("manner", "verdict"), [("accept", "ok"), ("redirect", "problem")])
async def test_doctor_sends_a_trial(database: Lent, manner: Manner, verdict: str) -> None:
    """`doctor --notify` reports whether a test notice arrives; without it, the receiver."""
    async with Receiver(manner) as receiver:
        more = {"PROVISIONER_NOTIFY__URL": receiver.url, "INFISICAL_HOST": "http://127.0.0.1:9"}
        ask_doctor = partial(provisioner, database=database, more=more)
        document = json.loads((await asyncio.to_thread(ask_doctor, "doctor", "--notify", "--json")).stdout)
        (check,) = [each for each in document["checks"] if each["name"] == "notify"]
        assert check["verdict"] == verdict
        assert [got.content["event"] for got in receiver.got] == ["test"]
        said = (await asyncio.to_thread(ask_doctor, "doctor")).stdout
        assert "localhost receives batch_finished, needs_attention, recovered; not signed" in said
        assert "planted" not in said + str(document)
