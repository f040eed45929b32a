"""`provisioner pause` and `resume`: a target is paused and resumed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import provisioner, query
from tests.support.operators import ask

if TYPE_CHECKING:
    from tests.support.postgres import Database

HELD = "SELECT target FROM provisioner.targets WHERE paused_at IS NOT NULL ORDER BY target"


def test_the_only_target_need_not_be_named(database: Database) -> None:
    """Pausing and resuming work, and doing it twice changes nothing."""
    said = [provisioner("pause", database=database) for _ in range(2)]
    assert [done.returncode for done in said] == [0, 0]
    assert said[0].stdout.startswith("target default is paused: nothing more is started")
    assert said[1].stdout.startswith("target default was already paused since 20")
    assert query(database, HELD) == "default"
    said = [provisioner("resume", database=database) for _ in range(2)]
    assert [done.returncode for done in said] == [0, 0]
    assert said[0].stdout.startswith("target default is resumed; it was paused since 20")
    assert said[1].stdout == "target default was not paused\n"
    assert query(database, HELD) == ""


def test_programs_learn_who_paused_it(database: Database) -> None:
    """`--json` says whether anything changed, since when it is paused and by whom."""
    said = [json.loads(provisioner("pause", "--json", database=database).stdout) for _ in range(2)]
    assert [each["changed"] for each in said] == [True, False]
    assert said[0]["paused_at"] == said[1]["paused_at"]
    assert (said[0]["target"], said[0]["paused"], said[0]["paused_by"]) == ("default", True, "provisioner")


def test_a_target_of_others_can_be_paused(database: Database) -> None:
    """A target that is only in the table, not in the settings of this host, is known too."""
    ask(database, target="'eu'")
    ask(database)
    assert provisioner("pause", "eu", database=database).returncode == 0
    assert query(database, HELD) == "eu"


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_an_unknown_target_is_told(database: Database, command: str) -> None:
    """A misspelt target is exit status 1, and the known ones are named."""
    ask(database, target="'eu'")
    done = provisioner(command, "ue", database=database)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there is no target 'ue'; known targets: default, eu\n"
    assert query(database, HELD) == ""


def test_one_of_several_has_to_be_named(database: Database) -> None:
    """Where several targets are configured, nothing is paused by accident."""
    more = {
        "PROVISIONER_TARGETS__EU__URL": "https://eu.infisical.com",
        "PROVISIONER_TARGETS__US__URL": "https://us.infisical.com",
    }
    done = provisioner("pause", database=database, more=more)
    assert (done.returncode, done.stdout) == (2, "")
    assert "name one of the targets: " in done.stderr
    assert "eu, us" in done.stderr
    assert query(database, HELD) == ""
