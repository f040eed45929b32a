"""`provisioner healthcheck`, and the status port of a real daemon."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import eventually
from tests.support.cli import SCRIPT, environment, provisioner, query, started
from tests.support.infisical import Infisical, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.forking import Forked
    from tests.support.postgres import Database


@contextmanager
def daemon(database: Database, infisical: Infisical, **more: str) -> Iterator[tuple[Forked, str]]:
    """A daemon and where it listens; killed at the end if it still runs."""
    told = {**infisical.variables, **more}
    process = started("run", "--listen", "127.0.0.1:0", database=database, more=told, stderr=subprocess.PIPE)
    try:
        # The port is opened before anything else, so that a probe is answered from the beginning.
        said = json.loads(process.stderr.readline())
        assert said["event"] == "status_port_opened"
        yield process, f"127.0.0.1:{said['port']}"
    finally:
        process.kill()
        process.communicate()


def get(address: str, path: str) -> tuple[int, str]:
    """Ask the status port."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


async def test_a_daemon_at_work_is_healthy(database: Database) -> None:
    """Probes, command, metrics and page of one daemon show its work, and it stops when told to."""
    with (
        simulated("--mode", "self-hosted", "--any-project") as infisical,
        daemon(database, infisical) as (process, address),
    ):
        await eventually(lambda: get(address, "/readyz") == (200, "ok\n"))
        for option in ([], ["--ready"]):
            done = provisioner("healthcheck", "--listen", address, *option)
            assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
        query(
            database,
            "INSERT INTO provisioner.connection_requests (project_id, name, batch)"
            " SELECT gen_random_uuid(), 'a', 'onboarding' FROM generate_series(1, 40)",
        )
        created = 'provisioner_calls_total{action="create",outcome="created",status="200",target="default"} 40.0'
        await eventually(lambda: created in get(address, "/metrics")[1])
        settled = 'provisioner_settled_total{code="",outcome="succeeded"} 40.0'
        await eventually(lambda: settled in get(address, "/metrics")[1])
        _, metrics = get(address, "/metrics")
        assert 'provisioner_claimed_total{target="default"} 40.0' in metrics
        assert 'provisioner_logins_total{outcome="granted",target="default"} 1.0' in metrics
        assert 'provisioner_workers{state="alive"} 1.0' in metrics
        await eventually(lambda: json.loads(get(address, "/status.json")[1])["progress"]["succeeded"] == 40)
        assert "100 % finished: 40 of 40" in get(address, "/")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        done = provisioner("healthcheck", "--listen", address)
        assert done.returncode == 1
        assert done.stderr == (
            f"error: no worker answers at {address}: Connection refused;"
            " check that `provisioner run` is running, and read its log\n"
        )


async def test_a_daemon_that_waits_for_its_database_is_healthy_and_not_ready(database: Database) -> None:
    """A database that is away from the beginning keeps the worker from being ready, not from being well."""
    with socket.socket() as nobody, simulated("--mode", "self-hosted") as infisical:
        nobody.bind(("127.0.0.1", 0))
        away = f"postgresql://x@127.0.0.1:{nobody.getsockname()[1]}/x"
        with daemon(database, infisical, PROVISIONER_DATABASE_URL=away) as (_, address):
            assert provisioner("healthcheck", "--listen", address).returncode == 0
            done = provisioner("healthcheck", "--listen", address, "--ready")
            assert (done.returncode, done.stderr) == (1, "error: starting\n")
            assert "provisioner_database_up 0.0" in get(address, "/metrics")[1]
            assert "The database cannot be reached" in get(address, "/")[1]


async def test_a_daemon_that_waits_for_its_database_stops_when_told(database: Database) -> None:
    """A daemon that is told to stop before it reached its database ends at once, with exit status 0."""
    with socket.socket() as nobody, simulated("--mode", "self-hosted") as infisical:
        nobody.bind(("127.0.0.1", 0))
        away = f"postgresql://x@127.0.0.1:{nobody.getsockname()[1]}/x"
        with daemon(database, infisical, PROVISIONER_DATABASE_URL=away) as (process, _):
            heard = iter(process.stderr.readline, "")
            assert any('"database_lost"' in line for line in heard)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


async def test_a_daemon_that_stops_is_healthy_and_not_ready(database: Database) -> None:
    """While the last answers are waited for, the daemon is alive for its keepers and gone for its callers."""
    with (
        simulated("--mode", "self-hosted", "--any-project", "--latency", "1") as infisical,
        daemon(database, infisical) as (process, address),
    ):
        query(database, "INSERT INTO provisioner.connection_requests (project_id) VALUES (gen_random_uuid())")
        await eventually(lambda: query(database, "SELECT count(*) FROM provisioner.in_flight") == "1")
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: get(address, "/readyz") == (503, "stopping\n"))
        assert get(address, "/healthz") == (200, "ok\n")
        assert process.wait(20) == 0


async def test_systemd_is_told(database: Database) -> None:
    """A daemon under systemd announces that it is ready, alive, and stopping."""
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        simulated("--mode", "self-hosted") as infisical,
    ):
        manager.bind(str(Path(directory) / "notify"))
        manager.settimeout(10)
        more = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "600000"}
        with daemon(database, infisical, **more) as (process, _):
            said = ""
            while "READY=1" not in said:
                said = manager.recv(4096).decode()
            assert query(database, "SELECT count(*) FROM provisioner.workers") == "1"
            assert manager.recv(4096) == b"WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            while said != "STOPPING=1":
                said = manager.recv(4096).decode()
            assert process.wait(20) == 0


def test_a_port_in_use_is_one_line_and_exit_status_one(database: Database) -> None:
    """A second daemon on the same port says what to do, and does not begin to work."""
    with simulated("--mode", "self-hosted") as infisical, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = provisioner("run", "--listen", address, database=database, more=infisical.variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: cannot listen on {address}: Address already in use; each worker on a host needs its own address: set"
        " listen.address (or --listen) to a free one, to port 0 for any free port (the log says which), or to off\n"
    )
    assert query(database, "SELECT count(*) FROM provisioner.workers") == "0"


def test_without_a_port_the_check_says_what_else_there_is() -> None:
    """With listen.address off nothing can be queried, and the error says what to do instead."""
    done = provisioner("healthcheck", more={"PROVISIONER_LISTEN__ADDRESS": "off"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the worker has no status port, because listen.address is off")


def test_a_daemon_that_does_not_answer_is_not_waited_for() -> None:
    """A server that accepts the connection and says nothing is not healthy, and the check gives up after seconds."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = provisioner("healthcheck", "--listen", address)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: no worker answers at {address}: ")


def test_bad_usage_is_told_apart() -> None:
    """A wrong address is a matter of settings, with the exit status for that."""
    done = provisioner("healthcheck", "--listen", "nowhere")
    assert done.returncode == 2
    assert "listen" in done.stderr


@pytest.mark.parametrize("where", ["0.0.0.0", "[::]"])  # noqa: S104 - nothing is bound there
def test_who_listens_everywhere_is_asked_nearby(where: str) -> None:
    """The setting for all addresses, which is not an address to connect to, leads to this host."""
    family, near = (socket.AF_INET, "127.0.0.1") if where == "0.0.0.0" else (socket.AF_INET6, "::1")  # noqa: S104
    with socket.socket(family) as daemon:
        try:
            daemon.bind((near, 0))
        except OSError:
            pytest.skip("this host has no IPv6")
        daemon.listen()
        with subprocess.Popen(  # noqa: S603  # our own arguments
            [SCRIPT, "healthcheck", "--listen", f"{where}:{daemon.getsockname()[1]}"],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as check:
            caller, _ = daemon.accept()
            with caller:
                assert caller.recv(4096).startswith(b"GET /healthz HTTP/1.1")
                caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            assert check.communicate(timeout=10)[0] == "ok\n"
        assert check.returncode == 0


def test_the_check_is_cheap() -> None:
    """A probe that runs every few seconds on every host loads neither the database driver, the HTTP client nor Rich."""
    code = (
        "import sys; from provisioner.cli import main; main(['healthcheck', '--listen', '127.0.0.1:1']);"
        "print(sorted({'aiohttp', 'asyncpg', 'rich', 'structlog', 'prometheus_client'} & set(sys.modules)))"
    )
    python = SCRIPT.with_name("python")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(  # noqa: S603  # our own arguments
        [python, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == "[]\n"
    # A fifth of a second on an idle machine; a busy one is given five times that.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_a_worker_imports_nothing_that_it_does_not_use() -> None:
    """A worker without a status port starts without Rich, the web server, Prometheus' library and the reports."""
    code = (
        "import sys; from provisioner.cli import main; import os; os.environ['PROVISIONER_DATABASE_URL'] = 'nonsense';"
        "main(['run', '--listen', 'off']); import provisioner.service;"
        "unused = {'rich', 'aiohttp.web', 'jinja2', 'prometheus_client', 'provisioner.core.reports'};"
        "print(sorted(unused & set(sys.modules)))"
    )
    done = subprocess.run(  # noqa: S603  # our own arguments
        [SCRIPT.with_name("python"), "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
