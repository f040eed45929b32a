"""The command `provisioner simulate`, as a user starts and stops it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
import typer
from typer.testing import CliRunner

from provisioner.cli.serve.simulate import simulate
from provisioner.sandbox.simulator.chance import FAULTS

START = "import typer; from provisioner.cli.serve.simulate import simulate; typer.run(simulate)"
LIGHT = """
import sys
import provisioner.cli.serve.simulate
heavy = {"aiohttp", "orjson", "uvloop", "provisioner.sandbox.simulator.app"} & set(sys.modules)
sys.exit(f"loaded {heavy}" if heavy else 0)
"""


def command(*options: str) -> list[str]:
    """Return the command line that simulates with these options."""
    return [sys.executable, "-c", START, *options]


@contextmanager
def running(*options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command until the block ends."""
    arguments = command(*options)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command
        try:
            yield process
        finally:
            process.kill()


def ask(*options: str) -> tuple[int, str]:
    """Call the command in this process; return its status and output."""
    app = typer.Typer()
    app.command()(simulate)
    result = CliRunner().invoke(app, list(options), env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return result.exit_code, result.output


def test_a_shell_reads_the_variables(tmp_path: Path) -> None:
    """With `--env FILE` a shell that reads the file has all that other commands need to log in."""
    file = tmp_path / "infisical.env"
    with running("--projects", "0", "--client-secret", "it's made up", "--env", str(file)) as process:
        assert process.stdout
        announced = json.loads(process.stdout.readline())
        shell = ["/bin/sh", "-c", f". {file}; env"]
        told = subprocess.run(shell, capture_output=True, text=True, check=True, env={}).stdout.splitlines()  # noqa: S603
    assert f"INFISICAL_HOST={announced['url']}" in told
    assert f"INFISICAL_UNIVERSAL_AUTH_CLIENT_ID={announced['clientId']}" in told
    assert "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET=it's made up" in told


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_announces_itself_serves_and_stops(stop: signal.Signals) -> None:
    """One line of JSON has its address; it serves until it is told to stop, and then exits 0."""
    with running("--projects", "2", "--client-secret", "made-up", "--seed", "5", "--pool", "7") as process:
        assert process.stdout
        announced = json.loads(process.stdout.readline())
        assert list(announced) == ["url", "clientId", "clientSecret", "organizationId", "projects"]
        assert (len(announced["projects"]), announced["clientSecret"]) == (2, "made-up")
        with urlopen(announced["url"] + "/api/status") as answer:  # noqa: S310 - our own address
            assert answer.status == 200
        with urlopen(announced["url"] + "/_simulator/settings", b"{}") as answer:  # noqa: S310 - our own address
            assert json.load(answer)["settings"]["pool"] == 7
        process.send_signal(stop)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_taken_port_is_one_line_and_status_1() -> None:
    """A port in use is reported in one line that says what to do."""
    with running() as process:
        assert process.stdout
        port = json.loads(process.stdout.readline())["url"].rpartition(":")[2]
        arguments = command("--port", port)
        second = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - our own command
    assert second.returncode == 1
    assert second.stderr == f"provisioner simulate: port {port} is in use; choose another with --port\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--faults", "fire=0.5"], "unknown fault 'fire'; known are cut-before-commit"),
        (["--faults", "slow"], "is not NAME=SHARE"),
        (["--mode", "moon"], "'moon' is neither 'cloud' nor 'self-hosted'"),
        (["--projects", "3", "--any-project"], "cannot be combined with --projects"),
        (["--write-limit", "0"], "--write-limit"),
        (["--pool", "-1"], "--pool"),
        (["--window", "inf"], "window: must be a number"),
    ],
)
def test_bad_usage_is_status_2(options: list[str], complaint: str) -> None:
    """Invalid options are refused with a message that names them."""
    status, said = ask(*options)
    assert status == 2
    assert complaint in said


def test_help_explains_every_option_and_fault() -> None:
    """The help names all options, every fault, and an example."""
    status, said = ask("--help")
    assert status == 0
    options = (
        "port mode write-limit read-limit window latency pool projects any-project client-id client-secret token-ttl"
    )
    assert all(f"--{name}" in said for name in [*options.split(), "faults", "seed"])
    words = " ".join(said.replace("│", " ").split())
    assert all(f"{name}: " in words for name in FAULTS)
    assert "Example: provisioner simulate" in words


def test_the_command_is_quick_to_load() -> None:
    """Importing the command loads neither the server nor its libraries."""
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=30)  # noqa: S603 - our own code
