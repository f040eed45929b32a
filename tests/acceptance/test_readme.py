"""The README is true: every command in it is run as it stands there, and its tables are the code's."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from provisioner.core.model import ErrorCode
from tests.support.cli import SCRIPT, environment, query
from tests.support.infisical import simulated
from tests.support.readme import README, commands, renewed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

TEXT = README.read_text(encoding="utf-8")


def test_every_command_works_as_it_is_written(database: Database, tmp_path: Path) -> None:
    """A reader who types the README's commands one after another ends with every request succeeded."""
    typed = commands(TEXT)
    with simulated("--any-project") as infisical:
        path = os.pathsep.join([str(SCRIPT.parent), str(database.server.psql.parent), os.environ["PATH"]])
        told = environment(database, **infisical.variables, PATH=path, HOME=str(tmp_path))
        told["PROVISIONER_LISTEN__ADDRESS"] = "off"  # somebody else on this machine may have the port
        outputs = [
            subprocess.run(  # noqa: S603  # the README's own words
                ["/bin/bash", "-euo", "pipefail", "-c", command],
                env=told,
                cwd="/",
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for command in typed
        ]
    assert len(typed) >= 12
    select = next(output for command, output in zip(typed, outputs, strict=True) if "left(credentials_hash" in command)
    assert select.count("succeeded") == 2
    assert query(database, "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'") == "2"


def test_the_table_of_settings_is_the_codes() -> None:
    """No setting is missing from the README, and none is described wrongly."""
    assert renewed(TEXT) == TEXT, "renew it with `python -m tests.support.readme`"


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_is_explained(code: ErrorCode) -> None:
    """Whoever meets an error code finds in the README what it means and what to do."""
    assert re.search(rf"^\| `{code}` \| [^|]+ \| [^|]+ \|$", TEXT, re.MULTILINE)


def test_every_command_is_named() -> None:
    """Every command of the command line is named in the README."""
    from provisioner.cli import COMMANDS

    assert [name for name in COMMANDS if f"provisioner {name}" not in TEXT] == []
