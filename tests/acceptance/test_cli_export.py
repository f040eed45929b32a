"""`provisioner export`: results for other programs."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from provisioner.core.alerts import ADVICE
from tests.support.cli import SCRIPT, environment, provisioner, query
from tests.support.operators import ask, finish, one_of_each

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

MANY = (
    "INSERT INTO provisioner.connection_requests (project_id, name, status, connection_id)"
    " SELECT gen_random_uuid(), 'n-' || i, 'succeeded', gen_random_uuid() FROM generate_series({}, {}) AS i"
)


def test_csv_goes_to_standard_output(database: Database) -> None:
    """Every request is a line of CSV below a header, the oldest first, whatever characters it holds."""
    ids = one_of_each(database)
    (odd,) = ask(database, description="E'a \"b\",\\nü'", not_before="'2100-01-01Z'")
    done = provisioner("export", database=database, more={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [int(row["id"]) for row in rows] == [*ids.values(), odd]
    assert [row["state"] for row in rows] == [*ids, "waiting"]
    assert rows[-1]["description"] == 'a "b",\nü'
    assert rows[-1]["not_before"] == "2100-01-01T00:00:00+00:00"
    assert (rows[0]["adopted"], rows[0]["error_code"]) == ("false", "")
    made = query(database, f"SELECT connection_id FROM provisioner.connection_requests WHERE id = {rows[0]['id']}")
    assert rows[0]["connection_id"] == made


@pytest.mark.parametrize(("name", "option"), [("x.jsonl", []), ("x.txt", ["--format", "jsonl"])])
def test_json_lines_go_to_a_file(database: Database, tmp_path: Path, name: str, option: list[str]) -> None:
    """The format follows from the file's suffix or `--format`, and the filters choose."""
    ids = one_of_each(database)
    file = tmp_path / name
    done = provisioner("export", "--state", "failed", "-o", file, *option, database=database)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert (row["id"], row["state"], row["error_code"]) == (ids["failed"], "failed", "project_not_found")
    assert (row["adopted"], row["connection_id"]) == (False, None)


def test_a_sealed_key_is_not_written(database: Database) -> None:
    """Of a sealed credential only the key's id is written, also after it was wiped."""
    first, second = ask(database, 2, credential=f"'sealed:key-1:{'QUJD' * 40}'")
    query(
        database,
        f"UPDATE provisioner.connection_requests SET credential = 'sealed:key-1:wiped' WHERE id = {second}",
    )
    done = provisioner("export", "--format", "jsonl", database=database)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["id"], row["credential"]) for row in rows] == [(first, "sealed:key-1"), (second, "sealed:key-1")]
    assert "QUJD" not in done.stdout


def test_a_file_is_replaced_only_by_a_whole_one(database: Database, empty_database: Database, tmp_path: Path) -> None:
    """The old file stays until the new one is complete; nothing else is left behind."""
    file = tmp_path / "x.csv"
    file.write_text("old")
    file.chmod(0o640)
    assert provisioner("export", "-o", file, database=empty_database).returncode == 1
    assert file.read_text() == "old"
    finish(database, ask(database))
    assert provisioner("export", "-o", file, database=database).returncode == 0
    assert file.read_text().startswith("id,target,")
    assert file.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["x.csv"]  # noqa: PTH208  # names are all that matters


def test_a_file_that_cannot_be_written_is_told(database: Database, tmp_path: Path) -> None:
    """A missing directory is reported in one line."""
    done = provisioner("export", "-o", tmp_path / "no" / "x.csv", database=database)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'no' / 'x.csv'} cannot be written: No such file or directory\n"


@pytest.mark.parametrize("command", ["export", "discover"])
def test_a_spreadsheet_is_not_written_as_csv(database: Database, tmp_path: Path, command: str) -> None:
    """No spreadsheet opens CSV under its own suffix: that is bad usage, unless a format is named as well."""
    done = provisioner(command, "--output", tmp_path / "results.xlsx", database=database)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert ".xlsx cannot be written: name a .csv file, which spreadsheets open" in done.stderr


def test_a_full_disk_is_told(database: Database) -> None:
    """A full disk is reported as such, and not as trouble with the database."""
    query(database, MANY.format(1, 2000))
    done = provisioner("export", "-o", "/dev/full", database=database)
    assert done.returncode == 1
    assert done.stderr == "error: /dev/full cannot be written: No space left on device\n"


def test_an_unknown_id_is_told(database: Database) -> None:
    """Nothing is written for ids that are not there."""
    done = provisioner("export", "4711", database=database)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: there is no request 4711\n")


def test_a_reader_that_has_seen_enough_is_no_error(database: Database) -> None:
    """`provisioner export | head -1` ends without a complaint."""
    query(database, MANY.format(1, 20_000))
    with subprocess.Popen(  # noqa: S603  # our own arguments
        [SCRIPT, "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(database), text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("id,")
        process.stdout.close()
        assert process.stderr.read() == ""


def test_memory_does_not_grow_with_the_table(database: Database, tmp_path: Path) -> None:
    """A hundred thousand requests are written in seconds, and the process does not grow with them."""
    peaks = []
    for first, last in ((1, 1000), (1001, 100_000)):
        query(database, MANY.format(first, last))
        with subprocess.Popen(  # noqa: S603  # our own arguments
            [SCRIPT, "export", "-o", tmp_path / "x.csv"], env=environment(database)
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        assert usage.ru_utime + usage.ru_stime < 10
        peaks.append(usage.ru_maxrss)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 100_001
    assert peaks[1] < peaks[0] * 1.3


FORMULAS = [
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    "'=1",
    "a=1",
    "'quoted'",
    'say "hi",\r\nthere\rand\n',
    " padded ",
]


def test_formulas_are_written_as_text(database: Database, tmp_path: Path) -> None:
    """No cell is a formula to a spreadsheet, and `submit` reads the file back unchanged."""
    for number, text in enumerate(FORMULAS):
        quoted = text.replace("'", "''")
        ask(database, name=f"'n-{number}'", description=f"'{quoted}'", project_name="'-Cash Desk'")
    file = tmp_path / "x.csv"
    assert provisioner("export", "-o", file, database=database).returncode == 0
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["description"][:1] in "=+-@\t\r" for row in rows] == [False] * len(FORMULAS)
    assert {row["project_name"] for row in rows} == {"'-Cash Desk"}
    assert json.loads(provisioner("list", "--json", database=database).stdout)[0]["project_name"] == "-Cash Desk"
    again = provisioner("submit", file, "--dry-run", "--json", database=database)
    assert (json.loads(again.stdout)["already_there"], json.loads(again.stdout)["different"]) == (len(FORMULAS), 0)
    each = "md5(name || description || project_name)"
    described = f"SELECT string_agg({each}, ',' ORDER BY name) FROM provisioner.connection_requests"
    before = query(database, described)
    query(database, "DELETE FROM provisioner.connection_requests")
    loaded = provisioner("submit", file, database=database)
    assert (loaded.returncode, loaded.stderr) == (0, "")
    assert query(database, described) == before


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_what_was_exported_is_submitted_again(database: Database, tmp_path: Path, name: str) -> None:
    """An export of any requests, with their results, is a file that asks for the same ones."""
    one_of_each(database)
    ask(
        database,
        name="'odd'",
        target="'eu'",
        priority="-5",
        batch="'=b'",
        on_conflict="'adopt'",
        not_before="'2100-01-01Z'",
    )
    ask(database, name="'named'", credential="'team_a'", project_name="'Zürich, \"main\"'", description="'x'")
    columns = (
        "target, project_id, name, description, credential, on_conflict, priority, batch, project_name, not_before"
    )
    asked = f"SELECT {columns} FROM provisioner.connection_requests ORDER BY project_id, name"
    before = query(database, asked)
    assert provisioner("export", "-o", tmp_path / name, database=database).returncode == 0
    query(database, "DELETE FROM provisioner.connection_requests")
    loaded = provisioner("submit", tmp_path / name, database=database)
    assert loaded.returncode == 0
    assert all(line.startswith("warning: ") for line in loaded.stderr.splitlines())  # of targets that are not ours
    assert query(database, asked) == before


def test_the_columns_of_an_export_are_known_to_submit() -> None:
    """Every column is either asked for or passed over."""
    from provisioner.intake import rows
    from provisioner.postgres.browse import COLUMNS

    assert set(COLUMNS) <= {*rows.COLUMNS, *rows.RESULTS}


def test_a_byte_order_mark_is_for_excel(database: Database, tmp_path: Path) -> None:
    """With `--bom` a CSV begins with the mark, `submit` takes the file back, and no other form has one."""
    ask(database, project_name="'Zürich'")
    file = tmp_path / "x.csv"
    assert provisioner("export", "--bom", "-o", file, database=database).returncode == 0
    assert file.read_bytes().startswith(b"\xef\xbb\xbfid,target,")
    again = provisioner("submit", file, "--dry-run", "--json", database=database)
    assert json.loads(again.stdout)["already_there"] == 1
    refused = provisioner("export", "--bom", "--format", "html", database=database)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "works only with CSV" in refused.stderr


def test_a_page_tells_what_came_of_it(database: Database, tmp_path: Path) -> None:
    """A page has the totals, the causes with what to do, and every request, and runs nothing of what others wrote."""
    ids = one_of_each(database)
    ask(database, project_name="'<script>alert(1)</script>'", batch="'mixed'", name="'odd'")
    ask(database, batch="'another'", name="'elsewhere'")
    file = tmp_path / "x.html"
    done = provisioner("export", "-o", file, "--batch", "mixed", database=database)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    page = file.read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "batch mixed" in page
    assert "<dt>requests</dt><dd>7</dd>" in page
    assert '<dt>failed</dt><dd class="bad">1</dd>' in page
    assert ADVICE["project_not_found"] in html.unescape(page)
    assert all(f'data-label="request">{number}</td>' in page for number in ids.values())
    assert "elsewhere" not in page
