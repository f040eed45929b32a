"""Bulk files become rows of the table: all or nothing, and harmless to repeat."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from provisioner.core.errors import ProvisionerError, SchemaMismatch
from provisioner.intake import rows as rules
from provisioner.intake.rows import Row, check
from provisioner.postgres.intake import COLUMNS, Comparison, Conflict, Repeats, RowsRefused, staging
from tests.support.sessions import opened

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from tests.support.postgres import Database as Lent

ONE = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
TWO = "00000000-0000-4000-8000-000000000002"
BOX = "sealed:k1:" + "A" * 100
KEY = "sk-or-v1-planted4711"


def row(line: int = 2, **given: object) -> tuple[object, ...]:
    """Return a staged row for project ONE, with changes in these columns."""
    usual: dict[str, object] = dict.fromkeys(COLUMNS)
    usual |= {"line": line, "target": "default", "project_id": ONE, "name": "openrouter", "credential": "default"}
    return tuple((usual | {"on_conflict": "fail", "priority": 0} | given).values())


async def submitted(database: Database, *rows: tuple[object, ...]) -> int:
    """Load rows; returns how many were new."""
    async with staging(database) as staged:
        await staged.take(rows)
        await staged.drop_repeats(10)
        return await staged.insert()


def test_the_columns_are_those_that_are_checked() -> None:
    """Rows that pass the check are staged in the same order, after the line's number."""
    assert ("line", *rules.COLUMNS) == COLUMNS


async def test_rotations_beside_their_connections(database: Lent) -> None:
    """Lines with a column of rotations ask for one each, also two of the same connection, and twice is harmless."""
    rows = (
        row(2, project_name="Billing", rotation_spend_limit=10.0, rotation_rotate_at="03:30"),
        row(3, project_name="Billing", rotation_environment="dev"),
        row(4, name="without"),
    )
    async with opened(database) as ours:
        for new in (2, 0):
            async with staging(ours) as staged:
                await staged.take(rows)
                await staged.set_rotations_apart(5)
                assert (await staged.rotations())[0] == 2
                assert (await staged.drop_repeats(10)).identical == 1
                await staged.insert()
                assert await staged.insert_rotations() == new
                assert len(await staged.rotation_ids()) == 2
        found = await ours.fetch(
            "SELECT environment, connection, rotate_at::text, spend_limit, project_name"
            " FROM provisioner.rotation_requests ORDER BY id"
        )
    assert [tuple(each) for each in found] == [
        ("prod", "openrouter", "03:30:00", 10, "Billing"),
        ("dev", "openrouter", "00:00:00", None, "Billing"),
    ]


async def test_rows_arrive_as_they_were_given(database: Lent) -> None:
    """Every column is stored as in the file, in the file's order, and the workers are notified of the positions."""
    soon = datetime(2100, 1, 1, tzinfo=UTC)
    full = row(2, target="eu", name="a", description='say "hi"', credential="k", on_conflict="adopt", priority=-3)
    async with opened(database) as ours:
        assert await submitted(ours, full, row(3, batch="b", not_before=soon)) == 2
        found = await ours.fetch("SELECT * FROM provisioner.connection_requests ORDER BY id")
        line = await ours.fetch("SELECT target, id FROM provisioner.ready")
    asked = [name for name in COLUMNS[1:] if not name.startswith("rotation_")]
    values = [tuple(str(each[name]) if name == "project_id" else each[name] for name in asked) for each in found]
    last = len(asked) + 1
    assert values == [full[1:last], row(3, batch="b", not_before=soon)[1:last]]
    assert [tuple(each) for each in line] == [("eu", found[0]["id"])]  # the other waits for its time


async def test_loading_again_changes_nothing(database: Lent) -> None:
    """The same file may be loaded as often as one likes, also with other values."""
    async with opened(database) as ours:
        assert await submitted(ours, row(), row(3, project_id=TWO)) == 2
        assert await submitted(ours, row(), row(3, project_id=TWO, description="new"), row(4, name="new")) == 1
        descriptions = await ours.fetch("SELECT DISTINCT description FROM provisioner.connection_requests")
    assert [each["description"] for each in descriptions] == [None]


async def test_repeated_lines_are_told_apart(database: Lent) -> None:
    """A line that repeats another is harmless; one with other values for the same connection is a conflict."""
    async with opened(database) as ours, staging(ours) as staged:
        other = row(4, description="x", batch="b", priority=1, not_before=datetime(2100, 1, 1, tzinfo=UTC))
        third = row(5, credential="k", on_conflict="adopt", project_name="Till")
        await staged.take([row(2), row(3), other, third, row(6, name="alone"), row(7, project_id=TWO)])
        assert await staged.drop_repeats(10) == Repeats(
            identical=1,
            conflicting=2,
            conflicts=(
                Conflict(line=4, first_line=2, columns=("description", "priority", "batch", "not_before")),
                Conflict(line=5, first_line=2, columns=("credential", "on_conflict", "project_name")),
            ),
        )
        assert await staged.drop_repeats(10) == Repeats()
        assert await staged.insert() == 3


async def test_only_the_first_conflicts_are_listed(database: Lent) -> None:
    """However many there are, all are counted and a few are described."""
    async with opened(database) as ours, staging(ours) as staged:
        await staged.take(row(line, description=str(line)) for line in range(2, 102))
        repeats = await staged.drop_repeats(5)
    assert repeats.conflicting == 99
    assert [conflict.line for conflict in repeats.conflicts] == [3, 4, 5, 6, 7]


async def test_a_comparison_tells_what_is_there(database: Lent) -> None:
    """Before loading, the new requests, the existing ones by state, and the differing ones are counted."""
    async with opened(database) as ours:
        states = ("pending", "succeeded", "failed", "cancelled")
        await submitted(ours, *(row(name=state) for state in states), row(name="box", credential=BOX))
        for state in states:
            await ours.execute(
                "UPDATE provisioner.connection_requests SET status = $1"
                " WHERE name = $1 AND (SELECT set_config('provisioner.recording', 'on', true)) = 'on'",
                state,
            )
        async with staging(ours) as staged:
            await staged.take(
                [
                    *(row(2, name=state) for state in states[:2]),
                    row(3, name="failed", description="x"),
                    row(4, name="cancelled", on_conflict="adopt"),
                    row(5, name="box", credential=BOX.replace("AA", "BB")),
                    row(6, name="new"),
                    row(7, target="eu"),
                ]
            )
            found = await staged.compare()
    assert found == [
        Comparison(
            target="default",
            wanted=6,
            pending=2,
            succeeded=1,
            failed=1,
            cancelled=1,
            different=2,
            first_different=3,
        ),
        Comparison(target="eu", wanted=1),
    ]
    assert [each.existing for each in found] == [5, 0]


async def test_what_is_interrupted_leaves_nothing(database: Lent) -> None:
    """An exception in the middle undoes the whole file."""

    async def interrupted(ours: Database) -> None:
        async with staging(ours) as staged:
            await staged.take([row()])
            assert await staged.insert() == 1
            raise KeyError

    async with opened(database) as ours:
        with pytest.raises(KeyError):
            await interrupted(ours)
        assert not await ours.fetch("SELECT FROM provisioner.connection_requests")


async def test_a_refusal_by_the_database_shows_no_credential(database: Lent) -> None:
    """Whatever rule refuses a row, also one that a customer added, nothing is loaded and the row is not repeated."""
    async with opened(database) as ours:
        with pytest.raises(RowsRefused, match="credential must be the name of a configured credential") as caught:
            await submitted(ours, row(), row(3, project_id=TWO, credential=KEY))
        assert KEY not in str(caught.value)
        await ours.execute("ALTER TABLE provisioner.connection_requests ADD CHECK (batch IS NOT NULL)")
        with pytest.raises(RowsRefused) as caught:
            await submitted(ours, row(credential="my-credential"))
        assert "my-credential" not in str(caught.value)
        assert not await ours.fetch("SELECT FROM provisioner.connection_requests")


async def test_a_missing_schema_is_told(empty_database: Lent) -> None:
    """Without the table the message says which command makes it."""
    async with opened(empty_database) as ours:
        with pytest.raises(SchemaMismatch, match="run `provisioner migrate`"):
            await submitted(ours, row())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("target", "eu-1"),
        ("target", "EU"),
        ("target", "-eu"),
        ("target", "a" * 63),
        ("target", "a" * 64),
        ("name", "a" * 64),
        ("name", "a" * 65),
        ("name", "a-b-c"),
        ("name", "a--b"),
        ("name", "a\n"),
        ("name", "ä"),
        ("name", ""),
        ("description", "ä" * 255),
        ("description", "\N{KEY}" * 127 + "x"),
        ("description", "\N{KEY}" * 128),
        ("description", "x" * 256),
        ("description", ""),
        ("credential", "Team_A-1"),
        ("credential", "c" * 40),
        ("credential", "c" * 41),
        ("credential", "_c"),
        ("credential", "c\n"),
        ("credential", "SK-c"),
        ("credential", "skc"),
        ("credential", KEY),
        ("credential", BOX),
        ("credential", f"{BOX}=="),
        ("credential", f"{BOX}==="),
        ("credential", BOX.replace("k1", "")),
        ("credential", "sealed:k1:" + "A" * 69),
        ("credential", "sealed:k1:" + "A" * 70),
        ("credential", "sealed:k1:" + "A" * 4990),
        ("credential", "sealed:k1:" + "A" * 4991),
        ("on_conflict", "replace"),
        ("on_conflict", "Replace"),
        ("priority", 32767),
        ("priority", -32767),
        ("batch", "b" * 200),
        ("batch", "b" * 201),
        ("batch", ""),
        ("project_name", "n" * 200),
        ("project_name", "n" * 201),
        ("project_name", "Cash Desk \N{KEY}"),
        ("project_name", "a\nb"),
        ("project_name", "a\x9bb"),
        ("project_name", "\x7f"),
        ("project_name", "\xa0"),
        ("project_name", ""),
    ],
)
async def test_the_check_and_the_table_agree(database: Lent, column: str, value: object) -> None:
    """A line passes the check exactly when the table takes it, so that no file fails after its check."""
    passes = isinstance(check(1, {"project_id": ONE, column: value}), Row)
    async with opened(database) as ours:
        statement = (
            f"INSERT INTO provisioner.connection_requests (project_id, {column}) VALUES ($1, $2)"  # our own words
        )
        try:
            await ours.execute(statement, UUID(ONE), value)
        except ProvisionerError:
            assert not passes
        else:
            assert passes


async def test_a_hundred_thousand_rows_are_no_burden(database: Lent) -> None:
    """A hundred thousand rows go in as one statement each step, so they take seconds."""
    async with opened(database) as ours, staging(ours) as staged:
        await staged.take(row(line, project_id=str(uuid4())) for line in range(100_000))
        assert await staged.drop_repeats(1) == Repeats()
        assert await staged.insert() == 100_000
