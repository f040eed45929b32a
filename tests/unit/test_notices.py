"""Notices report each event once, whatever comes and goes, and contain no text that others wrote."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from provisioner.core.alerts import Alert, Kind, find_alerts
from provisioner.core.notices import (
    FINISHED_DELAY,
    GIVE_UP_AFTER,
    RECOVERY_DELAY,
    Delivery,
    Event,
    Finished,
    KnownAlert,
    Notice,
    decide,
    is_given_up,
    pause_after,
    trial_notice,
)
from provisioner.core.reports import Failures, Unrecorded
from provisioner.core.secret import Secret
from provisioner.notify.bodies import EVENT, ID, SIGNATURE, body_of, format_of, headers_of
from tests.support.builders import NOON, at
from tests.support.status_port import a_status, a_troubled_status

ALL = ("batch_finished", "needs_attention", "recovered")
FAILED = Alert(kind=Kind.FAILED, subject="gave_up", requests=3, said="-")
UNSERVED = Alert(kind=Kind.UNSERVED, subject="eu", requests=2, said="-")
DONE = Finished(batch="b", requests=5, succeeded=3, failed=1, started_at=NOON, ended_at=at(60))
KEY = "sk-or-v1-0123456789abcdef"


def told(
    *steps: tuple[float, list[Alert]], finished: list[Finished] | None = None, events: tuple[str, ...] = ALL
) -> list[tuple[float, str]]:
    """Return what is sent at which second, given what is seen at these seconds, until batches are reported."""
    known: tuple[KnownAlert, ...] = ()
    left = list(finished or [])
    said = []
    for second, present in steps:
        found = decide(known, present, left, events=events, now=at(second))
        known = found.known
        left = [each for each in left if each not in found.batches]
        said += [(second, notice.event.value) for notice in found.notices]
    return said


class TestConcerns:
    """Alerts that need a person."""

    def test_is_told_once_and_its_end_once(self) -> None:
        """A failure is reported at once and only once; its recovery is reported after half a minute."""
        steps = [(0, [FAILED]), (10, [FAILED]), (20, []), (40, []), (20 + 30, []), (60, []), (70, [FAILED])]
        assert told(*[(float(second), present) for second, present in steps]) == [
            (0, "needs_attention"),
            (50, "recovered"),
            (70, "needs_attention"),
        ]

    def test_a_moment_without_it_is_no_recovery(self) -> None:
        """A request that is retried and fails again is the same alert."""
        assert told((0, [FAILED]), (10, []), (20, [FAILED]), (30, []), (45, [FAILED])) == [(0, "needs_attention")]

    def test_a_target_without_workers_for_a_moment_is_nobodys_concern(self) -> None:
        """Workers that are being replaced leave a target alone for seconds; a minute is reported."""
        assert told((0, [UNSERVED]), (50, [UNSERVED]), (55, []), (100, [])) == []
        assert told((0, [UNSERVED]), (59, [UNSERVED]), (60, [UNSERVED]), (70, [UNSERVED])) == [(60, "needs_attention")]

    def test_each_cause_is_a_concern_of_its_own(self) -> None:
        """Another error code is news, though something has failed before."""
        other = replace(FAILED, subject="name_conflict")
        assert told((0, [FAILED]), (10, [FAILED, other])) == [(0, "needs_attention"), (10, "needs_attention")]

    @given(st.lists(st.booleans(), max_size=60))
    def test_attention_and_recovery_take_turns(self, seen: list[bool]) -> None:
        """However it comes and goes, nobody hears of it twice without hearing of its end."""
        events = [event for _, event in told(*((10.0 * n, [FAILED] * there) for n, there in enumerate(seen)))]
        assert events == [ALL[1 + n % 2] for n in range(len(events))]
        assert not seen or not seen[0] or events

    def test_every_concern_has_words_for_both(self) -> None:
        """Each kind of alert has a sentence, and so has its end."""
        for kind in Kind:
            concern = replace(FAILED, kind=kind, subject="x")
            found = decide((), [concern], [], events=ALL, now=NOON)
            later = decide(
                [KnownAlert(kind=kind.value, subject="x", since=NOON, told=True, gone_at=NOON)],
                [],
                [],
                events=ALL,
                now=NOON + RECOVERY_DELAY,
            )
            (over,) = later.notices
            assert over.text.endswith(".")
            assert all(notice.concern and notice.concern["kind"] == kind for notice in found.notices)


class TestBatches:
    """A batch that has finished."""

    def test_is_told_when_it_is_quiet(self) -> None:
        """A batch that is loaded row by row is not reported between two rows; once reported, not again."""
        ended = DONE.ended_at
        assert told((65, []), (70, []), (80, []), finished=[DONE]) == [(70, "batch_finished")]
        assert ended + FINISHED_DELAY == at(70)

    def test_at_the_end_of_a_run_is_told_at_once(self) -> None:
        """A run that ends now reports the batch without waiting for it to be quiet."""
        assert decide((), [], [DONE], events=ALL, now=at(61), last=True).notices
        assert not decide((), [], [DONE], events=ALL, now=at(61)).notices

    def test_says_how_it_ended(self) -> None:
        """The numbers are given to people and to programs."""
        (notice,) = decide((), [], [DONE], events=ALL, now=at(80)).notices
        assert notice.text == "Batch b has finished: 3 of 5 requests succeeded, 1 failed, 1 ended otherwise."
        assert notice.batch is not None
        assert (notice.batch["requests"], notice.batch["ended_at"]) == (5, DONE.ended_at.isoformat())

    def test_what_nobody_wants_to_hear_is_remembered_all_the_same(self) -> None:
        """An event that is not selected is never sent."""
        found = decide((), [FAILED], [DONE], events=("recovered",), now=at(80))
        assert (found.notices, found.batches) == ((), (DONE,))
        assert [each.told for each in found.known] == [True]


def test_nothing_that_others_wrote_is_told() -> None:
    """No error message, no key and no line end of anybody's is in a notice."""
    usual = a_troubled_status()
    message = f"it says {KEY} <script>"
    status = replace(
        usual,
        failures=(Failures(error_code="gave_up", requests=3, example_id=9, example=message),),
        unrecorded=Unrecorded(requests=1, example_id=3, example=message),
        targets=(*usual.targets, replace(usual.targets[1], target=f"eu\n{KEY}")),
    )
    batch = replace(DONE, batch=f"my batch\n{KEY}")
    found = decide((), find_alerts(status), [batch], events=ALL, now=at(600))
    whole = " ".join(str(notice) for notice in found.notices)
    assert len(found.notices) >= 4
    assert KEY not in whole
    assert "script" not in whole
    assert "\\n" not in whole
    assert "my batch" in whole


def test_a_healthy_status_concerns_nobody() -> None:
    """A healthy status produces no notice."""
    assert find_alerts(a_status()) == ()


def test_pauses_grow_and_end() -> None:
    """A receiver that is away is asked less and less often, and hears of it for days."""
    pauses = [pause_after(tries) for tries in range(1, 40)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (10.0, 3600.0)
    assert (is_given_up(GIVE_UP_AFTER - timedelta(seconds=1)), is_given_up(GIVE_UP_AFTER)) == (False, True)


def a_delivery(**changes: object) -> Delivery:
    """A notice to deliver."""
    notice = Notice(event=Event.BATCH_FINISHED, text="Batch <b> & c has finished.", batch={"name": "b"})
    usual = Delivery(id=str(UUID(int=7)), notice=notice, noticed_at=NOON, age=timedelta(0), tries=1)
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_the_body_is_the_same_at_each_try() -> None:
    """Receivers that compare bodies, and those that compare ids, see the same notice."""
    first, again = a_delivery(), a_delivery(tries=5, age=timedelta(hours=1))
    assert body_of(first, "json") == body_of(again, "json")
    assert headers_of(first, b"x", None) == headers_of(again, b"x", None)
    content = json.loads(body_of(first, "json"))
    assert (content["id"], content["event"], content["batch"]) == (first.id, "batch_finished", {"name": "b"})


def test_the_signature_is_over_the_body() -> None:
    """The signature matches the documentation, and is missing without a key."""
    body = body_of(a_delivery(), "json")
    headers = headers_of(a_delivery(), body, Secret("planted"))
    assert headers[SIGNATURE] == f"sha256={hmac.new(b'planted', body, hashlib.sha256).hexdigest()}"
    assert (headers[ID], headers[EVENT]) == (a_delivery().id, "batch_finished")
    assert SIGNATURE not in headers_of(a_delivery(), body, None)


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://hooks.slack.com/services/T/B/x", "slack"),
        ("https://hooks.slack.com.evil.example/", "json"),
        ("https://ops.example/hooks.slack.com", "json"),
    ],
)
def test_the_format_follows_the_host(url: str, form: str) -> None:
    """Slack's own hosts get what Slack reads."""
    assert format_of(url) == form


def test_slack_gets_text_that_mentions_nobody() -> None:
    """Slack's special characters are escaped."""
    assert json.loads(body_of(a_delivery(), "slack")) == {"text": "✓ Batch &lt;b&gt; &amp; c has finished."}
    assert json.loads(body_of(a_delivery(notice=trial_notice()), "slack"))["text"].startswith("This is a test")
