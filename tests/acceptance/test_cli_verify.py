"""`provisioner verify`: compare the records with Infisical."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import provisioner, query
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.infisical import Infisical
    from tests.support.postgres import Database

LISTING = "GET /api/v1/app-connections/open-router"
LOGIN = "POST /api/v1/auth/universal-auth/login"
NOBODY = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def infisical() -> Iterator[Infisical]:
    """Serve two projects without limits."""
    with simulated("--mode", "self-hosted", "--projects", "2") as served:
        yield served


def record(
    database: Database, infisical: Infisical, name: str, /, *, project: int = 0, **changes: str
) -> dict[str, Any]:
    """Create a connection, and record it with these differences."""
    place = infisical.projects[project]
    infisical.set(plant=[{"name": name, "projectId": place, "description": f"of {name}"}])
    (made,) = [each for each in infisical.state()["connections"] if (each["name"], each["projectId"]) == (name, place)]
    row = {
        "project_id": place,
        "name": name,
        "description": f"of {name}",
        "connection_id": made["id"],
        "credentials_hash": made["credentialsHash"],
        "status": "succeeded",
    } | changes
    values = ", ".join(f"'{value}'" for value in row.values())
    statement = f"INSERT INTO provisioner.connection_requests ({', '.join(row)}) VALUES ({values}) RETURNING id"
    return {**made, "request": int(query(database, statement))}


def test_all_as_recorded_is_exit_status_zero(database: Database, infisical: Infisical) -> None:
    """The daemon's records match Infisical; one read per project, one login, and no write."""
    values = ",".join(f"('{p}'::uuid, 'n-{n}', 'of {n}')" for p in infisical.projects for n in range(3))
    query(database, f"INSERT INTO provisioner.connection_requests (project_id, name, description) VALUES {values}")
    drained = provisioner("run", "--drain", "--listen", "off", database=database, more=infisical.variables)
    assert drained.returncode == 0
    before = infisical.state()["requests"]
    done = provisioner("verify", database=database, more=infisical.variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("6 recorded connections in 2 projects were compared\neverything is as recorded\n")
    after = infisical.state()["requests"]
    assert after[LISTING] == {"200": 2}
    assert after[LOGIN]["200"] == before[LOGIN]["200"] + 1
    creates = "POST /api/v1/app-connections/open-router"
    assert after[creates] == before[creates]


def test_what_its_reads_showed_is_known_to_others(database: Database, infisical: Infisical) -> None:
    """The next command, and the workers, do not wait for the answer to its first read of either kind."""
    made = record(database, infisical, "openrouter")
    query(
        database,
        "INSERT INTO provisioner.rotation_requests (project_id, status, rotation_id, connection_id)"
        f" VALUES ('{infisical.projects[0]}', 'succeeded', '{NOBODY}', '{made['id']}')",
    )
    assert provisioner("verify", database=database, more=infisical.variables).returncode == 1
    known = query(database, "SELECT target, metered FROM provisioner.permits WHERE kind = 'read' ORDER BY target")
    assert known == "default|f\ndefault/rotations|f"


def test_what_differs_is_told(database: Database, infisical: Infisical) -> None:
    """Missing, renamed, rewritten and redescribed connections are each reported, and the exit status is 1."""
    record(database, infisical, "same")
    gone = record(database, infisical, "gone", connection_id=NOBODY)
    renamed = record(database, infisical, "new-name", name="old-name", description="of new-name")
    rewritten = record(database, infisical, "rewritten", credentials_hash="ab" * 32)
    described = record(database, infisical, "described", project=1, description="something else")
    done = provisioner("verify", database=database, more=infisical.variables)
    assert (done.returncode, done.stderr) == (1, "")
    one = infisical.projects[0]
    its_name = f"another connection now has its name: {gone['id']}"
    for said in (
        "5 recorded connections in 2 projects were compared",
        f"request {gone['request']}, gone in project {one}: the project has no connection {NOBODY}; {its_name}",
        f"request {renamed['request']}, old-name in project {one}: it is now called new-name",
        "its credentials have been rewritten since they were recorded",
        "its description differs from the requested one",
    ):
        assert said in done.stdout
    as_json = provisioner("verify", "--json", database=database, more=infisical.variables)
    assert as_json.returncode == 1
    document = json.loads(as_json.stdout)
    assert (document["compared"], document["projects"], document["not_compared"]) == (5, 2, [])
    assert {each["id"]: [*each["differences"]] for each in document["differences"]} == {
        gone["request"]: ["gone"],
        renamed["request"]: ["renamed"],
        rewritten["request"]: ["rewritten"],
        described["request"]: ["described otherwise"],
    }


def test_filters_choose(database: Database, infisical: Infisical) -> None:
    """Only matches of the filters are compared, and only their projects are queried."""
    bad = record(database, infisical, "bad", connection_id=NOBODY, batch="bad")
    good = record(database, infisical, "good", project=1, batch="good")
    for arguments in (["--batch", "good"], ["--project", infisical.projects[1]], [str(good["request"])]):
        done = provisioner("verify", *arguments, database=database, more=infisical.variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("1 recorded connection in 1 project was compared\n")
    assert infisical.state()["requests"][LISTING] == {"200": 3}
    done = provisioner("verify", str(bad["request"]), database=database, more=infisical.variables)
    assert done.returncode == 1


def test_what_cannot_be_asked_for_is_no_success(database: Database, infisical: Infisical) -> None:
    """A missing project, and an unconfigured target, are reported; the others are compared."""
    record(database, infisical, "good")
    record(database, infisical, "lost", project_id=NOBODY)
    record(database, infisical, "far", target="mars")
    done = provisioner("verify", database=database, more=infisical.variables)
    assert done.returncode == 1
    assert "1 recorded connection in 1 project was compared\n" in done.stdout
    assert "2 could not be looked up\n" in done.stdout
    assert f"project {NOBODY}: " in done.stdout
    assert "target mars is not in the settings of this host" in done.stdout
    assert "everything is as recorded" not in done.stdout


def test_what_was_somebody_elses_first_keeps_its_description(database: Database, infisical: Infisical) -> None:
    """An adopted connection is not expected to have the description that was asked for."""
    record(database, infisical, "adopted", description="ours", on_conflict="adopt", adopted="true")
    record(database, infisical, "replaced", on_conflict="replace", adopted="true")
    done = provisioner("verify", database=database, more=infisical.variables)
    assert done.returncode == 0


def test_the_read_limit_is_kept(database: Database) -> None:
    """Where the organization may not be read, more projects than the limit allows are compared without a refusal."""
    with simulated("--projects", "8", "--read-limit", "8", "--window", "1") as infisical:
        for project in range(8):
            record(database, infisical, "one", project=project)
        infisical.set(permissions={infisical.organization: []})
        done = provisioner("verify", database=database, more=infisical.variables)
        requests = infisical.state()["requests"]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("8 recorded connections in 8 projects were compared\n")
    assert requests[LISTING] == {"200": 8, "403": 1}


def test_one_read_of_the_organization_shows_all_projects(database: Database) -> None:
    """Four projects cost one read; only a project that lacks a connection in it is queried individually."""
    with simulated("--mode", "self-hosted", "--projects", "4") as infisical:
        for project in range(4):
            record(database, infisical, "one", project=project)
        done = provisioner("verify", database=database, more=infisical.variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert infisical.state()["requests"][LISTING] == {"200": 1}
        record(database, infisical, "gone", connection_id=NOBODY)
        done = provisioner("verify", database=database, more=infisical.variables)
        assert done.returncode == 1
        assert infisical.state()["requests"][LISTING] == {"200": 3}


def test_an_infisical_that_is_away_is_told(database: Database, infisical: Infisical) -> None:
    """If nothing answers, one line says so."""
    record(database, infisical, "one")
    more = infisical.variables | {"INFISICAL_HOST": "http://127.0.0.1:1"}
    done = provisioner("verify", database=database, more=more)
    assert done.returncode == 1
    assert "nothing was sent" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_recorded_is_no_trouble(database: Database) -> None:
    """Before anything has succeeded nothing is queried, and no login is needed."""
    done = provisioner("verify", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0 recorded connections in 0 projects were compared\n"


def test_what_differs_is_repaired_by_workers(database: Database, infisical: Infisical) -> None:
    """All differences are put in line, an old key too; adopted connections are named and left alone."""
    gone = record(database, infisical, "spare", name="gone", connection_id=NOBODY)
    renamed = record(database, infisical, "new-name", name="old-name", description="of new-name")
    rewritten = record(database, infisical, "rewritten", credentials_hash="ab" * 32)
    described = record(database, infisical, "described", description="something else")
    replaced = record(database, infisical, "replaced", description="ours", on_conflict="replace", adopted="true")
    old_key = record(database, infisical, "old-key", key_fingerprint="0" * 16)
    elsewhere = record(database, infisical, "elsewhere", key_fingerprint="0" * 16, credential="not-here")
    theirs = record(
        database, infisical, "theirs", credentials_hash="ab" * 32, on_conflict="adopt", adopted="true", project=1
    )
    done = provisioner("verify", "--repair", database=database, more=infisical.variables)
    assert (done.returncode, done.stderr) == (3, "")
    for said in (
        "its key is not the current one of credential 'default'",
        "1 not compared: this host does not have the key of credential 'not-here'",
        "6 will be repaired by the workers",
        "1 left alone: they were adopted, and belong to somebody else",
    ):
        assert said in done.stdout
    assert f"request {theirs['request']}, theirs" in done.stdout.split("left alone")[1]
    assert provisioner("run", "--drain", "--listen", "off", database=database, more=infisical.variables).returncode == 0
    again = provisioner("verify", "--json", database=database, more=infisical.variables)
    document = json.loads(again.stdout)
    assert [each["id"] for each in document["differences"]] == [theirs["request"]]
    assert document["keys_not_compared"] == {"not-here": 1}
    there = {each["id"]: each for each in infisical.state()["connections"]}
    assert "gone" in {each["name"] for each in there.values()}
    assert (
        query(database, f"SELECT status FROM provisioner.connection_requests WHERE id = {gone['request']}")
        == "succeeded"
    )
    assert there[renamed["id"]]["name"] == "old-name"
    assert there[described["id"]]["description"] == "something else"
    assert there[replaced["id"]]["description"] == "ours"
    assert there[theirs["id"]]["credentialsHash"] == theirs["credentialsHash"]
    assert there[elsewhere["id"]]["credentialsHash"] == elsewhere["credentialsHash"]
    assert there[old_key["id"]]["credentialsHash"] != old_key["credentialsHash"]
    assert there[rewritten["id"]]["credentialsHash"] != rewritten["credentialsHash"]
