"""`provisioner submit --wait`: it stays until the file's requests have ended, and its exit status has the result."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from provisioner.cli.bulk import watching
from provisioner.postgres.pool import Database as Pool
from tests.support import wait_until
from tests.support.cli import provisioner, query, started
from tests.support.infisical import Infisical, simulated
from tests.support.roles import granted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Database


@pytest.fixture(scope="module")
def infisical() -> Iterator[Infisical]:
    """Run one simulated Infisical for the tests of this file."""
    with simulated("--mode", "self-hosted", "--any-project") as infisical:
        yield infisical


@contextmanager
def working(database: Database, infisical: Infisical) -> Iterator[None]:
    """Run a worker."""
    process = started("run", "--listen", "off", database=database, more=infisical.variables)
    try:
        alive = "SELECT count(*) = 1 FROM provisioner.workers"
        wait_until(lambda: query(database, alive) == "t")
        yield
    finally:
        process.terminate()
        process.wait()


def projects(count: int) -> str:
    """A file with this many projects."""
    return "project_id,credential\n" + "".join(f"{uuid4()},\n" for _ in range(count))


def test_it_waits_for_a_worker_and_tells_what_came_of_it(database: Database, infisical: Infisical) -> None:
    """The file's requests are done when it returns: 0, or 3 if some failed; other people's failures do not count."""
    old = "INSERT INTO provisioner.connection_requests (project_id, credential) VALUES (gen_random_uuid(), 'nobody')"
    query(database, old)
    with working(database, infisical):
        done = provisioner("submit", "--wait", "-", database=database, given=projects(3).encode())
        assert done.returncode == 0, done.stderr
        assert "inserted      3\n" in done.stdout
        assert done.stdout.endswith("3 succeeded, 0 failed, 0 left\n")
        given = projects(1) + f"{uuid4()},nobody\n"
        failed = provisioner("submit", "--wait", "--json", "-", database=database, given=given.encode())
    assert failed.returncode == 3
    said = json.loads(failed.stdout)
    assert (said["outcome"]["succeeded"], said["outcome"]["failed"]) == (1, {"credential_unknown": 1})
    assert said["warnings"] == [
        (
            "credential nobody of 1 line is not in these settings: its requests fail with credential_unknown where the "
            "workers do not have [credentials.nobody]"
        )
    ]


def test_a_requester_waits_too(database: Database, infisical: Infisical) -> None:
    """A role that only sees its own requests, and no queue, waits for these."""
    with granted(database) as cast, working(database, infisical):
        done = provisioner("submit", "--wait", "-", database=cast.requester, given=projects(2).encode())
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("2 succeeded, 0 failed, 0 left\n")


def test_a_paused_target_ends_the_wait(database: Database, infisical: Infisical) -> None:
    """It does not wait for what only a person can fix: it exits with 1 and names the command."""
    query(database, "SELECT provisioner.pause('default')")
    with working(database, infisical):
        done = provisioner("submit", "--wait", "-", database=database, given=projects(2).encode())
    assert done.returncode == 1
    assert "2 requests wait for target default, which is paused; `provisioner resume default`" in done.stdout


async def test_without_a_worker_the_wait_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no worker serves the target for a while, that is reported."""
    monkeypatch.setattr(watching, "PATIENCE", 0.0)
    monkeypatch.setattr(watching, "LOOK", 0.01)
    row = "INSERT INTO provisioner.connection_requests (project_id) VALUES (gen_random_uuid()) RETURNING id"
    number = int(query(database, row).splitlines()[0])
    pool = Pool(database.url)
    try:
        left = await watching.wait(pool, [number], sees_all=True, quiet=True)
    finally:
        await pool.close()
    assert left.unserved == {"default": 1}


def test_what_nobody_knows_is_said(database: Database) -> None:
    """A target without settings and workers is named, and nothing else is."""
    given = f"project_id,target\n{uuid4()},mars\n{uuid4()},default\n"
    done = provisioner("submit", "-", database=database, given=given.encode())
    assert done.returncode == 0
    assert done.stderr == (
        "warning: target mars of 1 line is not in these settings, and no worker serves it: its requests wait until a "
        "worker has [targets.mars]\n"
    )


def test_a_credential_of_an_export_is_explained(database: Database) -> None:
    """Submitting an export again says why its credential cannot be used, and what to do."""
    given = f"project_id,credential\n{uuid4()},sealed:k0123456789ab\n"
    done = provisioner("submit", "-", database=database, given=given.encode())
    assert done.returncode == 1
    assert "this one is from an export, which leaves the sealed key out: leave the column empty, or give" in done.stderr


@pytest.mark.parametrize("command", [("export",), ("verify",), ("status",)])
def test_a_batch_that_does_not_exist(database: Database, command: tuple[str, ...]) -> None:
    """A mistyped batch is named, and the exit status is 1."""
    done = provisioner(*command, "--batch", "onbording", database=database)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: no request belongs to the batch 'onbording'; `provisioner status` lists the batches\n"
    )
