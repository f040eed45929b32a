"""The command line as a whole: help, errors, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from provisioner import __version__
from provisioner.cli.commands import COMMANDS
from provisioner.cli.terminal.frame import guarded
from tests.support.cli import SCRIPT, environment, provisioner

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("aiohttp", "asyncpg", "pydantic", "rich", "structlog", "provisioner.cli.look.status")
NOBODY = {"PROVISIONER_DATABASE_URL": "postgresql://me:planted-4711@127.0.0.1:1/nowhere"}


def test_help_lists_every_command() -> None:
    """`--help` shows each command with its summary and explains the exit statuses."""
    done = provisioner("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert command.summary in done.stdout
    assert "Exit status: 0 done" in done.stdout


def test_as_a_module_it_ends_with_the_same_status() -> None:
    """`python -m provisioner` equals the script, including the exit status."""
    for arguments, status in ((["--help"], 0), (["status", "--json"], 1), (["nonsense"], 2)):
        done = subprocess.run(  # noqa: S603  # ours
            [sys.executable, "-m", "provisioner", *arguments],
            capture_output=True,
            check=False,
            env=environment(None, **NOBODY),
        )
        assert done.returncode == status, done.stderr


def test_help_is_quick() -> None:
    """`--help` costs less than a quarter of a second of computing: it imports nothing that only commands need."""
    costs = []
    for _ in range(3):
        with subprocess.Popen([SCRIPT, "--help"], stdout=subprocess.DEVNULL, env=environment()) as process:  # noqa: S603  # ours
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        costs.append(usage.ru_utime + usage.ru_stime)
    assert min(costs) < 0.25
    script = "import sys, provisioner.cli as cli\nsys.argv[1:] = ['--help']\ncli.main()\nprint(*sys.modules)"
    done = subprocess.run(  # noqa: S603  # our own arguments
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, env=environment()
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert imported.isdisjoint(HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(command: str) -> None:
    """Every command is listed, and no line is wider than eighty columns."""
    done = provisioner(command, "--help", more={"COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: provisioner {command}" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_every_command_starts_by_itself() -> None:
    """A command's module can be imported while no other is."""
    code = """
import os
from provisioner.cli import load_command
from provisioner.cli.commands import COMMANDS
for name in COMMANDS:
    if (child := os.fork()) == 0:
        load_command(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())  # noqa: S603  # our own code


def test_version_is_told() -> None:
    """`--version` names the program and its version."""
    assert provisioner("--version").stdout == f"provisioner {__version__}\n"


def test_nothing_asked_shows_the_help() -> None:
    """Without a command the help goes to standard error, as bad usage."""
    done = provisioner()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sbumit", "x"], "No such command 'sbumit'. Did you mean 'submit'?"),
        (["submit"], "Missing argument 'FILE'"),
        (["status", "--wacth"], "No such option: --wacth (Possible options: --batch, --watch)"),
        (["submit", "x", "--format", "xml"], "'xml' is not one of 'csv', 'jsonl'"),
        (["submit", "x", "--batch", ""], "Invalid value for '--batch': must be 1 to 200 characters"),
    ],
)
def test_bad_usage_is_one_line_and_two(arguments: list[str], said: str) -> None:
    """Bad usage is reported in one line with a hint, with exit status 2."""
    done = provisioner(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "--help`)" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["migrate"], ["migrate", "--check"], ["status"], ["submit", "-"]])
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "no database is set: set PROVISIONER_DATABASE_URL"),
        (
            {"PROVISIONER_DATABASE_URL": "mysql://planted-4711"},
            "PROVISIONER_DATABASE_URL must begin with postgresql://",
        ),
        (NOBODY | {"PROVISIONER_RETRY__BASE": "soon"}, "PROVISIONER_RETRY__BASE must be a number"),
        (NOBODY | {"PROVISIONER_RETRI__BASE": "1"}, "PROVISIONER_RETRI__BASE is not a setting"),
    ],
)
def test_bad_settings_are_one_line_and_two(command: list[str], variables: dict[str, str], said: str) -> None:
    """A wrong setting is named in one line, with exit status 2, and its value is not shown."""
    done = provisioner(*command, more=variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert "4711" not in done.stderr


@pytest.mark.parametrize("command", [["migrate"], ["migrate", "--check"], ["status"], ["submit", "-"]])
def test_an_unreachable_database_is_one_line_and_one(command: list[str]) -> None:
    """If nothing listens, one line says what to check; no traceback, no password."""
    done = provisioner(*command, more=NOBODY, given=b"project_id\n7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the database cannot be reached: ")
    assert "PROVISIONER_DATABASE_URL" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "4711" not in done.stderr


@pytest.mark.parametrize("order", ["before", "after"])
def test_the_settings_file_may_be_named_before_or_after_the_command(tmp_path: Path, order: str) -> None:
    """`--config` counts in both places."""
    file = tmp_path / "mine.toml"
    file.write_text("[retry]\nbase = 7.5\n")
    named = ["--config", str(file)]
    done = provisioner(*named, "settings") if order == "before" else provisioner("settings", *named)
    assert done.returncode == 0
    assert any(line.split()[:2] == ["retry.base", "7.5"] for line in done.stdout.splitlines())


def test_a_missing_settings_file_is_told() -> None:
    """A settings file that was named has to be there."""
    done = provisioner("--config", "/nowhere.toml", "status")
    assert done.returncode == 2
    assert "/nowhere.toml" in done.stderr


@pytest.mark.parametrize("arguments", [("--config", ""), ("status", "--config", ""), ("--config", "mine.toml")])
def test_an_empty_settings_file_or_no_command_is_told_in_a_line(arguments: tuple[str, ...]) -> None:
    """An empty name, as of a variable that is not set, and a call without a command are usage errors of one line."""
    done = provisioner(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert ("a command is missing" if arguments[-1] else "must be the path of a settings file") in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`provisioner … | head -1` ends without a complaint."""
    with subprocess.Popen(  # noqa: S603  # our own arguments
        [SCRIPT, "settings"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""


def test_a_shell_can_complete_commands() -> None:
    """The shell gets the commands with this beginning."""
    done = provisioner(
        more={"_PROVISIONER_COMPLETE": "complete_bash", "COMP_WORDS": "provisioner s", "COMP_CWORD": "1"}
    )
    assert {"status", "submit", "settings", "simulate", "show", "seal"} == set(done.stdout.split())
    done = provisioner(
        more={"_PROVISIONER_COMPLETE": "complete_bash", "COMP_WORDS": "provisioner status --w", "COMP_CWORD": "2"}
    )
    assert done.stdout.split() == ["--watch"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str) -> None:
    """The shell's script names the program, and queries it in that shell's own way."""
    done = provisioner(more={"_PROVISIONER_COMPLETE": f"source_{shell}"})
    assert (done.returncode, done.stderr) == (0, "")
    assert f"complete_{shell}" in done.stdout


@pytest.mark.parametrize(("shell", "more"), [("zsh", {}), ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})])
def test_zsh_and_fish_complete_commands_with_their_summaries(shell: str, more: dict[str, str]) -> None:
    """If the shell can show it, each command has its description."""
    asked = {"_PROVISIONER_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "provisioner su", **more}
    assert "submit" in (said := provisioner(more=asked).stdout)
    assert COMMANDS["submit"].summary in said


def test_bash_loads_its_script() -> None:
    """A real bash that loads the script completes the program's name by it."""
    script = provisioner(more={"_PROVISIONER_COMPLETE": "source_bash"}).stdout
    done = subprocess.run(  # noqa: S603  # our own script
        ["/bin/bash", "-c", f"{script}\ncomplete -p provisioner"], capture_output=True, check=True, text=True
    )
    assert "_provisioner_completion" in done.stdout


def test_why_the_database_cannot_be_reached_is_said_in_words() -> None:
    """The reason is the system's sentence, without Python's names for it."""
    said = provisioner("status", more=NOBODY).stderr
    assert "Error" not in said
    assert "Errno" not in said


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("x.so: failed to map segment from shared object", "there is not enough memory"),
        ("x.so: cannot open shared object file: Too many open files", "no more files can be opened"),
    ],
)
def test_a_library_without_room_is_told(said: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a library cannot be loaded for want of memory or files, the error says so and not that it is missing."""

    def load() -> None:
        raise ImportError(said)

    assert guarded(load) == 1
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
