"""Rows with any value that PostgreSQL can store, written with triggers off, end no worker and no listing."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest

from provisioner.core.reports import Status
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.reports import read_gauges, read_status
from tests.support.cli import provisioner
from tests.support.rotations import ask, connect, fleet
from tests.support.sessions import connected, insert
from tests.support.small_world import SmallWorld

if TYPE_CHECKING:
    from tests.support.postgres import Database
    from tests.support.sessions import Session

TIMES = (
    *("infinity", "-infinity", "294000-01-01 00:00+00", "4713-01-01 00:00+00 BC", "0001-01-01 00:00+00"),
    *("9999-12-31 23:59:59.999999+00", "10000-01-01 00:00+00", "2026-03-01 12:00+00"),
)
TEXTS = (
    *("", " ", "\x1b]0;x\x07", "\u202egnp", "\u009b2J", "\u200b", "\u2028", "\ufffe", "\U0010ffff"),
    *("a\nb", "a\rb", "[bold]x[/]", "[/nothing]", "[link=https://example.org]x", "x" * 5000, "=1+1"),
)
# Possible values of each column without the checks.
COLUMNS = {
    "target": ("text", ("default", "no target", None, *TEXTS)),
    "project_id": ("uuid", (None, "00000000-0000-0000-0000-000000000000")),
    "name": ("text", ("openrouter", None, *TEXTS)),
    "description": ("text", (None, *TEXTS)),
    "credential": ("text", ("default", None, "sealed:", "sealed::", "sealed:a:wiped", *TEXTS)),
    "on_conflict": ("text", ("fail", None, "sometimes", *TEXTS)),
    "priority": ("smallint", ("0", None, "-32768", "32767")),
    "batch": ("text", (None, *TEXTS)),
    "not_before": ("timestamptz", (None, *TIMES)),
    "requested_by": ("text", ("me", None, *TEXTS)),
    "created_at": ("timestamptz", (None, *TIMES)),
    "status": ("text", ("pending", "succeeded", "failed", "cancelled", None, "unheard of", *TEXTS)),
    "connection_id": ("uuid", (None, "00000000-0000-0000-0000-000000000000")),
    "org_id": ("uuid", (None, "00000000-0000-0000-0000-000000000000")),
    "credentials_hash": ("text", (None, *TEXTS)),
    "adopted": ("boolean", ("true", "false", None)),
    "attempts": ("integer", ("0", None, "-2147483648", "2147483647")),
    "error_code": ("text", (None, "name_conflict", "no such code", *TEXTS)),
    "error_message": ("text", (None, *TEXTS)),
    "finished_at": ("timestamptz", (None, *TIMES)),
}
USUAL = {"target": "default", "name": "openrouter", "status": "pending", "created_at": "2026-03-01 12:00+00"}


async def write(session: Session, row: dict[str, str | None]) -> None:
    """Write one row past the triggers."""
    names = list(row)
    values = ", ".join(f"${n}::text::{COLUMNS[name][0]}" for n, name in enumerate(names, 1))
    statement = f"INSERT INTO provisioner.connection_requests ({', '.join(names)}) VALUES ({values})"
    # It may be there, or no server of this version can hold it.
    with suppress(asyncpg.UniqueViolationError, asyncpg.DatetimeFieldOverflowError):
        await session.execute(statement, *row.values())


async def fill(session: Session, *, mixed: int) -> None:
    """Each odd value in a row that is usual otherwise, and rows in which everything is odd."""
    chance = random.Random(12)  # noqa: S311 - chooses values, keeps no secret
    await session.execute("SET session_replication_role = replica")
    for column, (name, (_, values)) in enumerate(COLUMNS.items(), 1):
        for number, value in enumerate(values):
            usual = {"project_id": f"{column:08x}-0000-0000-0000-{number:012x}"}
            await write(session, {**USUAL, **usual, name: value})
    for _ in range(mixed):
        await write(session, {name: chance.choice(values) for name, (_, values) in COLUMNS.items()})
    await session.execute(
        "INSERT INTO provisioner.waiting (id, run_at, target, rank, project_id)"
        " SELECT q.id, coalesce(q.not_before, '-infinity'), q.target, 0, q.project_id"
        " FROM provisioner.connection_requests AS q"
        " WHERE q.id % 3 = 0 AND q.target IS NOT NULL AND q.project_id IS NOT NULL"
    )
    await session.execute("RESET session_replication_role")


async def test_a_worker_lives_among_them(database: Database) -> None:
    """It puts in line what can be, fails what cannot, and an honest row comes through."""
    async with SmallWorld(database, recount=False) as it:
        await fill(it.session, mixed=60)
        await it.start()
        honest = await insert(it.session, name="honest", project_id="ffffffff-0000-0000-0000-000000000001")
        await it.becomes(honest, "succeeded", within=20)
        await it.until("SELECT (provisioner.misplaced(0, 100000)).ids", lambda ids: not ids, within=30)
        again = await insert(it.session, name="honest", project_id="ffffffff-0000-0000-0000-000000000002")
        await it.becomes(again, "succeeded", within=20)
        await it.session.execute("SELECT provisioner.recount()")


async def test_they_are_reported(database: Database) -> None:
    """The page, the metrics and `status` can be read, whatever rows contain."""
    pool = Pool(database.url)
    async with connected(database.url, recount=False) as session:
        await fill(session, mixed=60)
        await session.execute("SELECT provisioner.recount()")
        assert isinstance(await read_status(pool), Status)
        await read_gauges(pool)
        for view in ("request_status", "batch_progress", "request_counts", "quarantined_credentials", "miscounted"):
            await pool.fetch(f"SELECT * FROM provisioner.{view}")
    await pool.close()


# The table of rotations always refuses what no worker could read, because that would stop the line.
REFUSED = {
    "not_before": ("'infinity'", "'294000-01-01'", "'4713-01-01 BC'", "'0001-01-01 00:00+00'", "'9999-12-31'"),
    "created_at": ("'-infinity'", "'294000-01-01'", "'4713-01-01 BC'"),
    "rotate_at": ("'24:00'",),
    "spend_limit": ("0", "1e-400", "'NaN'", "1e9"),
    "interval_days": ("0", "3651"),
    "requested_by": ("repeat('x', 201)",),
}
ODD = {
    "rotate_at": ("'23:59:59.999999'",),
    "spend_limit": ("0.000001", "('0.' || repeat('1', 5000))::numeric", "999999999.9999999999"),
    "key_name": ("E'a\\u202eb'", "E'a\\nb\\x01'", "'{project_name'", "repeat(U&'\\+01F600', 200)"),
    "secret_name": ("'..'", "'a%2fb'", "U&'\\2603'", "E'A\\x01'"),
    "description": ("''", "E'a\\nb\\x01'", "repeat(U&'\\+01F600', 127)"),
    "batch": ("E'\\x1b]0;x\\x07'",),
    "attempts": ("2147483647", "-5"),
    "key_issued": ("repeat('k', 10000)",),
    "rotation_id": ("gen_random_uuid()",),
    "finished_at": ("'infinity'",),
}


@pytest.mark.parametrize("column", REFUSED)
async def test_what_no_worker_can_read_is_no_rotation(database: Database, column: str) -> None:
    """The constraints hold with the triggers off, too."""
    async with connected(database.url, recount=False) as session:
        for role in ("origin", "replica"):
            await session.execute(f"SET session_replication_role = {role}")
            for value in REFUSED[column]:
                with pytest.raises(asyncpg.CheckViolationError):
                    await session.execute(
                        f"INSERT INTO provisioner.rotation_requests (project_id, {column})"
                        f" VALUES (gen_random_uuid(), {value})"
                    )


async def test_odd_rotations_stop_nobody(database: Database) -> None:
    """Whatever the constraints allow is made, as an honest rotation beside it is, and shown by every command."""
    odd = [(column, value) for column, values in ODD.items() for value in values]
    async with fleet(database, projects=len(odd) + 1) as it:
        for number in range(len(odd) + 1):
            await connect(it, number)
        for project, (column, value) in zip(it.simulator.projects, odd, strict=False):
            await it.session.execute(
                f"INSERT INTO provisioner.rotation_requests (project_id, {column}) VALUES ('{project}', {value})"
            )
        honest = await ask(it, len(odd))
        await it.start()
        await it.becomes(honest, "succeeded", within=30.0)
        await it.until("SELECT count(*) FROM provisioner.rotation_requests WHERE status = 'pending'", 0)
        for command in ("list", "rotations", "status", "export", "export --rotations", "export --format html"):
            done = await asyncio.to_thread(provisioner, *command.split(), database=database)
            assert (done.returncode, done.stderr.count("error")) == (0, 0), (command, done.stderr)


COMMANDS = (
    ("list", "--limit", "1000"),
    ("list", "--json", "--limit", "1000"),
    ("show", "1"),
    ("export", "--format", "csv"),
    ("export", "--format", "jsonl"),
    ("status",),
    ("status", "--json"),
    ("doctor",),
    ("retry", "--state", "failed", "--yes"),
    ("cancel", "--state", "waiting", "--yes"),
)


@pytest.mark.parametrize("zone", ["Asia/Kolkata", pytest.param("America/Los_Angeles", marks=pytest.mark.soak)])
async def test_every_command_shows_them(database: Database, zone: str) -> None:
    """No traceback, and nothing that a terminal would obey."""
    async with connected(database.url, recount=False) as session:
        await fill(session, mixed=60)
        await session.execute("SELECT provisioner.recount()")
        ids = [row["id"] for row in await session.fetch("SELECT id FROM provisioner.connection_requests ORDER BY id")]
        commands = [*COMMANDS, *(("show", str(one)) for one in ids[:: len(ids) // 2])]
        for command in commands:
            done = provisioner(*command, database=database, more={"TZ": zone})
            assert done.returncode in {0, 1, 3}, (command, done.stderr)
            assert "Traceback" not in done.stderr, (command, done.stderr)
            if "jsonl" in command or "--json" in command:
                for line in done.stdout.splitlines() if "jsonl" in command else [done.stdout]:
                    json.loads(line)
            shown = done.stderr if "csv" in command else done.stdout + done.stderr  # a file keeps the original text
            assert all(line.isprintable() for line in shown.split("\n")), command
        await session.execute("SELECT provisioner.recount()")
