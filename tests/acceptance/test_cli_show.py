"""`provisioner show ID`: one request as an operator wants to see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from provisioner.core.model import ErrorCode
from tests.support.cli import provisioner, query
from tests.support.operators import WORKER, ask, finish, fly, one_of_each, postpone

if TYPE_CHECKING:
    from tests.support.postgres import Database

ATTEMPT = (
    "INSERT INTO provisioner.attempts (request_id, attempt, worker, action, started_at, ended_at, http_status, req_id,"
    " outcome, error_code, error_message) VALUES ({}, {}, 1, 'create', now() - interval '1 second', now(), 403,"
    " 'req-0123456789abcd', 'permission is missing', 'permission_denied', 'add the identity')"
)
PACE = (
    "INSERT INTO provisioner.line_forecasts (target, seen_at, ended, busy, seconds, permits, got, pace)"
    " VALUES ('default', 0, 0, false, 0, 0, 0, 2)"
)


def shown(database: Database, request: int) -> str:
    """The output about a request."""
    done = provisioner("show", str(request), database=database)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_an_unknown_id_is_told(database: Database) -> None:
    """A request that is not there is exit status 1 and one line."""
    done = provisioner("show", "4711", database=database)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: there is no request 4711\n")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("succeeded", ["the connection was made and recorded", "`provisioner verify {id}`"]),
        ("failed", ["it failed with project_not_found; 1 create was sent", "compare project_id", "retry {id}`"]),
        ("cancelled", ["it was cancelled", "`provisioner retry {id}` requests it again"]),
        ("retrying", ["it is retried in 60 min, at 20", "2 creates were sent so far, and 1 counted as failures"]),
        ("in_flight", ["in flight on worker host:7 since 20"]),
        ("ready", ["it is in the queue of target default at place 1, due in about 0 s at the current pace"]),
    ],
)
def test_each_state_says_what_happens_next(database: Database, state: str, said: list[str]) -> None:
    """Whatever its state, the page says what happened, what happens next and what can be done."""
    request = one_of_each(database)[state]
    query(database, PACE)
    text = shown(database, request)
    for sentence in said:
        assert sentence.format(id=request) in text


def test_the_place_in_line_counts_those_before_it(database: Database) -> None:
    """Priority and order determine the position; a request that nobody works on says so."""
    first, second, third = ask(database, 3)
    (urgent,) = ask(database, priority="9")
    places = {request: shown(database, request) for request in (first, second, third, urgent)}
    assert [f"place {place}\n" in places[request] for place, request in enumerate((urgent, first, second, third), 1)]
    assert "place 1\n" in places[urgent]
    assert "place 4\n" in places[third]
    assert "no worker serves target default: `provisioner run` starts one" in places[first]


def test_what_stands_in_the_way_is_told(database: Database) -> None:
    """A paused target is named, with who paused it and how to resume it."""
    (request,) = ask(database)
    query(database, "INSERT INTO provisioner.targets (target, paused_at, paused_by) VALUES ('default', now(), 'ann')")
    text = shown(database, request)
    assert "target default was paused at 20" in text
    assert "by ann; `provisioner resume default` resumes it" in text


def test_doubt_is_told(database: Database) -> None:
    """A request whose connection may exist says that it is looked up first, even after a failure."""
    waiting, failed = ask(database, 2)
    postpone(database, waiting, code="outcome_unknown", unknown=True)
    postpone(database, failed, code="outcome_unknown", unknown=True)
    query(database, f"DELETE FROM provisioner.waiting WHERE id = {failed}")
    finish(database, [failed], "failed", "outcome_unknown")
    assert "an attempt may have made the connection: it is looked up in 60 min" in shown(database, waiting)
    assert "may still have made the connection: a retry looks it up first" in shown(database, failed)


def test_a_scheduled_request_says_when_it_starts(database: Database) -> None:
    """A scheduled request is not called a retry."""
    (request,) = ask(database, not_before="now() + interval '2 days'")
    assert "it is scheduled: it starts in 2 d, at 20" in shown(database, request)


def test_a_cancelled_request_in_flight_is_let_to_its_end(database: Database) -> None:
    """A request that was cancelled in flight says why it still exists."""
    (request,) = ask(database)
    fly(database, request)
    query(database, f"UPDATE provisioner.in_flight SET cancelled = true WHERE id = {request}")
    assert "it was cancelled: this attempt may finish" in shown(database, request)


def test_a_held_key_is_named(database: Database) -> None:
    """A request that waits because of a refused key names the credential."""
    (request,) = ask(database)
    postpone(database, request, code="credential_refused")
    query(database, "UPDATE provisioner.waiting SET quarantine = 'credential:team-a'")
    assert "that have the same problem: the key of credential team-a was refused" in shown(database, request)


def test_its_attempts_are_shown_in_order(database: Database) -> None:
    """Each call has its time, duration, HTTP status, Infisical's request id and result; JSON has all of it."""
    (request,) = ask(database)
    for attempt in range(1, 33):
        query(database, ATTEMPT.format(request, attempt))
    text = shown(database, request)
    assert "2 earlier calls are not shown; --json has them\n" in text
    lines = [line.split() for line in text.splitlines() if "req-0123456789abcd" in line]
    assert [line[0] for line in lines] == [str(attempt) for attempt in range(3, 33)]
    assert lines[0][1] == "create"
    assert lines[0][4:7] == ["1.00", "s", "403"]
    assert "permission is missing: add the identity [permission_denied]" in text
    document = json.loads(provisioner("show", str(request), "--json", database=database).stdout)
    assert (document["id"], document["place"], len(document["tried"])) == (request, 1, 32)
    assert document["tried"][0]["took"] == pytest.approx(1.0)
    assert document["what_next"]


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_has_its_advice(database: Database, code: ErrorCode) -> None:
    """For every error, somebody who has never seen it learns what to do."""
    (request,) = ask(database)
    finish(database, [request], "failed", code)
    (advice,) = [line for line in shown(database, request).splitlines() if line.startswith("to fix it: ")]
    assert "read the message" not in advice


def test_a_sealed_key_is_not_shown(database: Database) -> None:
    """Of a sealed credential only the key's id is shown."""
    query(database, WORKER)
    (request,) = ask(database, credential=f"'sealed:key-1:{'QUJD' * 40}'")
    as_json = provisioner("show", str(request), "--json", database=database).stdout
    assert "sealed:key-1\n" in shown(database, request)
    assert "QUJD" not in shown(database, request) + as_json
