"""Requests are found the way people search: by id, project, name, state or cause, page by page, with any text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.core.requests import Query
from provisioner.postgres.search import PAGE, find, read_request
from tests.support.cli import query
from tests.support.operators import ask, finish, one_of_each
from tests.support.sessions import opened

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from tests.support.postgres import Database as Lent


async def found(database: Database, **wanted: object) -> list[int]:
    """The ids found, newest first."""
    return [each.id for each in (await find(database, Query(**wanted))).requests]  # type: ignore[arg-type]


async def test_each_way_to_look(database: Lent) -> None:
    """An id, a project's UUID in any writing, a part of a name, a state, an error, a batch and a target."""
    ids = one_of_each(database)
    (odd,) = ask(database, project_name="'Zürich 100%_x'", target="'eu'", name="'special'")
    (plain,) = ask(database, project_name="'Zürich 100 x'")
    where = query(database, f"SELECT project_id FROM provisioner.connection_requests WHERE id = {odd}")
    async with opened(database) as ours:
        assert await found(ours, text=str(odd)) == [odd]
        assert await found(ours, text=where.upper()) == [odd]
        assert await found(ours, text=where.replace("-", "")) == [odd]
        assert await found(ours, text="zürich") == [plain, odd]
        assert await found(ours, text="100%_") == [odd]
        assert await found(ours, text="\\") == []
        assert await found(ours, text="speci") == [odd]
        assert await found(ours, state="pending", batch="mixed") == sorted(
            (ids[state] for state in ("retrying", "in_flight", "ready")), reverse=True
        )
        assert await found(ours, state="failed") == [ids["failed"]]
        assert await found(ours, error="project_not_found") == [ids["failed"]]
        assert await found(ours, error="permission_denied", state="retrying") == [ids["retrying"]]
        assert await found(ours, target="eu") == [odd]
        assert await found(ours, state="nonsense") == []
        assert await found(ours, text="9" * 19) == []


async def test_pages_follow_one_another(database: Lent) -> None:
    """Forwards and backwards, without gap or overlap; each page knows whether there is more."""
    ids = ask(database, 2 * PAGE + 7)[::-1]
    async with opened(database) as ours:
        first = await find(ours, Query())
        second = await find(ours, Query(before=first.requests[-1].id))
        third = await find(ours, Query(before=second.requests[-1].id))
        assert [each.id for page in (first, second, third) for each in page.requests] == ids
        assert [(page.newer, page.older) for page in (first, second, third)] == [
            (False, True),
            (True, True),
            (True, False),
        ]
        back = await find(ours, Query(after=third.requests[0].id))
        assert [each.id for each in back.requests] == [each.id for each in second.requests]
        assert (back.newer, back.older) == (True, True)
        top = await find(ours, Query(after=second.requests[0].id))
        assert ([each.id for each in top.requests], top.newer) == (ids[:PAGE], False)


async def test_a_story_shows_no_box(database: Lent) -> None:
    """Of a sealed credential only its key's id is read; an unknown request has no story."""
    (sealed,) = ask(database, credential=f"'sealed:key-1:{'QUJD' * 40}'")
    async with opened(database) as ours:
        story = await read_request(ours, sealed)
        assert story is not None
        assert story.detail.credential == "sealed:key-1"
        assert "QUJD" not in repr(story) + repr(await find(ours, Query()))
        assert await read_request(ours, sealed + 1) is None


async def test_few_of_many_are_found_without_reading_all(database: Lent) -> None:
    """A rare cause is searched from its newest request to its oldest, and an absent one not at all."""
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id, name, status, error_code, finished_at)"
        " SELECT gen_random_uuid(), 'n-' || i, CASE WHEN i % 9000 = 7 THEN 'failed' ELSE 'succeeded' END,"
        " CASE WHEN i % 9000 = 7 THEN 'gave_up' END, now() FROM generate_series(1, 20000) AS i",
    )
    async with opened(database) as ours:
        assert await found(ours, state="failed", error="gave_up") == [18_007, 9_007, 7]
        assert await found(ours, state="failed", error="gave_up", before=9_007) == [7]
        assert await found(ours, state="failed", error="gave_up", after=7) == [18_007, 9_007]
        assert await found(ours, state="failed", error="name_conflict") == []
        assert await found(ours, state="retrying") == []
        assert await found(ours, text="n-19999", state="succeeded") == [19_999]
        assert await found(ours, text="n-7", state="failed") == [7]
        assert await found(ours, text="n-7", state="pending") == []


async def test_a_search_without_time_goes_on_where_it_stopped(database: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after its first stretch, and the next ones, forwards or backwards, miss nothing."""
    monkeypatch.setattr("provisioner.postgres.search.SOON", -1.0)
    monkeypatch.setattr("provisioner.postgres.candidates.FIRST_SPAN", 10)
    ids = ask(database, 35, name="'n-' || i")
    async with opened(database) as ours:
        seen, query_ = [], Query(text="-7")
        while (found_ := await find(ours, query_)).searched_to is not None:
            seen.append([each.id for each in found_.requests])
            query_ = Query(text="-7", before=found_.searched_to)
        assert [*seen, [each.id for each in found_.requests]] == [[], [], [ids[6]], []]
        early = await find(ours, Query(text="-30", after=ids[0] - 1))
        late = await find(ours, Query(text="-30", after=early.searched_to))
        last = await find(ours, Query(text="-30", after=late.searched_to))
        assert [[each.id for each in part.requests] for part in (early, late, last)] == [[], [], [ids[29]]]


async def test_what_is_set_apart_follows_every_way_to_get_there(database: Lent) -> None:
    """By a failure, a cancellation, a retry, a deletion, and by a recount where rows were written with triggers off."""
    one, two, three, four = ask(database, 4)
    finish(database, [one, two], "failed", "gave_up")
    query(database, f"SELECT provisioner.cancel(ARRAY[{three}])")
    async with opened(database) as ours:
        assert await found(ours, state="failed") == [two, one]
        assert await found(ours, state="cancelled") == [three]
        assert await found(ours, error="gave_up") == [two, one]
        query(database, f"SELECT provisioner.retry(ARRAY[{one}])")
        query(database, f"DELETE FROM provisioner.connection_requests WHERE id = {two}")
        assert await found(ours, state="failed") == []
        query(
            database,
            "SET session_replication_role = replica; UPDATE provisioner.connection_requests"
            f" SET status = 'failed', error_code = 'gave_up' WHERE id = {four}; SELECT provisioner.recount()",
        )
        assert await found(ours, state="failed", error="gave_up") == [four]
    assert (
        query(database, "SELECT string_agg(id::text, ',' ORDER BY id) FROM provisioner.set_apart") == f"{three},{four}"
    )


async def test_what_is_called_so_is_found_at_once(database: Lent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, or a project's in any case, or its beginning is found without a full search, within the filter."""
    monkeypatch.setattr("provisioner.postgres.search.SOON", -1.0)
    monkeypatch.setattr("provisioner.postgres.candidates.FIRST_SPAN", 10)
    (named,) = ask(database, name="'ledger'")
    (project,) = ask(database, project_name="'Ledger 7'", batch="'b'")
    ask(database, 30)
    async with opened(database) as ours:
        found_ = await find(ours, Query(text="Ledger"))
        assert [each.id for each in found_.requests] == [project, named]
        assert found_.searched_to is not None
        assert await found(ours, text="ledger 7") == [project]
        assert await found(ours, text="ledger", target="elsewhere") == []


async def test_rotations_that_did_not_succeed_are_found_by_their_state(database: Lent) -> None:
    """As connections are: in a list of their own, by state and by error; and no more once they are retried."""
    query(
        database,
        "INSERT INTO provisioner.rotation_requests (project_id, name)"
        " SELECT gen_random_uuid(), 'r' || n FROM generate_series(1, 3) AS n",
    )
    first, second, third = (
        int(each) for each in query(database, "SELECT id FROM provisioner.rotation_requests ORDER BY id").split()
    )
    query(database, f"SELECT provisioner.cancel('{{{first}}}')")
    query(database, f"SELECT provisioner.finish('{{{second}}}', 'failed', 'gave_up', 'no')")
    async with opened(database) as ours:
        assert await found(ours, state="cancelled") == [first]
        assert await found(ours, state="failed", error="gave_up") == [second]
        assert await found(ours, error="gave_up") == [second]
        query(database, f"SELECT provisioner.retry('{{{second}}}')")
        assert await found(ours, state="failed") == []
        query(database, f"SELECT provisioner.finish('{{{third}}}', 'removed')")
        assert await found(ours, state="removed") == [third]
        query(database, f"DELETE FROM provisioner.rotation_requests WHERE id = {third}")
        assert await found(ours, state="removed") == []


@pytest.mark.parametrize(
    ("quarantine", "code", "why"),
    [("credential:team", "credential_refused", "revoked"), ("project:", "permission_denied", "not a member")],
)
async def test_a_request_that_was_never_tried_says_why_it_is_quarantined(
    database: Lent, quarantine: str, code: str, why: str
) -> None:
    """It has the error of its quarantine, in lists and by `error`, though nothing was sent for it."""
    (request,) = ask(database, credential="'team'")
    project = query(database, f"SELECT project_id FROM provisioner.connection_requests WHERE id = {request}")
    quarantine = f"project:{project}" if quarantine == "project:" else quarantine
    query(
        database,
        f"""
        INSERT INTO provisioner.credential_health (target, credential, fingerprint, quarantined_since, reason)
        VALUES ('default', 'team', 'f', now(), 'revoked');
        INSERT INTO provisioner.project_health (target, project_id, cause, reason, since)
        VALUES ('default', '{project}', 'no_permission', 'not a member', now());
        SELECT provisioner.take_place({request}, 'infinity');
        UPDATE provisioner.waiting SET quarantine = '{quarantine}'
        """,
    )
    seen = "state, error_code, error_message, next_attempt_at"
    shown = query(database, f"SELECT {seen} FROM provisioner.request_status WHERE id = {request}")
    assert shown == f"quarantined|{code}|{why}|"
    async with opened(database) as ours:
        assert await found(ours, error=code) == [request]
        assert await found(ours, error=code, state="quarantined") == [request]
