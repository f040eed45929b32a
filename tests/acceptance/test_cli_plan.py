"""`provisioner plan FILE`: the changes that a file would make, found by querying Infisical."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import provisioner, query
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.infisical import Infisical
    from tests.support.postgres import Database

NOWHERE = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
LISTING = "GET /api/v1/app-connections/open-router"
LOGIN = "POST /api/v1/auth/universal-auth/login"
LIMIT = "INSERT INTO provisioner.permits (target, kind, metered, permits) VALUES ('default', 'write', true, 2)"


@pytest.fixture
def infisical() -> Iterator[Infisical]:
    """Serve three projects without limits."""
    with simulated("--mode", "self-hosted", "--projects", "3") as served:
        yield served


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a CSV file that is not there yet."""
    return tmp_path / "projects.csv"


def test_every_prospect_is_told(database: Database, infisical: Infisical, file: Path) -> None:
    """Connections that exist or would be created, adopted, replaced or in conflict are counted; conflicts are named."""
    one, two, _ = infisical.projects
    taken = [{"name": name, "projectId": one} for name in ("theirs", "adopted", "replaced", "ours")]
    infisical.set(plant=taken)
    made = {each["name"]: each["id"] for each in infisical.state()["connections"]}
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id, name, status, connection_id)"
        f" VALUES ('{one}', 'ours', 'succeeded', '{made['ours']}'), ('{two}', 'gone', 'succeeded', gen_random_uuid())",
    )
    file.write_text(
        "project_id,name,on_conflict\n"
        f"{one},theirs,fail\n{one},adopted,adopt\n{one},replaced,replace\n{one},ours,\n"
        f"{two},theirs,\n{two},new,\n{two},new,\n{two},gone,\n{NOWHERE},x,\n"
    )
    before = query(database, "SELECT count(*) FROM provisioner.connection_requests")
    done = provisioner("plan", file, database=database, more=infisical.variables)
    assert (done.returncode, done.stderr) == (1, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    told = {line[-1] if line[0] == "…" else " ".join(line[1:3]): line[0] for line in lines if line[0].isdigit()}
    assert told == {
        "already exist,": "1",
        "would be": "2",
        "exist, and": "1",
        "would conflict:": "1",
        "were made": "1",
        "of 3": "1",
    }
    assert f"line 2: theirs in project {one}: connection {made['theirs']}\n" in done.stdout
    assert f"line 9: gone in project {two}\n" in done.stdout
    assert f"\n          {NOWHERE}\n" in done.stdout
    document = json.loads(provisioner("plan", file, "--json", database=database, more=infisical.variables).stdout)
    assert document["counts"] == {
        "exists": 1,
        "create": 2,
        "adopt": 1,
        "replace": 1,
        "conflict": 1,
        "gone": 1,
    }
    assert document["conflicts"] == [
        {"line": 2, "target": "default", "project_id": one, "name": "theirs", "connection_id": made["theirs"]}
    ]
    assert query(database, "SELECT count(*) FROM provisioner.connection_requests") == before
    assert infisical.state()["creates"] == []
    assert {each["id"] for each in infisical.state()["connections"]} == set(made.values())


def test_projects_without_the_identity_are_told(database: Database, file: Path) -> None:
    """One read shows how many lack it; the first ten are named as people call them, and none is queried."""
    with simulated("--mode", "self-hosted", "--projects", "20") as infisical:
        infisical.set(permissions=dict.fromkeys(infisical.projects[:12], "none"))
        rows = "".join(f"{project},Team {number}\n" for number, project in enumerate(infisical.projects))
        file.write_text("project_id,Project name\n" + rows)
        done = provisioner("plan", file, database=database, more=infisical.variables)
        assert done.returncode == 1
        assert "       12 of 20 projects lack the machine identity, or do not exist: add it to them with" in done.stdout
        first = min(infisical.projects[:12])
        assert f"          Team {infisical.projects.index(first)} ({first})\n" in done.stdout
        assert "          … and 2 more\n" in done.stdout
        assert "        8 would be created\n" in done.stdout
        requests = infisical.state()["requests"]
        assert requests["GET /api/v1/projects"] == {"200": 1}
        assert requests[LISTING] == {"200": 9}
        document = json.loads(provisioner("plan", file, "--json", database=database, more=infisical.variables).stdout)
    assert {one["project_id"] for one in document["outside"]} == set(infisical.projects[:12])


def test_each_project_is_asked_for_once(database: Database, infisical: Infisical, file: Path) -> None:
    """However many connections of a project a file contains, there is one read for it, and one login for all."""
    file.write_text("project_id,name\n" + "".join(f"{p},n-{n}\n" for p in infisical.projects for n in range(40)))
    done = provisioner("plan", file, database=database, more=infisical.variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "120 would be created\n" in done.stdout
    requests = infisical.state()["requests"]
    assert (requests[LISTING], requests[LOGIN]) == ({"200": 3}, {"200": 1})


def test_it_tells_how_long_the_rest_takes(database: Database, infisical: Infisical, file: Path) -> None:
    """From the limit that workers learned or the settings name follows the duration, else from what reads showed."""
    file.write_text(f"project_id,name\n{infisical.projects[0]},a\n{infisical.projects[1]},b\n")
    said = "it takes about 1 s (it has no rate limit; the server decides)\n"
    assert said in provisioner("plan", file, database=database, more=infisical.variables).stdout
    query(database, LIMIT)
    # With two that are pending already, one of them from the file, three creates are left at two a minute.
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id, name)"
        f" VALUES ('{infisical.projects[0]}', 'a'), (gen_random_uuid(), 'b')",
    )
    done = provisioner("plan", file, database=database, more=infisical.variables)
    assert "including what is already pending, it takes about 90 s\n" in done.stdout
    more = infisical.variables | {"PROVISIONER_TARGETS__DEFAULT__WRITE_LIMIT": "1/min"}
    assert "it takes about 3 min\n" in provisioner("plan", file, database=database, more=more).stdout


def test_the_read_limit_is_kept(database: Database, file: Path) -> None:
    """More projects than the limit allows at once, and first all together, are asked for without a refusal."""
    with simulated("--projects", "12", "--read-limit", "5", "--window", "2") as infisical:
        file.write_text("project_id\n" + "".join(f"{project}\n" for project in infisical.projects))
        done = provisioner("plan", file, database=database, more=infisical.variables)
        requests = infisical.state()["requests"]
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 would be created\n" in done.stdout
    assert requests[LISTING] == {"200": 13}


def test_bad_lines_are_named(database: Database, infisical: Infisical, file: Path) -> None:
    """A bad line stops it before anything is asked, or is left out with --skip-invalid; both are exit status 1."""
    file.write_text(f"project_id\n{infisical.projects[0]}\nx\n")
    done = provisioner("plan", file, database=database, more=infisical.variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {file}: 1 of 2 lines cannot be used\n  line 3, project_id: must be the UUID")
    assert LISTING not in infisical.state()["requests"]
    done = provisioner("plan", file, "--skip-invalid", database=database, more=infisical.variables)
    assert done.returncode == 1
    assert "1 would be created\n" in done.stdout


def test_a_readable_key_is_neither_needed_nor_kept(database: Database, infisical: Infisical, tmp_path: Path) -> None:
    """A file with API keys is planned without a sealing key, from standard input too, and no key is shown."""
    given = f'{{"project_id": "{infisical.projects[0]}", "api_key": "sk-or-v1-planted4711"}}\n'
    done = provisioner(
        "plan", "-", "--json", database=database, more=infisical.variables, given=given.encode(), cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["counts"]["create"] == 1
    assert "4711" not in done.stdout


def test_a_target_that_is_not_configured_is_told(database: Database, infisical: Infisical, file: Path) -> None:
    """Lines for a target that this host does not know are counted as not asked for."""
    file.write_text(f"project_id,target\n{infisical.projects[0]},mars\n{infisical.projects[1]},\n")
    done = provisioner("plan", file, database=database, more=infisical.variables)
    assert done.returncode == 1
    assert "1 could not be looked up\n          target mars is not in the settings of this host\n" in done.stdout
    assert "1 would be created\n" in done.stdout


def test_an_identity_that_is_refused_is_one_line_and_one_login(
    database: Database, infisical: Infisical, file: Path
) -> None:
    """A wrong secret ends it at once, so that the identity is not locked for the workers."""
    file.write_text("project_id\n" + "".join(f"{project}\n" for project in infisical.projects))
    more = infisical.variables | {"INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": "planted-4711"}
    done = provisioner("plan", file, database=database, more=more)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: target default cannot be asked: check the client id and the client secret")
    assert "4711" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert infisical.state()["logins"]["refused"] == 1


def test_names_of_other_apps_are_seen_when_asked_for_one_by_one(
    database: Database, infisical: Infisical, file: Path
) -> None:
    """Without --by-name the output says what it cannot see; with it, another app's name is a conflict."""
    one, two, _ = infisical.projects
    infisical.set(plant=[{"name": "theirs", "projectId": one, "app": "github"}])
    file.write_text(f"project_id,name,on_conflict\n{one},theirs,adopt\n{one},free,\n{two},theirs,\n")
    done = provisioner("plan", file, database=database, more=infisical.variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 would be created\n" in done.stdout
    assert "connections of other apps are not checked; --by-name looks up each name" in done.stdout
    done = provisioner("plan", file, "--by-name", database=database, more=infisical.variables)
    assert (done.returncode, done.stderr) == (1, "")
    assert "2 would be created\n" in done.stdout
    assert f"line 2: theirs in project {one}\n" in done.stdout
    assert "--by-name" not in done.stdout
    document = json.loads(
        provisioner("plan", file, "--by-name", "--json", database=database, more=infisical.variables).stdout
    )
    assert (document["by_name"], document["counts"]["conflict"]) == (True, 1)
    assert infisical.state()["creates"] == []


@pytest.mark.parametrize("as_json", [False, True])
def test_keys_are_asked_about(database: Database, infisical: Infisical, file: Path, as_json: bool) -> None:
    """A wrong kind of key is reported before any create, for named credentials and keys in the file, each once."""
    one, two, three = infisical.projects
    asking = {
        "PROVISIONER_OPENROUTER__URL": f"{infisical.url}/openrouter/api/v1",
        "OPENROUTER_PROVISIONING_KEY": "sk-or-v1-named-mode-401",
    }
    key = "sk-or-v1-ordinary-mode-inference"
    file.write_text(
        f"project_id,name,api_key\n{one},,{key}\n{two},,{key}\n{three},,sk-or-v1-fine\n{one},a,\n{two},a,\n{three},a,\n"
    )
    flags = ["--json"] if as_json else []
    done = provisioner("plan", file, *flags, database=database, more=infisical.variables | asking)
    assert (done.returncode, done.stderr) == (1, "")
    assert "sk-or" not in done.stdout
    inference = "the API key: OpenRouter says that this is an inference key: a management (provisioning) key is needed"
    unknown = "credential default: OpenRouter does not know this key: it is mistyped, deleted or expired"
    if as_json:
        assert json.loads(done.stdout)["wrong_keys"] == [
            {"problem": inference, "lines": 2, "first_line": 2},
            {"problem": unknown, "lines": 3, "first_line": 5},
        ]
    else:
        assert f"2 have a wrong key (line 2 is the first): {inference}" in done.stdout
        assert f"3 have a wrong key (line 5 is the first): {unknown}" in done.stdout
    assert infisical.state()["requests"]["GET /openrouter/api/v1/key"] == {"200": 2, "401": 1}
    assert infisical.state()["creates"] == []


def test_sealed_keys_are_asked_about_where_they_can_be_opened(
    database: Database, infisical: Infisical, tmp_path: Path, file: Path
) -> None:
    """A sealed key that this host opens is asked about; elsewhere it says nothing, and is no reason to fail."""
    (one, *_) = infisical.projects
    asking = {
        "PROVISIONER_OPENROUTER__URL": f"{infisical.url}/openrouter/api/v1",
        "PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "sealing.keys"),
    } | infisical.variables
    assert provisioner("keys", "generate", database=database, more=asking).returncode == 0
    key = "sk-or-v1-ordinary-mode-inference"
    sealed = provisioner("seal", "--project", one, database=database, more=asking, given=key.encode())
    assert sealed.returncode == 0, sealed.stderr
    file.write_text(f"project_id,credential\n{one},{sealed.stdout.strip()}\n")
    done = provisioner("plan", file, database=database, more=asking)
    assert done.returncode == 1
    assert "1 has a wrong key (line 2): the API key: OpenRouter says that this is an inference key" in done.stdout
    elsewhere = asking | {"PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "other.keys")}
    assert provisioner("plan", file, database=database, more=elsewhere).returncode == 0
