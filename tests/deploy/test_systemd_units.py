"""The units of `config/systemd`, as systemd itself judges them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import SCRIPT
from tests.support.deploy import CONFIG, is_command, started

if TYPE_CHECKING:
    from pathlib import Path

    from provisioner.settings import Settings

UNITS = CONFIG / "systemd"
NAMES = ["provisioner.service", "provisioner@.service", "provisioner-migrate.service"]
PROGRAM = "/opt/provisioner/bin/provisioner"
SECRETS = "/etc/provisioner/secrets"
analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")


def lines(name: str) -> list[tuple[str, str]]:
    """The settings of a unit, in order."""
    text = (UNITS / name).read_text()
    return [(key, value) for key, value in re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE)]


def unit(name: str) -> dict[str, str]:
    """The settings of a unit that are said once."""
    return dict(lines(name))


def settings_of(tmp_path: Path, *names: str) -> Settings:
    """The settings of a service that systemd has started from these files; `%d` is where its credentials are."""
    said = [line for name in names for line in lines(name)]
    environment = dict(value.split("=", 1) for key, value in said if key == "Environment")
    loaded = dict(value.split(":", 1) for key, value in said if key == "LoadCredential")
    assert all(path == f"{SECRETS}/{name}" for name, path in loaded.items())
    environment.pop("PROVISIONER_CONFIG")
    return started(environment, tmp_path, mounted={"%d": list(loaded)})


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_systemd_understands_it(name: str, tmp_path: Path) -> None:
    """Every key and value is known to systemd, which says nothing about the unit."""
    copy = tmp_path / name.replace("@", "@9465")
    copy.write_text((UNITS / name).read_text().replace(PROGRAM, str(SCRIPT)))
    done = subprocess.run(  # noqa: S603  # our own arguments
        [shutil.which("systemd-analyze") or "", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "provisioner" in line]) == (0, [])


@analyze
@pytest.mark.parametrize("name", NAMES)
def test_it_may_do_little(name: str) -> None:
    """Of ten points of exposure, the unit has less than two."""
    done = subprocess.run(  # noqa: S603  # our own arguments
        [shutil.which("systemd-analyze") or "", "security", "--offline=true", "--threshold=20", UNITS / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_a_command_that_there_is(name: str) -> None:
    """What is started is a command of the command line."""
    program, *words = unit(name)["ExecStart"].split()
    assert program == PROGRAM
    assert is_command(words)


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_worker_can_log_in(name: str, tmp_path: Path) -> None:
    """With the client id in its environment, a worker has from its credentials whatever else it needs."""
    settings = settings_of(tmp_path, name)
    assert settings.database_url()
    assert settings.targets["default"].client_secret
    assert settings.credentials["default"].file


def test_the_migration_needs_the_database_alone(tmp_path: Path) -> None:
    """The migration is given the database's URL and no other secret."""
    settings = settings_of(tmp_path, "provisioner-migrate.service")
    assert settings.database_url()
    assert settings.targets["default"].client_secret is None
    assert [value for key, value in lines("provisioner-migrate.service") if key == "LoadCredential"] == [
        f"database-url:{SECRETS}/database-url"
    ]


def test_the_drop_in_brings_the_sealing_keys(tmp_path: Path) -> None:
    """With the drop-in a worker reads the sealing keys from its credentials."""
    settings = settings_of(tmp_path, "provisioner.service", "sealing.conf")
    assert settings.sealing.key_file.is_file()


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_worker_has_time_to_stop(name: str, tmp_path: Path) -> None:
    """Systemd waits longer than the worker's grace before it kills."""
    assert float(unit(name)["TimeoutStopSec"]) >= settings_of(tmp_path, name).worker.grace + 10


def test_instances_differ_from_the_single_worker_in_their_port_alone() -> None:
    """The template says what the single service says, and where each instance listens."""
    single, template = lines("provisioner.service"), lines("provisioner@.service")
    assert [pair for pair in single if pair not in template and pair[0] != "Description"] == [
        ("ExecStart", f"{PROGRAM} run")
    ]
    assert [pair for pair in template if pair not in single and pair[0] != "Description"] == [
        ("ExecStart", f"{PROGRAM} run --listen 127.0.0.1:%i")
    ]


def test_hardening_leaves_the_program_working() -> None:
    """With memory that is never both writable and executable, as the units demand, everything native still loads."""
    code = (
        "import ctypes, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"  # PR_SET_MDWE
        "import asyncpg, nacl.public, orjson, uvloop\n"
        "box = nacl.public.PrivateKey.generate()\n"
        "nacl.public.SealedBox(box).decrypt(nacl.public.SealedBox(box.public_key).encrypt(b'x'))\n"
        "async def main(): pass\n"
        "uvloop.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603  # our own code
    if done.returncode == 77:
        pytest.skip("this kernel cannot be asked for it")
    assert (done.returncode, done.stderr) == (0, "")
