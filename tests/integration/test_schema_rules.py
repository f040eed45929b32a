"""The rules for a row of the requesters' table; no error about it shows its credential."""

import asyncio
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.builders import project
from tests.support.postgres import Database
from tests.support.sessions import SEALED, TABLE, connected, count, insert, places

if TYPE_CHECKING:
    from tests.support.sessions import Session

KEY = "sk-or-v1-planted0000111122223333444455556666777788889999aaaabbbbccccdddd"


BAD: Mapping[str, Sequence[object]] = {
    "target": ["", "Upper", "under_score", "-eu", "x" * 64, None],
    "name": ["", "Upper", "two--hyphens", "-a", "a-", "x" * 65, "a\nb", "ä", None],
    "description": ["x" * 256, "\N{KEY}" * 128],
    "credential": ["", KEY, KEY.upper(), KEY[9:], "sk-short", "sealed:key:short", "sealed::" + "A" * 100, None],
    "on_conflict": ["", "skip", "FAIL", None],
    "priority": [None, -32768],
    "batch": ["", "x" * 201],
    "project_name": ["", "x" * 201, "two\nlines", "a\tb", "\x7f", "a\x1b[0m", "\x85"],
    "status": ["", "done", None],
}
GOOD: Mapping[str, Sequence[object]] = {
    "target": ["eu", "a" * 63, "9"],
    "name": ["a", "x" * 64, "a-b-c", "0"],
    "description": ["", "x" * 255, None, "日本語 — ümlaut", "ä" * 255, "\N{KEY}" * 127 + "x"],
    "credential": ["default", "team-a", "Team_A", SEALED],
    "on_conflict": ["fail", "adopt", "replace"],
    "priority": [0, 32767, -32767],
    "batch": [None, "x" * 200, "one"],
    "project_name": [None, "x" * 200, "会計 — Zürich \N{KEY}", "\xa0"],
    "status": ["pending", "succeeded", "failed", "cancelled"],
}


def said(error: asyncpg.PostgresError) -> str:
    """Everything that an error shows its client."""
    return json.dumps(error.as_dict(), default=str)


def logged(database: Database) -> str:
    """Everything that the server has logged."""
    return (database.server.directory / "server.log").read_text(encoding="utf-8", errors="replace")


class TestRules:
    """The rules for a row."""

    @pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in GOOD.items() for v in values])
    async def test_good_rows_are_taken(self, session: "Session", column: str, value: object) -> None:
        """The bounds of each rule are valid themselves."""
        await insert(session, **{column: value})
        assert await count(session, TABLE) == 1

    @pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in BAD.items() for v in values])
    async def test_bad_rows_are_refused(self, session: "Session", column: str, value: object) -> None:
        """The error has the code of a broken rule and names the column, and nothing is left behind."""
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await insert(session, **{column: value})
        error = refused.value
        assert error.sqlstate == "23514"
        assert (error.schema_name, error.table_name, error.column_name) == ("provisioner", TABLE, column)
        assert error.constraint_name == f"connection_requests_{column}_check"
        assert (error.message or "").startswith(f"{column} must be")
        assert await count(session, TABLE) == 0
        assert await places(session) == {}

    async def test_a_project_is_required(self, session: "Session") -> None:
        """A row without its project is refused as a NOT NULL column would refuse it."""
        with pytest.raises(asyncpg.NotNullViolationError, match="project_id is required") as refused:
            await insert(session, project_id=None)
        assert refused.value.sqlstate == "23502"
        assert refused.value.column_name == "project_id"

    @pytest.mark.parametrize("never", ["infinity", "-infinity"])
    async def test_never_is_no_time(self, session: "Session", never: str) -> None:
        """`not_before` has to be a point in time."""
        with pytest.raises(asyncpg.CheckViolationError, match="not_before must be"):
            await session.execute(
                "INSERT INTO provisioner.connection_requests (project_id, not_before)"
                " VALUES ($1, $2::text::timestamptz)",
                project(1),
                never,
            )

    async def test_one_bad_row_refuses_the_statement(self, session: "Session") -> None:
        """Of many rows in one statement either all are taken or none."""
        with pytest.raises(asyncpg.CheckViolationError, match="name must be"):
            await session.executemany(
                "INSERT INTO provisioner.connection_requests (project_id, name) VALUES ($1, $2)",
                [(project(1), "good"), (project(2), "Bad")],
            )
        assert await count(session, TABLE) == 0

    async def test_a_requester_fits_into_the_counts(self, database: Database) -> None:
        """A name that no index could store would prevent everybody's counts from being added up."""
        async with connected(database.url) as session:
            with pytest.raises(asyncpg.CheckViolationError, match="requested_by must be at most 200 characters"):
                await insert(session, requested_by="x" * 201)
            await insert(session, requested_by="\N{KEY}" * 200)
            await session.execute("SELECT provisioner.fold_counts(100)")

    async def test_an_edit_keeps_the_rules(self, session: "Session") -> None:
        """A pending row cannot become a bad one."""
        request = await insert(session)
        for column, values in BAD.items():
            for value in values:
                with pytest.raises(asyncpg.CheckViolationError, match=f"{column} must be"):
                    await session.execute(
                        f"UPDATE provisioner.connection_requests SET {column} = $2 WHERE id = $1", request, value
                    )

    async def test_an_edit_after_its_key_was_wiped_keeps_them_too(self, session: "Session") -> None:
        """The rest of a wiped key does not bypass the rules."""
        request = await insert(session, credential=SEALED)
        await session.execute(
            "UPDATE provisioner.connection_requests"
            " SET status = 'succeeded', connection_id = gen_random_uuid(), credential = 'sealed:key-1:wiped'"
        )
        edit = "UPDATE provisioner.connection_requests SET {} = $2 WHERE id = $1"
        with pytest.raises(asyncpg.CheckViolationError, match="name must be"):
            await session.execute(edit.format("name"), request, "Bad")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="cannot be changed"):
            await session.execute(edit.format("project_id"), request, project(2))

    @pytest.mark.parametrize("status", GOOD["status"])
    async def test_the_id_stays(self, session: "Session", status: str) -> None:
        """A request under another id would leave its claim, its place and its evidence behind."""
        await insert(session, status=status)
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="the id of request"):
            await session.execute("UPDATE provisioner.connection_requests SET id = DEFAULT")

    @pytest.mark.parametrize("status", ["failed", "cancelled", "succeeded"])
    async def test_a_finished_row_takes_no_readable_key(self, session: "Session", status: str) -> None:
        """Fixing the credential of a failed request before its retry cannot store a readable key either."""
        request = await insert(session, status=status)
        with pytest.raises(asyncpg.CheckViolationError, match="credential must be"):
            await session.execute(
                "UPDATE provisioner.connection_requests SET credential = $2 WHERE id = $1", request, KEY
            )

    async def test_a_finished_row_may_be_annotated(self, session: "Session") -> None:
        """Description and batch of a request whose sealed key is wiped can still be changed."""
        request = await insert(session, credential=SEALED)
        await session.execute(
            "UPDATE provisioner.connection_requests SET status = 'succeeded', credential = 'sealed:key-1:wiped'"
        )
        await session.execute(
            "UPDATE provisioner.connection_requests SET batch = 'old', description = 'known' WHERE id = $1", request
        )
        assert await session.fetchval("SELECT batch FROM provisioner.connection_requests") == "old"

    @given(
        column=st.sampled_from(["target", "name", "credential", "batch", "on_conflict", "description"]),
        value=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300),
    )
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_whatever_is_written_is_taken_or_refused(self, database: Database, column: str, value: str) -> None:
        """No text at all leads to an error of another kind than a broken rule."""
        asyncio.run(_try(database.url, column, value))


async def _try(url: str, column: str, value: str) -> None:
    async with connected(url) as session:
        try:
            await insert(session, project_id=str(uuid4()), **{column: value})
        except asyncpg.CheckViolationError as error:
            named = error.column_name
        else:
            named = column
    assert named == column


class TestSecrecy:
    """No error about a bad row shows its credential, to the client or in the server's log."""

    @pytest.mark.parametrize(
        ("column", "value"), [("credential", KEY), ("name", "Bad"), ("project_id", None), ("status", "done")]
    )
    async def test_by_insert(self, database: Database, session: "Session", column: str, value: object) -> None:
        """Whichever rule an inserted row breaks, its credential stays out of sight."""
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
            await insert(session, **{"credential": KEY, column: value})
        assert "planted" not in said(refused.value)
        assert "must be" in said(refused.value) or "is required" in said(refused.value)
        assert "planted" not in logged(database)

    @pytest.mark.parametrize(
        ("columns", "line"),
        [
            ("project_id,credential", f"{project(1)},{KEY}"),
            ("project_id,credential,name", f"{project(1)},{KEY},Bad"),
            ("project_id,credential", f",{KEY}"),
            ("project_id,credential,status", f"{project(1)},{KEY},done"),
        ],
        ids=["credential", "name", "project", "status"],
    )
    async def test_by_copy(self, database: Database, session: "Session", columns: str, line: str) -> None:
        """COPY, which likes to quote its input, does not quote it here."""
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
            await session.copy_to_table(
                TABLE,
                schema_name="provisioner",
                columns=columns.split(","),
                source=io.BytesIO(f"{line}\n".encode()),
                format="csv",
            )
        assert "planted" not in said(refused.value)
        assert "planted" not in logged(database)

    async def test_by_update(self, database: Database, session: "Session") -> None:
        """A refused edit shows neither the old credential nor the new one."""
        request = await insert(session)
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await session.execute(
                "UPDATE provisioner.connection_requests SET credential = $2, name = 'Bad' WHERE id = $1", request, KEY
            )
        assert "planted" not in said(refused.value)
        assert "planted" not in logged(database)

    async def test_by_a_duplicate(self, database: Database, session: "Session") -> None:
        """The unique constraint names its own columns alone."""
        await insert(session, credential=SEALED)
        with pytest.raises(asyncpg.UniqueViolationError) as refused:
            await insert(session, credential=SEALED)
        assert SEALED not in said(refused.value)
        assert SEALED not in logged(database)

    @pytest.mark.parametrize("way", ["insert", "update"])
    async def test_by_a_missing_id(self, database: Database, session: "Session", way: str) -> None:
        """A row whose id is NULL, as an export with an empty column has it, is refused in silence about the rest."""
        sealed = SEALED.replace("QUJD", "c2VjcmV0")
        statement = {
            "insert": "INSERT INTO provisioner.connection_requests (id, project_id, credential) VALUES (NULL, $1, $2)",
            "update": "UPDATE provisioner.connection_requests SET id = NULL, project_id = $1, credential = $2",
        }[way]
        await insert(session, name="other", credential=sealed)
        with pytest.raises(asyncpg.GeneratedAlwaysError) as refused:
            await session.execute(statement, project(2), sealed)
        assert "c2VjcmV0" not in said(refused.value)
        assert "c2VjcmV0" not in logged(database)
