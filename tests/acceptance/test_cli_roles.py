"""The database role that each command is for, and its message to other roles."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from provisioner.cli.commands import COMMANDS
from tests.support.cli import provisioner, query
from tests.support.infisical import simulated
from tests.support.operators import ask, one_of_each, postpone
from tests.support.roles import Cast, granted, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Database

# What a role may do, or which other role may: in the words of the refusal.
YES: Final = ""
OWNER: Final = "is for the role that owns the schema"
NOT_OWNER: Final = "does not own the schema provisioner"
LACKS: Final = "grant --requester"
MAY_READ: Final = "is for a reader; `provisioner grant --reader ROLE` makes one"
# By command: the message to a requester, a reader and a worker.
TABLE: Final[dict[str, tuple[str, str, str]]] = {
    "status": (YES, YES, YES),
    "status --json": (YES, YES, YES),
    "status --batch mine": (YES, YES, YES),
    "list": (YES, YES, YES),
    "list --state pending --json": (YES, YES, YES),
    "show MINE": (YES, YES, YES),
    "export": (YES, YES, YES),
    "export --state failed": (YES, YES, YES),
    "export --format html": (YES, YES, YES),
    "rotations": (YES, YES, YES),
    "submit FILE": (YES, LACKS, LACKS),
    "submit --dry-run FILE": (YES, LACKS, LACKS),
    "seal --project 8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11": (YES, YES, YES),
    "verify": (MAY_READ, YES, YES),
    "keys list": ("`provisioner keys list` is for a reader", YES, YES),
    "keys generate --stdout": (OWNER, OWNER, OWNER),
    "keys reseal": (OWNER, OWNER, YES),
    "retry MINE": (OWNER, OWNER, OWNER),
    "cancel MINE": (OWNER, OWNER, OWNER),
    "remove MINE": (OWNER, OWNER, OWNER),
    "rekey MINE": (OWNER, OWNER, YES),  # there is nothing to be sent
    "pause": (OWNER, OWNER, OWNER),
    "resume": (OWNER, OWNER, OWNER),
    "limit default --writes 60/min": (OWNER, OWNER, OWNER),
    "migrate --check": (YES, YES, YES),
    "migrate": (OWNER, OWNER, OWNER),
    "grant --list": (YES, YES, YES),
    "grant --requester ROLE": (NOT_OWNER, NOT_OWNER, NOT_OWNER),
}
# These name what they lack themselves, or use no table of ours.
ELSEWHERE: Final = {
    "demo",
    "run",
    "discover",
    "plan",
    "onboard",
    "doctor",
    "healthcheck",
    "settings",
    "simulate",
    "database",
}


@pytest.fixture
def cast(database: Database) -> Iterator[Cast]:
    """Lend the database as each role sees it; somebody else's requests are in every state, and a key is published."""
    one_of_each(database)
    assert provisioner("keys", "generate", "--stdout", database=database).returncode == 0
    with granted(database) as cast:
        yield cast


def mine(cast: Cast, database: Database) -> int:
    """A request of the requester's own, which is retried."""
    inserted = "INSERT INTO provisioner.connection_requests (project_id, batch) VALUES (gen_random_uuid(), 'mine')"
    request = int(query(cast.requester, f"{inserted} RETURNING id"))
    postpone(database, request)
    return request


def test_every_command_is_in_the_table() -> None:
    """Or it is said why not."""
    assert {command.split()[0] for command in TABLE} | ELSEWHERE == set(COMMANDS)


@pytest.mark.parametrize("who", [0, 1, 2], ids=["requester", "reader", "worker"])
def test_each_command_as_each_role(cast: Cast, database: Database, tmp_path: Path, who: int) -> None:
    """A role can do its work, and learns in one line which role may do the rest."""
    role = (cast.requester, cast.reader, cast.worker)[who]
    file = tmp_path / "projects.csv"
    file.write_text("project_id\n8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b19\n")
    request = str(mine(cast, database))
    wrong = {}
    for command, answers in TABLE.items():
        words = [
            {"MINE": request, "FILE": str(file), "ROLE": name_of(role)}.get(word, word) for word in command.split()
        ]
        done = provisioner(*words, database=role, given=b"sk-or-v1-0123456789abcdef0123456789abcdef")
        expected = answers[who]
        fine = (
            (done.returncode in {0, 1} and "denied" not in done.stderr and "error" not in done.stderr)
            if expected == YES and command != "verify"  # which then has no login
            else (expected in done.stderr and done.stderr.count("\n") == 1)
        )
        if not fine:
            wrong[command] = (expected, done.returncode, done.stdout[-200:], done.stderr)
    assert wrong == {}


def test_a_requester_sees_its_own_alone(cast: Cast, database: Database) -> None:
    """In status, list, show and export, with causes, and with nothing of anybody else's."""
    request = mine(cast, database)
    status = json.loads(provisioner("status", "--json", database=cast.requester).stdout)
    assert (status["progress"]["requests"], status["progress"]["retrying"], status["failures"]) == (1, 1, [])
    assert [(each["error_code"], each["requests"], each["example_id"]) for each in status["retries"]] == [
        ("permission_denied", 1, request)
    ]
    listed = json.loads(provisioner("list", "--json", database=cast.requester).stdout)
    assert [(each["id"], each["state"]) for each in listed] == [(request, "retrying")]
    shown = provisioner("show", str(request), database=cast.requester).stdout
    assert "retrying" in shown
    assert "it is retried in" in shown
    exported = provisioner("export", "--format", "jsonl", database=cast.requester).stdout
    assert [json.loads(line)["id"] for line in exported.splitlines()] == [request]
    theirs = provisioner("show", "1", database=cast.requester)
    assert (theirs.returncode, theirs.stderr) == (1, "error: there is no request 1\n")
    other = json.loads(provisioner("status", "--json", database=cast.other).stdout)
    assert (other["progress"]["requests"], other["retries"]) == (0, [])


def test_everybody_can_plan(cast: Cast, tmp_path: Path) -> None:
    """A file is compared with Infisical, and with the part of the database that the role sees."""
    file = tmp_path / "projects.csv"
    file.write_text("project_id\n8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b19\n")
    with simulated("--any-project") as infisical:
        for role in (cast.requester, cast.reader, cast.worker):
            done = provisioner("plan", file, database=role, more=infisical.variables)
            assert done.stderr == ""
            assert "1 line; nothing was changed" in done.stdout


def test_a_requester_is_told_its_place_in_line(cast: Cast, database: Database) -> None:
    """The position in the whole line, including other people's requests."""
    ask(database, 3)
    inserted = "INSERT INTO provisioner.connection_requests (project_id) VALUES (gen_random_uuid()) RETURNING id"
    request = query(cast.requester, inserted).strip()
    assert (
        "it is in the queue of target default at place 5"
        in provisioner("show", request, database=cast.requester).stdout
    )


def test_the_doctor_advises_nobody_more_than_is_needed(cast: Cast, database: Database) -> None:
    """A requester and a reader are fine as they are; a role without rights is shown all three ways."""
    for role, kind in ((cast.requester, "requester"), (cast.reader, "reader"), (cast.worker, "worker")):
        said = provisioner("doctor", database=role).stdout
        assert f"role {name_of(role)} has the rights of a {kind}" in said
        assert "grant --worker" not in said
    query(database, f"REVOKE ALL ON SCHEMA provisioner FROM {name_of(cast.other)}")
    said = provisioner("doctor", database=cast.other).stdout
    assert f"`provisioner grant --requester {name_of(cast.other)}` lets it insert requests and see its own" in said
