"""`provisioner database`: programs find a server of one's own as they find the embedded one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.cli import provisioner

if TYPE_CHECKING:
    from tests.support.postgres import Database


def test_a_program_finds_the_server(database: Database) -> None:
    """It gets libpq's variables, and its exit status is the command's."""
    path = {"PATH": os.pathsep.join([str(database.server.psql.parent), os.environ["PATH"]])}
    asked = provisioner("database", "psql", "-XqAtc", "SELECT current_database()", database=database, more=path)
    assert (asked.returncode, asked.stdout) == (0, f"{database.name}\n")
    assert provisioner("database", "sh", "-c", "exit 7", database=database).returncode == 7


def test_what_it_says(database: Database) -> None:
    """Without a program it shows the server's address without the password; a missing program is named."""
    told = provisioner("database", database=database)
    assert told.stdout == f"PostgreSQL {database.server.version}, a server of yours; role provisioner\n"
    missing = provisioner("database", "no-such-program", database=database)
    assert (missing.returncode, missing.stderr) == (1, "error: there is no program no-such-program on the PATH\n")
