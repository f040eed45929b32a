"""PgBouncer in front of a test's database, where it is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from provisioner.sandbox.postgres import other_account
from provisioner.sandbox.supervisor import free_port
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed; .ci/run does it")


@contextmanager
def pgbouncer(url: str, directory: Path, *, mode: str = "transaction", size: int = 3) -> Iterator[str]:
    """Pool sessions of a database in so many connections; the address by way of it. `directory` is one it can reach."""
    parts, port = urlsplit(url), free_port()
    lines = [
        "[databases]",
        f"* = host=127.0.0.1 port={parts.port}",
        "[pgbouncer]",
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =",
        f"auth_type = plain\nauth_file = {directory}/users.txt",
        f"pool_mode = {mode}\ndefault_pool_size = {size}\nserver_round_robin = 1",
        f"logfile = {directory}/pgbouncer.log",
    ]
    (directory / "users.txt").write_text(f'"{parts.username}" "{parts.password}"\n', encoding="utf-8")
    (directory / "pgbouncer.ini").write_text("\n".join(lines), encoding="utf-8")
    account = other_account()  # it refuses root too
    if account:
        for path in (directory, directory / "users.txt", directory / "pgbouncer.ini"):
            os.chown(path, account.pw_uid, account.pw_gid)
    process = subprocess.Popen(  # noqa: S603 - our own arguments
        [str(PROGRAM), "-q", str(directory / "pgbouncer.ini")],
        env={},
        user=account.pw_uid if account else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _answers(port))
        yield urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"))
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
