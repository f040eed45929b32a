"""The README and the pages in `docs/` are true: every command in them is run as written."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import SCRIPT, environment, query
from tests.support.docs import DOCS, README, commands
from tests.support.forking import shim
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PAGES = [page for page in sorted(DOCS.glob("*.md")) if commands(page.read_text(encoding="utf-8"))]


def typed(text: str, database: Database, home: Path) -> dict[str, str]:
    """Type a page's commands one after another; returns what each of them printed."""
    with simulated("--any-project") as infisical:
        infisical.set(addProjects=sorted(set(UUID.findall(text))))  # the identity is in those that the page names
        path = os.pathsep.join([str(shim()), str(SCRIPT.parent), str(database.server.psql.parent), os.environ["PATH"]])
        told = environment(database, **infisical.variables, PATH=path, HOME=str(home))
        told["PROVISIONER_LISTEN__ADDRESS"] = "off"  # somebody else on this machine may have the port
        outputs = {}
        for command in commands(text):
            done = subprocess.run(  # noqa: S603  # the page's own words
                ["/bin/bash", "-euo", "pipefail", "-c", command],
                env=told,
                cwd=home,
                capture_output=True,
                check=False,
                text=True,
            )
            assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
            outputs[command] = done.stdout
    return outputs


def test_every_command_works_as_it_is_written(database: Database, tmp_path: Path) -> None:
    """Typing the README's commands one after another ends with every request succeeded."""
    outputs = typed(README.read_text(encoding="utf-8"), database, tmp_path)
    assert len(outputs) >= 7
    select = next(output for command, output in outputs.items() if "left(credentials_hash" in command)
    assert select.count("succeeded") == 2
    assert query(database, "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded'") == "2"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_works(page: Path, database: Database, tmp_path: Path) -> None:
    """The commands of a page in `docs/` work, in their order."""
    typed(page.read_text(encoding="utf-8"), database, tmp_path)


def test_the_pages_have_commands() -> None:
    """The search for commands finds those of the pages that are made of steps."""
    assert {"errors.md", "going-to-production.md", "requests.md", "upgrading.md"} <= {page.name for page in PAGES}
