"""`provisioner submit`: files become rows, and bad lines are named."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support.cli import SCRIPT, environment, provisioner, query
from tests.support.infisical import simulated
from tests.support.operators import ask, fly

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

ONE = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
TWO = "00000000-0000-4000-8000-000000000002"
KEY = "sk-or-v1-planted4711"
OLD = f"INSERT INTO provisioner.connection_requests (project_id, description) VALUES ('{ONE}', 'old')"  # ours
LIMIT = "INSERT INTO provisioner.permits (target, kind, metered, permits) VALUES ('default', 'write', true, 1)"
COUNT = "SELECT count(*) FROM provisioner.connection_requests"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a CSV file that is not there yet."""
    return tmp_path / "projects.csv"


def test_a_file_is_loaded_once(database: Database, file: Path) -> None:
    """The first run loads it, the second finds it there; rows without a batch get that of the command line."""
    file.write_text(f"project_id,name,batch\n{ONE.upper()},a,\n{{{TWO}}},b,own\n{TWO},b,own\n")
    first = provisioner("submit", file, "--batch", "all", database=database)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == (
        f"{file}: 3 lines\n  inserted      2\n  already there 1 (1 repeated in the file)\n"
        "no worker is running: `provisioner run` starts one\n"
    )
    found = query(database, "SELECT project_id, name, batch, status FROM provisioner.connection_requests ORDER BY id")
    assert found == f"{ONE}|a|all|pending\n{TWO}|b|own|pending"
    query(database, "UPDATE provisioner.connection_requests SET status = 'succeeded' WHERE name = 'a'")
    second = provisioner("submit", file, "--batch", "all", database=database)
    assert second.returncode == 0
    assert "inserted      0\n  already there 3 (1 pending, 1 succeeded; 1 repeated in the file)\n" in second.stdout


def test_json_lines_come_through_a_pipe(database: Database) -> None:
    """Standard input is read to its end, and its beginning shows the format."""
    given = f'{{"project_id": "{ONE}", "priority": 5, "not_before": "2100-01-01T00:00:00Z"}}\n'
    done = provisioner("submit", "-", "--json", database=database, given=given.encode())
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert (said["file"], said["lines"], said["inserted"], said["accepted"]) == ("standard input", 1, 1, True)
    assert query(database, "SELECT priority, not_before > now() FROM provisioner.connection_requests") == "5|t"


def test_a_bad_line_stops_the_whole_file(database: Database, file: Path) -> None:
    """Every bad line is named with its column and remedy, and nothing is loaded."""
    file.write_text(f"project_id,name\n{ONE},ok\n{TWO},Not OK\n42,ok\n")
    done = provisioner("submit", file, database=database)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {file}: 2 lines are invalid; nothing was loaded\n"
        "  line 3, name: must be 1 to 64 lower-case letters, digits and single hyphens between them (given: 'Not OK')\n"
        "  line 4, project_id: must be the UUID of the Infisical project (given: '42')\n"
        "  correct them, or load the others with --skip-invalid\n"
    )
    assert query(database, COUNT) == "0"


def test_only_the_first_bad_lines_are_shown(database: Database, file: Path) -> None:
    """Twenty are named, the others counted."""
    file.write_text("project_id\n" + "x\n" * 1025)
    done = provisioner("submit", file, database=database)
    assert done.stderr.count("  line ") == 20
    assert "  … and 1,005 more\n" in done.stderr


def test_bad_lines_can_be_left_out(database: Database, file: Path) -> None:
    """With --skip-invalid the good lines are loaded, the others are named, and the exit status is 3."""
    file.write_text(f"project_id,description\n{ONE},first\n{ONE},second\n{TWO},\nx,\n")
    done = provisioner("submit", file, "--skip-invalid", database=database)
    assert done.returncode == 3
    assert "2 lines are invalid and were skipped" in done.stderr
    assert "line 5, project_id: must be the UUID" in done.stderr
    assert "line 3: asks for the same connection as line 2, with another description; keep one of them" in done.stderr
    assert "inserted      2\n" in done.stdout
    assert "skipped       2\n" in done.stdout
    assert query(database, "SELECT description FROM provisioner.connection_requests ORDER BY id") == "first"


def test_lines_that_contradict_each_other_stop_the_file(database: Database, file: Path) -> None:
    """Two lines for one connection that say different things are a mistake that only its author can fix."""
    file.write_text(f"project_id,description\n{ONE},first\n{ONE},second\n")
    done = provisioner("submit", file, "--json", database=database)
    assert (done.returncode, done.stderr) == (1, "")
    said = json.loads(done.stdout)
    assert (said["accepted"], said["skipped"], said["problems"][0]["line"]) == (False, 1, 3)
    assert query(database, COUNT) == "0"


def test_a_dry_run_changes_nothing(database: Database, file: Path) -> None:
    """--dry-run reports what would happen and how long it would take, and does nothing."""
    query(database, OLD)
    query(database, LIMIT)
    file.write_text(f"project_id,description\n{TWO},\n{ONE},new\n")
    done = provisioner("submit", file, "--dry-run", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"{file}: 2 lines, nothing was loaded (--dry-run)\n  would insert  1\n  already there 1 (1 pending)\n"
        "  1 of those already there has other values and was not changed (the first: line 3);"
        " --update changes them\n"
        "once a worker runs, everything pending takes about 2 min\n"
        "no worker is running: `provisioner run` starts one\n"
    )
    assert query(database, "SELECT description FROM provisioner.connection_requests") == "old"


def test_why_the_end_cannot_be_known_is_told(database: Database, file: Path) -> None:
    """While a target is paused there is no time, but the reason."""
    query(database, LIMIT)
    query(database, "SELECT provisioner.pause('default')")
    file.write_text(f"project_id\n{TWO}\n")
    done = provisioner("submit", file, database=database)
    assert "takes about" not in done.stdout
    assert "there is no forecast of when everything pending ends: paused\n" in done.stdout


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (f"project_id,api_key\n{ONE},{KEY}\n", "x.csv"),
        (f'{{"project_id": "{ONE}", "api_key": "{KEY}"}}\n', "x.jsonl"),
        (f"project_id,credential\n{ONE},{KEY}\n", "x.csv"),
        (f"project_id,priority\n{ONE},{KEY}\n", "x.csv"),
    ],
)
def test_a_key_is_refused_and_never_shown(database: Database, tmp_path: Path, content: str, name: str) -> None:
    """A readable key is neither stored nor repeated, wherever it is."""
    file = tmp_path / name
    file.write_text(content)
    done = provisioner("submit", file, database=database)
    assert done.returncode == 1
    assert "4711" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert query(database, COUNT) == "0"


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere.csv", "cannot be read: No such file or directory"), (".", "cannot be read: Is a directory")],
)
def test_a_file_that_cannot_be_read_is_told(database: Database, tmp_path: Path, name: str, said: str) -> None:
    """A missing file and a directory are reported in one line."""
    done = provisioner("submit", name, database=database, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"error: {name} {said}; nothing was loaded\n")


def test_a_file_of_another_kind_is_told(database: Database, file: Path) -> None:
    """A file that cannot be interpreted is reported in one line."""
    file.write_text(f"{ONE}\n{TWO}\n")
    done = provisioner("submit", file, database=database)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file} has no header")
    assert done.stderr.count("\n") == 1


def test_a_missing_schema_is_told(empty_database: Database, file: Path) -> None:
    """Before `migrate` the message names it."""
    file.write_text(f"project_id\n{ONE}\n")
    done = provisioner("submit", file, database=empty_database)
    assert done.returncode == 1
    assert "run `provisioner migrate`" in done.stderr


def test_a_terminal_shows_how_far_it_is(database: Database, file: Path) -> None:
    """On a terminal a bar shows the checking and the loading, and is gone in the end; the result stays."""
    with file.open("w") as stream:
        stream.write("project_id\n")
        stream.writelines(f"{UUID(int=number)}\n" for number in range(20_000))
    master, slave = pty.openpty()
    told = environment(database, TERM="xterm", COLUMNS="80")
    with subprocess.Popen([SCRIPT, "submit", file], stdout=slave, stderr=slave, env=told) as process:  # noqa: S603  # ours
        os.close(slave)
        shown = b""
        with suppress(OSError):  # how Linux reports that the other side is closed
            while read := os.read(master, 65536):
                shown += read
    os.close(master)
    assert process.returncode == 0
    text = shown.decode()
    assert "checking" in text
    assert "loading" in text
    assert "inserted      20,000" in text.split("loading")[-1]


def test_a_hundred_thousand_lines_take_seconds_and_little_memory(database: Database, file: Path) -> None:
    """A large file is loaded quickly, and the process does not grow with it."""
    peaks = []
    for name, lines in (("small", 1000), ("large", 100_000)):
        with file.open("w") as stream:
            stream.write("project_id,name,description\n")
            stream.writelines(f"{UUID(int=number)},{name},{'x' * 200}\n" for number in range(lines))
        process = subprocess.Popen([SCRIPT, "submit", file], stdout=subprocess.DEVNULL, env=environment(database))  # noqa: S603  # ours
        with process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert usage.ru_utime + usage.ru_stime < 10
        peaks.append(usage.ru_maxrss)
    assert query(database, COUNT) == "101000"
    assert peaks[1] < peaks[0] * 1.5


def test_changed_values_are_taken_over_only_if_asked(database: Database, file: Path) -> None:
    """Without --update existing rows stay unchanged; with it the line's values are applied, and others stay."""
    file.write_text(f"project_id,description,priority\n{ONE},first,3\n{TWO},first,3\n")
    assert provisioner("submit", file, "--batch", "one", database=database).returncode == 0
    file.write_text(f"project_id,description,priority,credential\n{ONE},second,,Team_A\n{TWO},,,\n")
    shown = "SELECT description, priority, batch, credential FROM provisioner.connection_requests ORDER BY id"
    before = query(database, shown)
    for arguments in ([], ["--update", "--dry-run"]):
        assert provisioner("submit", file, *arguments, database=database).returncode == 0
        assert query(database, shown) == before
    said = provisioner("submit", file, "--update", "--dry-run", database=database)
    assert "  would update  1\n" in said.stdout
    done = provisioner("submit", file, "--update", "--batch", "two", database=database)
    assert done.returncode == 0
    assert "  updated       1\n" in done.stdout
    assert query(database, shown) == "second|3|one|Team_A\nfirst|3|one|default"
    again = provisioner("submit", file, "--update", "--json", database=database)
    assert (json.loads(again.stdout)["updated"], again.returncode) == (0, 0)


def test_an_update_that_is_refused_keeps_no_other_from_it(database: Database, file: Path) -> None:
    """A request in flight keeps its values, and is reported with its line; the exit status is 3."""
    flying, free = ask(database, 2)
    fly(database, flying)
    projects = query(database, "SELECT project_id FROM provisioner.connection_requests ORDER BY id").split()
    file.write_text("".join(["project_id,description\n", *(f"{project},new\n" for project in projects)]))
    done = provisioner("submit", file, "--update", database=database)
    assert done.returncode == 3
    assert f"line 2: request {flying} is in flight" in done.stderr
    said = query(database, "SELECT id FROM provisioner.connection_requests WHERE description = 'new'")
    assert said == str(free)


def test_a_sealed_key_of_an_existing_request_is_sent_again(database: Database, file: Path, tmp_path: Path) -> None:
    """A readable key in the file is sealed, and replaces the row's key."""
    keys = {"PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "keys")}
    assert provisioner("keys", "generate", database=database, more=keys).returncode == 0
    query(database, OLD)
    file.write_text(f"project_id,api_key\n{ONE},{KEY}\n")
    done = provisioner("submit", file, "--update", database=database)
    assert "  updated       1\n" in done.stdout
    assert query(database, "SELECT credential LIKE 'sealed:%' FROM provisioner.connection_requests") == "t"


def test_projects_without_the_identity_are_told(database: Database, tmp_path: Path) -> None:
    """If this host can log in to Infisical, one read shows the projects without the identity; all rows are loaded."""
    file = tmp_path / "projects.csv"
    with simulated("--mode", "self-hosted", "--projects", "15") as infisical:
        infisical.set(permissions=dict.fromkeys(infisical.projects[:12], "none"))
        rows = "".join(f"{project},Team {number}\n" for number, project in enumerate(infisical.projects))
        file.write_text("project_id,project_name\n" + rows)
        done = provisioner("submit", file, database=database, more=infisical.variables)
        assert done.returncode == 0
        assert "warning: 12 of 15 projects lack the machine identity of target default, or do not exist" in done.stderr
        assert f"Team 3 ({infisical.projects[3]})" in done.stderr
        assert "and 2 more" in done.stderr
        assert infisical.state()["requests"]["GET /api/v1/projects"] == {"200": 1}
        infisical.set(outage="refuse")
        again = provisioner("submit", file, database=database, more=infisical.variables)
        assert (again.returncode, again.stderr) == (0, "")
    assert query(database, "SELECT count(*) FROM provisioner.connection_requests") == "15"
