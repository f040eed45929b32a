"""Run the console script as users do, and read the database behind its back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.forking import MOST, Forked, call, is_early

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.support.postgres import Database

SCRIPT = Path(sys.executable).parent / "provisioner"


def environment(database: Database | None = None, **more: str) -> dict[str, str]:
    """Return the console script's environment: without our variables, with the database if there is one."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LC_ALL") if name in os.environ}
    url = {"PROVISIONER_DATABASE_URL": database.url} if database else {}
    return {**kept, **url, **more}


def provisioner(
    *arguments: str | Path,
    database: Database | None = None,
    given: bytes = b"",
    cwd: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process; `given` is its standard input."""
    if is_early(more or {}) or len(given) > MOST:
        return script(*arguments, database=database, given=given, cwd=cwd, more=more)
    return forked(
        [str(argument) for argument in arguments], environment(database, **(more or {})), given=given, cwd=cwd
    )


def forked(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    given: bytes = b"",
    cwd: Path | None = None,
    instead: Mapping[str, str] | None = None,
    prepare: Callable[..., object] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in just this environment, on another machine if need be: see `tests.support.forking`.

    What Python itself reads when it starts (the locale, `PYTHON…`) is not read again.
    """
    status, out, err = call(arguments, env=environ, cwd=cwd or "/", given=given, instead=instead, prepare=prepare)
    said = (stream.decode("utf-8", "replace") for stream in (out, err))
    return subprocess.CompletedProcess([SCRIPT, *arguments], status, *said)


def script(
    *arguments: str | Path,
    database: Database | None = None,
    given: bytes = b"",
    cwd: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the console script itself, including its start."""
    done = subprocess.run(  # noqa: S603  # our own arguments
        [SCRIPT, *arguments],
        input=given,
        capture_output=True,
        check=False,
        cwd=cwd or "/",
        env=environment(database, **(more or {})),
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def started(
    *arguments: str | Path,
    database: Database | None = None,
    cwd: Path | None = None,
    more: Mapping[str, str] | None = None,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
) -> Forked:
    """Start a command, as a process of its own; `PIPE` as for `subprocess.Popen`."""
    words = [str(argument) for argument in arguments]
    told = environment(database, **(more or {}))
    return Forked(words, env=told, cwd=cwd or "/", stdout=stdout, stderr=stderr)


def query(database: Database, statement: str) -> str:
    """Run SQL behind the product's back; columns are parted by `|`, rows by line ends."""
    return subprocess.run(  # noqa: S603  # our own arguments
        [database.server.psql, "-XqAt", "--set=ON_ERROR_STOP=1", "-c", statement, database.url],
        env={"PGOPTIONS": "-c provisioner.recording=on"},  # tests arrange what workers would have recorded
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
