"""`provisioner discover`: the projects that the machine identity can see."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import provisioner, query, started
from tests.support.gateway import plain
from tests.support.infisical import simulated
from tests.support.scripted import serving

if TYPE_CHECKING:
    from asyncio import StreamWriter
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.infisical import Infisical
    from tests.support.postgres import Database

PROJECTS = "GET /api/v1/projects"
LISTING = "GET /api/v1/app-connections/open-router"
AWKWARD = '=Évil, "x"'


@pytest.fixture
def infisical() -> Iterator[Infisical]:
    """Serve five projects: one named, one with an awkward name, one of another type, one that is not joined."""
    with simulated("--mode", "self-hosted", "--projects", "5") as served:
        named, awkward, other, _, foreign = served.projects
        served.set(
            projects={
                named: {"name": "Team Alpha", "slug": "team-alpha"},
                awkward: {"name": AWKWARD},
                other: {"type": "kms"},
            },
            permissions={foreign: "none"},
        )
        yield served


def _listed(infisical: Infisical, *options: str) -> dict[str, str]:
    done = provisioner("discover", *options, more=infisical.variables)
    assert done.returncode == 0, done.stderr
    return {row["project_id"]: row["project_name"] for row in csv.DictReader(done.stdout.splitlines())}


def test_projects_are_listed_with_their_names(infisical: Infisical) -> None:
    """Without any database, one login and one read list the joined projects of the type, by name."""
    named, awkward, other, plain, _ = infisical.projects
    done = provisioner("discover", more=infisical.variables)
    assert done.stdout == (
        "target,project_id,project_name\n"
        f'default,{awkward},"\'=Évil, ""x"""\n'
        f"default,{plain},project 4\n"
        f"default,{named},Team Alpha\n"
    )
    assert (done.returncode, done.stderr) == (0, "3 projects of type secret-manager at target default\n")
    requests = infisical.state()["requests"]
    assert (requests[PROJECTS], LISTING in requests) == ({"200": 1}, False)
    assert set(_listed(infisical, "--type", "kms")) == {other}
    assert set(_listed(infisical, "--type", "all")) == {named, awkward, other, plain}


def test_names_and_slugs_are_matched(infisical: Infisical) -> None:
    """Globs match names and slugs without case, several of them any, and exclusions win."""
    named, awkward, _, plain, _ = infisical.projects
    assert set(_listed(infisical, "--name", "TEAM-*")) == {named}
    assert set(_listed(infisical, "--name", "team *", "--name", "project ?")) == {named, plain}
    assert set(_listed(infisical, "--exclude", "*alpha", "--exclude", "PROJECT-4")) == {awkward}


def test_projects_with_a_connection_are_left_out(infisical: Infisical) -> None:
    """One read of the organization shows which projects have a connection; if that is forbidden, one read each."""
    infisical.set(addProjects=["7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"])
    named, awkward, _, plain, _ = infisical.projects
    infisical.set(plant=[{"name": "theirs", "projectId": named}])
    assert _listed(infisical, "--without-connection").keys() == {
        awkward,
        plain,
        "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e",
    }
    assert infisical.state()["requests"][LISTING] == {"200": 1}
    infisical.set(permissions={infisical.organization: []})
    assert named not in _listed(infisical, "--without-connection")
    assert infisical.state()["requests"][LISTING] == {"200": 5, "403": 1}
    infisical.set(permissions={plain: ["create-app-connections"]})
    done = provisioner("discover", "--without-connection", more=infisical.variables)
    assert (done.returncode, plain in done.stdout) == (1, False)
    assert "left out 1 project that could not be read\n  project 4: the machine identity lacks" in done.stderr


def test_submit_reads_what_is_printed(database: Database, infisical: Infisical, tmp_path: Path) -> None:
    """Either format can be loaded, with the projects' names."""
    for form in ("csv", "jsonl"):
        file = tmp_path / f"projects.{form}"
        assert provisioner("discover", "-o", file, database=database, more=infisical.variables).returncode == 0
        done = provisioner("submit", file, database=database, more=infisical.variables)
        assert (done.returncode, done.stderr) == (0, "")
        names = query(
            database, 'SELECT project_name FROM provisioner.connection_requests ORDER BY project_name COLLATE "C"'
        )
        assert names == f"{AWKWARD}\nTeam Alpha\nproject 4"
        query(database, "DELETE FROM provisioner.connection_requests")
    assert json.loads((tmp_path / "projects.jsonl").read_text().splitlines()[0])["target"] == "default"


def test_what_is_in_the_way_is_said(infisical: Infisical) -> None:
    """Bad usage, an identity that joined nothing, and an Infisical that is away each get a sentence of their own."""
    done = provisioner("discover", "--target", "nope", more=infisical.variables)
    assert (done.returncode, "target nope is not in the settings; configured targets: default" in done.stderr) == (
        2,
        True,
    )
    done = provisioner("discover", "-o", "projects.html", more=infisical.variables)
    assert (done.returncode, "must be csv or jsonl" in done.stderr) == (2, True)
    infisical.set(permissions=dict.fromkeys(infisical.projects, "none"))
    done = provisioner("discover", more=infisical.variables)
    assert (done.returncode, done.stdout) == (0, "target,project_id,project_name\n")
    assert "is a member of no project: add it to each" in done.stderr
    infisical.set(maintenance=False, outage="refuse")
    done = provisioner("discover", more=infisical.variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: target default cannot be asked")


def test_the_read_limit_is_kept() -> None:
    """Without a database the headers alone keep the reads of many projects below the limit."""
    with simulated("--projects", "12", "--read-limit", "5", "--window", "1") as infisical:
        infisical.set(permissions={infisical.organization: []})
        done = provisioner("discover", "--without-connection", more=infisical.variables)
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 13)
        assert infisical.state()["requests"][LISTING] == {"200": 12, "403": 1}


def test_a_database_that_is_away_is_not_needed(infisical: Infisical) -> None:
    """The database is only used for other readers' budgets, so an unreachable one delays nothing."""
    more = infisical.variables | {"PROVISIONER_DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    done = provisioner("discover", more=more)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4)


async def test_a_limit_that_never_ends_is_given_up() -> None:
    """A gateway that refuses every read keeps nobody waiting for ever."""
    granted = b'{"accessToken": "a.token.of-some-length", "expiresIn": 600, "tokenType": "Bearer"}'

    async def answer(head: bytes, writer: StreamWriter) -> None:
        login = head.startswith(b"POST")
        writer.write(
            plain(200, granted, "application/json") if login else plain(429, b"slow", "text/plain", "retry-after: 1")
        )
        await writer.drain()

    async with serving(answer) as (url, received):
        told = {
            "INFISICAL_HOST": str(url.origin()),
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": "me",
            "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": "mine",
        }
        done = await asyncio.to_thread(provisioner, "discover", more=told)
    assert done.returncode == 1
    assert "error: target default answers every read with 429" in done.stderr
    assert len(received.heads) == 6  # with the login and its end


def test_a_long_wait_is_told(database: Database, infisical: Infisical) -> None:
    """If the workers' budget is blocked for a while, people hear why nothing happens."""
    query(
        database,
        "INSERT INTO provisioner.permits (target, kind, version, address, blocked_until)"
        f" VALUES ('default', 'read', 1, '{infisical.url}', extract(epoch FROM now()) + 16)",
    )
    running = started("discover", database=database, more=infisical.variables, stderr=subprocess.PIPE)
    said = running.stderr.readline()
    running.kill()
    running.communicate()
    assert "warning: target default allows no read at the moment: waiting for about 1" in said
