"""`provisioner list`: which requests there are."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import SCRIPT, environment, provisioner, query
from tests.support.operators import ask, finish, one_of_each

if TYPE_CHECKING:
    from tests.support.postgres import Database


def listed(database: Database, *arguments: str) -> list[int]:
    """The listed ids, in order."""
    done = provisioner("list", "--json", *arguments, database=database)
    assert (done.returncode, done.stderr) == (0, "")
    return [each["id"] for each in json.loads(done.stdout)]


def test_an_empty_table_is_no_trouble(database: Database) -> None:
    """Nothing to list is said, and is an empty array for programs."""
    done = provisioner("list", database=database)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no request matches\n", "")
    assert provisioner("list", "--json", database=database).stdout == "[]\n"


def test_the_newest_come_first_in_whole_plain_lines(database: Database) -> None:
    """Without a terminal each request is one whole line, with its state and what came of it."""
    ids = one_of_each(database)
    done = provisioner("list", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["id", "state", "target", "project", "name", "batch", "tries", "created", "result"]
    assert [line.split()[:2] for line in lines] == [[str(ids[state]), state] for state in reversed(ids)]
    assert "project_not_found" in lines[4]
    assert "permission_denied, again 20" in lines[2]
    assert "\x1b" not in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "states"),
    [
        (["--state", "failed"], ["failed"]),
        (["--state", "failed", "--state", "ready"], ["ready", "failed"]),
        (["--state", "pending"], ["ready", "in_flight", "retrying"]),
        (["--error", "project_not_found"], ["failed"]),
        (["--error", "permission_denied"], ["retrying"]),
        (["--state", "ready", "--error", "permission_denied"], []),
    ],
)
def test_filters_choose(database: Database, arguments: list[str], states: list[str]) -> None:
    """One filter's values add up, different filters narrow down; the last error of what waits counts too."""
    ids = one_of_each(database)
    assert listed(database, *arguments) == [ids[state] for state in states]


def test_batch_project_target_and_ids_choose(database: Database) -> None:
    """Filters by batch, project, target and ids work."""
    (first,) = ask(database, batch="'a'")
    (second,) = ask(database, target="'eu'", batch="'b'")
    (third,) = ask(database, batch="'b'")
    project = query(database, f"SELECT project_id FROM provisioner.connection_requests WHERE id = {first}")
    assert listed(database, "--batch", "b") == [third, second]
    assert listed(database, "--batch", "b", "--target", "eu") == [second]
    assert listed(database, "--project", project.upper()) == [first]
    assert listed(database, str(first), str(third)) == [third, first]


def test_what_does_not_fit_is_counted_and_can_be_reached(database: Database) -> None:
    """`--limit` shows that many and says how many more there are; `--before` continues there."""
    ids = ask(database, 5)
    done = provisioner("list", "--limit", "2", database=database)
    assert done.stdout.endswith(f"… and 3 more; --before {ids[3]} continues there\n")
    assert listed(database, "--limit", "9", "--before", str(ids[3])) == [ids[2], ids[1], ids[0]]
    as_json = provisioner("list", "--limit", "2", "--json", database=database)
    assert [each["id"] for each in json.loads(as_json.stdout)] == [ids[4], ids[3]]
    assert "3 more" in as_json.stderr


def test_an_unknown_id_is_told(database: Database) -> None:
    """Unknown ids are named, and the exit status is 1; the others are listed."""
    (known,) = ask(database)
    done = provisioner("list", str(known), "4711", database=database)
    assert done.returncode == 1
    assert done.stderr == "error: there is no request 4711\n"
    assert done.stdout.splitlines()[1].split()[0] == str(known)


def test_a_sealed_key_is_not_shown(database: Database) -> None:
    """Of a sealed credential only the key's id is listed."""
    ask(database, credential=f"'sealed:key-1:{'QUJD' * 40}'")
    done = provisioner("list", "--json", database=database)
    assert json.loads(done.stdout)[0]["credential"] == "sealed:key-1"
    assert "QUJD" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--state", "done"], "'done' is not one of 'pending'"),
        (["--error", "oops"], "'oops' is not one of 'name_conflict'"),
        (["--project", "x"], "'--project': must be a valid UUID"),
        (["nine"], "'ID': must be the id of a request, a whole number"),
        (["9223372036854775808"], "must be the id of a request"),
    ],
)
def test_a_filter_that_cannot_be_is_bad_usage(database: Database, arguments: list[str], said: str) -> None:
    """A filter that cannot match anything is refused instead of matching nothing."""
    done = provisioner("list", *arguments, database=database)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_terminal_gets_a_table_that_fits(database: Database) -> None:
    """On a terminal no line is longer than it is wide, and columns that say the same of all are left out."""
    finish(database, ask(database, 2, name="'n-' || repeat('x', 60)"), "failed", "gave_up")
    ours, theirs = pty.openpty()
    told = environment(database, TERM="xterm-256color", COLUMNS="90", NO_COLOR="1")
    with subprocess.Popen([SCRIPT, "list"], stdout=theirs, stdin=theirs, env=told) as process:  # noqa: S603  # ours
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how a terminal reports that nobody writes to it any more
            while more := os.read(ours, 65536):
                shown += more
    os.close(ours)
    assert process.returncode == 0
    assert shown.count(b"gave_up") == 2
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= 90
    assert "target" not in shown.decode()
    assert "batch" not in shown.decode()


def test_the_oldest_can_come_first(database: Database) -> None:
    """With --oldest-first the list begins at the other end; each page says how many more there are and where."""
    ids = ask(database, 5)
    assert listed(database, "--oldest-first") == ids
    done = provisioner("list", "--oldest-first", "--limit", "2", database=database)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:3]] == [str(each) for each in ids[:2]]
    assert done.stdout.endswith(f"… and 3 more; --after {ids[1]} continues there\n")
    assert listed(database, "--oldest-first", "--after", str(ids[1])) == ids[2:]
    done = provisioner("list", "--after", str(ids[0]), "--limit", "2", database=database)
    assert done.stdout.endswith(f"… and 2 more; --before {ids[3]} continues there\n")
