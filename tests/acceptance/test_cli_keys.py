"""Sealed keys from the command line to the connection: generate, seal, submit, work, rotate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from provisioner.core.model import Request
from provisioner.credentials.sealing import BoxOpener
from tests.support.cli import provisioner, query
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

ONE = "8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11"
TWO = "4f5a3c2b-0d8e-4b52-8a53-5a0f1c9e7d21"
KEY = "sk-or-v1-recognisable-4711"
ROWS = "SELECT name, status, error_code, credential FROM provisioner.connection_requests ORDER BY name"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Where this host keeps its sealing keys."""
    return {"PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "sealing.keys")}


def test_a_submitted_key_reaches_infisical_and_nobody_else(
    database: Database, tmp_path: Path, keys: dict[str, str]
) -> None:
    """An `api_key` of a bulk file is sealed on its way in, opened by the worker, and wiped after success."""
    assert provisioner("keys", "generate", database=database, more=keys).returncode == 0
    file = tmp_path / "projects.csv"
    file.write_text(f"project_id,api_key\n{ONE},{KEY}\n{TWO},{KEY}\n")
    for said in ("inserted", "already there"):  # the second time nothing changes
        done = provisioner("submit", file, database=database)
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout
    assert (
        query(database, "SELECT count(*) FROM provisioner.connection_requests WHERE credential LIKE 'sealed:k%'") == "2"
    )
    assert KEY not in query(database, "SELECT * FROM provisioner.connection_requests")
    with simulated("--mode", "self-hosted", "--any-project") as infisical:
        done = provisioner("run", "--drain", "--listen", "off", database=database, more={**infisical.variables, **keys})
        assert done.returncode == 0, done.stderr
        made = infisical.state()["connections"]
    assert len({connection["keyFingerprint"] for connection in made}) == 1
    assert {connection["projectId"] for connection in made} == {ONE, TWO}
    assert query(
        database, "SELECT DISTINCT split_part(credential, ':', 3), status FROM provisioner.connection_requests"
    ) == ("wiped|succeeded")
    assert KEY not in done.stdout + done.stderr


def test_a_box_in_another_row_is_refused(database: Database, keys: dict[str, str]) -> None:
    """A sealed key that somebody copies into another project's row opens nothing there."""
    provisioner("keys", "generate", database=database, more=keys)
    box = provisioner("seal", "--project", ONE, database=database, given=f"{KEY}\n".encode()).stdout.strip()
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id, name, credential)"
        f" VALUES ('{ONE}', 'openrouter', '{box}'), ('{TWO}', 'stolen', '{box}')",
    )
    with simulated("--mode", "self-hosted", "--any-project") as infisical:
        provisioner("run", "--drain", "--listen", "off", database=database, more={**infisical.variables, **keys})
        assert [create["projectId"] for create in infisical.state()["creates"]] == [ONE]
    mine, stolen = query(database, ROWS).splitlines()
    assert mine.startswith("openrouter|succeeded||sealed:")
    assert stolen.startswith("stolen|failed|credential_unreadable|")


def test_rotation(database: Database, keys: dict[str, str]) -> None:
    """A new key seals at once, old boxes are counted, and sealing them anew leaves none to the old key."""
    provisioner("keys", "generate", database=database, more=keys)
    first = query(database, "SELECT key_id FROM provisioner.sealing_key()")
    box = provisioner("seal", "--project", ONE, database=database, given=KEY.encode()).stdout.strip()
    assert box.startswith(f"sealed:{first}:")
    query(database, f"INSERT INTO provisioner.connection_requests (project_id, credential) VALUES ('{ONE}', '{box}')")
    provisioner("keys", "generate", database=database, more=keys)
    second = query(database, "SELECT key_id FROM provisioner.sealing_key()")
    assert second != first
    listed = provisioner("keys", "list", database=database).stdout.splitlines()
    assert [line.split()[0] for line in listed if line.split()[-1] == "1"] == [first]
    done = provisioner("keys", "reseal", database=database, more=keys)
    assert done.stdout == f"sealed with {second}: 1 more\n"
    assert query(database, "SELECT split_part(credential, ':', 2) FROM provisioner.connection_requests") == second


def test_without_a_key_nothing_is_loaded(database: Database, tmp_path: Path) -> None:
    """A file with readable keys and no sealing key is refused in one line that says what to do."""
    file = tmp_path / "projects.csv"
    file.write_text(f"project_id,api_key\n{ONE},{KEY}\n")
    done = provisioner("submit", file, database=database)
    assert done.returncode == 1
    assert done.stderr == "error: there is no sealing key yet: `provisioner keys generate` makes one\n"
    assert query(database, "SELECT count(*) FROM provisioner.connection_requests") == "0"


def test_the_private_half_may_go_to_standard_output(database: Database, keys: dict[str, str], tmp_path: Path) -> None:
    """With --stdout the private key is printed for a secret store, and no file is written."""
    done = provisioner("keys", "generate", "--stdout", database=database, more=keys)
    key_id, private = done.stdout.split()
    assert key_id == query(database, "SELECT key_id FROM provisioner.sealing_key()")
    assert len(private) == 44
    assert not (tmp_path / "sealing.keys").exists()


def test_seal_takes_a_key_as_windows_writes_it(database: Database, tmp_path: Path, keys: dict[str, str]) -> None:
    """A byte-order mark, UTF-16 and CRLF are taken away; what cannot be a key is refused, and none of it is shown."""
    assert provisioner("keys", "generate", database=database, more=keys).returncode == 0
    asked = ("seal", "--project", ONE)
    for given in (f"{KEY}\r\n".encode("utf-8-sig"), f"{KEY}\r\n".encode("utf-16")):
        done = provisioner(*asked, database=database, more=keys, given=given)
        assert (done.returncode, done.stderr) == (0, "")
        request = Request(id=1, project_id=ONE, name="openrouter", description=None, credential=done.stdout.strip())
        assert BoxOpener(tmp_path / "sealing.keys").open(request).reveal() == KEY
    for wrong, said in (
        (f"{KEY}\n{KEY}\n".encode(), "contains a line break"),
        (f'"{KEY}"'.encode(), "is in quotation marks"),
        (f"{KEY}\N{ZERO WIDTH SPACE}x".encode(), "contains the invisible character U+200B"),
        (b"\xff\x00", "is not UTF-8 text"),
        (b"\xef\xbb\xbf\r\n", "contains no API key"),
    ):
        done = provisioner(*asked, database=database, more=keys, given=wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"standard input {said}" in done.stderr
        assert KEY not in done.stderr
