"""`provisioner doctor`: problems, and how to fix them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cli import provisioner, query
from tests.support.infisical import KEY, simulated
from tests.support.operators import WORKER, ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.infisical import Infisical
    from tests.support.postgres import Database

NOWHERE = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
LOGIN = "POST /api/v1/auth/universal-auth/login"


@pytest.fixture
def infisical() -> Iterator[Infisical]:
    """Serve two projects as the cloud does."""
    with simulated("--projects", "2") as served:
        yield served


def examined(*arguments: str, database: Database | None, more: Mapping[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and every check."""
    done = provisioner("doctor", "--json", *arguments, database=database, more=more)
    assert done.stderr == ""
    document = json.loads(done.stdout)
    assert document["ok"] is (done.returncode == 0)
    return done.returncode, document["checks"]


def of(checks: list[dict[str, Any]], name: str, verdict: str) -> str:
    """The messages and advice of checks with that name and verdict."""
    return "\n".join(
        f"{each['said']}; {each['remedy']}" for each in checks if (each["name"], each["verdict"]) == (name, verdict)
    )


def test_when_all_is_well_each_line_says_so(database: Database, infisical: Infisical) -> None:
    """One line a precondition, exit status 0, one login, no create, and no key on the screen."""
    query(database, WORKER)
    more = infisical.variables
    done = provisioner("doctor", "--project", infisical.projects[0], database=database, more=more)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    # The tests' server may lose data in a crash, which nobody needs.
    assert {line[0] for line in lines if line[1] != "durability"} == {"ok"}
    assert {line[1] for line in lines} == {
        *("settings", "database", "clock", "schema", "rights", "clean-up", "workers", "identity", "limit"),
        *("permission", "credential", "sealing", "files", "durability", "outcomes", "requests", "counts", "rotations"),
    }
    assert "creating was not tested, as it would create one" in done.stdout
    assert "default allows 350 reads a window" in done.stdout
    assert KEY not in done.stdout
    assert more["INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET"] not in done.stdout
    assert infisical.state()["requests"][LOGIN] == {"200": 1}
    assert infisical.state()["creates"] == []


def test_warnings_are_no_failure(database: Database, infisical: Infisical) -> None:
    """A paused target, lost workers and work without a worker are reported with advice."""
    ask(database, 3)
    query(database, f"{WORKER}; UPDATE provisioner.workers SET lease_until = now() - interval '1 hour'")
    query(database, "INSERT INTO provisioner.targets (target, paused_at, paused_by) VALUES ('default', now(), 'ann')")
    more = infisical.variables | {"OPENROUTER_PROVISIONING_KEY": ""}
    status, checks = examined(database=database, more=more)
    assert status == 0
    assert of(checks, "workers", "warning").startswith("none is alive; `provisioner run` starts one\n1 lost")
    target = of(checks, "target", "warning")
    assert "by ann; `provisioner resume default` resumes it" in target
    assert "3 requests wait for default, and no worker serves it" in target
    assert "OPENROUTER_PROVISIONING_KEY is not set" in of(checks, "credential", "warning")


def test_a_database_that_is_away_is_told_and_the_rest_is_checked(infisical: Infisical) -> None:
    """Without a database, or without its address, there is a problem with a remedy; Infisical is asked all the same."""
    for variables, said in (
        ({}, "no database is set: set PROVISIONER_DATABASE_URL"),
        ({"PROVISIONER_DATABASE_URL": "postgresql://me:planted-4711@127.0.0.1:1/x"}, "it cannot be reached: "),
    ):
        status, checks = examined(database=None, more=infisical.variables | variables)
        assert status == 1
        assert said in of(checks, "database", "problem")
        assert "4711" not in str(checks)
        assert of(checks, "identity", "ok")
        assert of(checks, "credential", "ok")


def test_a_missing_schema_is_told(empty_database: Database, infisical: Infisical) -> None:
    """Before `migrate` that is the problem."""
    status, checks = examined(database=empty_database, more=infisical.variables)
    assert status == 1
    assert "run `provisioner migrate`" in of(checks, "schema", "problem")


def test_a_read_only_database_is_told(database: Database, infisical: Infisical) -> None:
    """A role that can only read is a problem, with advice."""
    query(database, f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    status, checks = examined(database=database, more=infisical.variables)
    assert status == 1
    assert "is read-only for provisioner; set default_transaction_read_only to off" in of(checks, "database", "problem")


def test_missing_rights_are_told(database: Database, infisical: Infisical) -> None:
    """A role that cannot do a worker's work learns which rights it lacks; it still sees the rest."""
    role, password = f"{database.name}_role", "planted-4711"
    query(database, f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    try:
        url = database.url.replace(database.url.split("://")[1].split("@")[0], f"{role}:{password}")
        status, none = examined(database=None, more=infisical.variables | {"PROVISIONER_DATABASE_URL": url})
        query(
            database,
            f"GRANT USAGE ON SCHEMA provisioner TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA provisioner TO {role}",
        )
        also, some = examined(database=None, more=infisical.variables | {"PROVISIONER_DATABASE_URL": url})
    finally:
        query(database, f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert (status, also) == (1, 1)
    assert "permission denied for schema provisioner" in of(none, "rights", "problem")
    assert f"`provisioner grant --requester {role}` lets it insert" in of(none, "rights", "problem")
    assert f"`provisioner grant --requester {role}` lets it insert" in of(some, "rights", "problem")
    assert "UPDATE (credential, " in of(some, "rights", "problem")
    assert ", DELETE on ready, " in of(some, "rights", "problem")
    assert f"GRANT pg_read_all_stats TO {role}" in of(some, "clean-up", "warning")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": "planted-4711"}, "check the client id and the client secret"),
        ({"INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": ""}, "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID"),
        ({"INFISICAL_HOST": "http://127.0.0.1:1"}, "default at http://127.0.0.1:1: nothing was sent"),
    ],
)
def test_an_identity_that_cannot_log_in_is_told(
    database: Database, infisical: Infisical, variables: dict[str, str], said: str
) -> None:
    """A wrong secret, a missing setting and a wrong address each have their remedy; at most one login fails."""
    given = {name: value for name, value in (infisical.variables | variables).items() if value}
    status, checks = examined(database=database, more=given)
    assert status == 1
    assert said in of(checks, "identity", "problem")
    assert "4711" not in str(checks)
    assert infisical.state()["logins"]["refused"] <= 1


def test_a_project_that_cannot_be_read_is_told(database: Database, infisical: Infisical) -> None:
    """A missing membership and a project that is not there are problems, each in its own words."""
    one = infisical.projects[0]
    infisical.set(permissions={one: "none"})
    for project, said in ((one, "the machine identity is not in project"), (NOWHERE, "compare project_id")):
        status, checks = examined("--project", project, database=database, more=infisical.variables)
        assert status == 1
        assert said in of(checks, "permission", "problem")


def test_clocks_that_differ_are_told(database: Database, infisical: Infisical) -> None:
    """An Infisical whose clock is off is a warning that says by how much."""
    infisical.set(clockOffset=90)
    status, checks = examined(database=database, more=infisical.variables)
    assert status == 0
    assert "differs from this host's by 90 s" in of(checks, "clock", "warning")


@pytest.mark.parametrize(
    ("key", "level", "said"),
    [
        ("sk-or-v1-fine", "ok", "default is available, and OpenRouter says that it is a management key"),
        ("sk-or-v1-ordinary-mode-inference", "problem", "default: OpenRouter says that this is an inference key"),
        ("sk-or-v1-gone-mode-401", "problem", "default: OpenRouter does not know this key"),
    ],
)
def test_keys_are_proven_at_openrouter(
    database: Database, infisical: Infisical, key: str, level: str, said: str
) -> None:
    """Where OpenRouter can be asked, a key that is no management key is a problem, and no create finds it out."""
    asked = {"PROVISIONER_OPENROUTER__URL": f"{infisical.url}/openrouter/api/v1", "OPENROUTER_PROVISIONING_KEY": key}
    _, checks = examined(database=database, more=infisical.variables | asked)
    assert said in of(checks, "credential", level)
    assert key not in str(checks)
    assert infisical.state()["creates"] == []


def test_a_credential_that_is_not_there_is_told(database: Database, infisical: Infisical) -> None:
    """A configured credential whose place is empty is a problem; others are not named with their keys."""
    more = infisical.variables | {"PROVISIONER_CREDENTIALS__TEAM_A__FILE": "/nowhere/key"}
    status, checks = examined(database=database, more=more)
    assert status == 1
    assert "team-a: " in of(checks, "credential", "problem")
    assert "/nowhere/key" in of(checks, "credential", "problem")
    assert of(checks, "credential", "ok") == "default is available; "


def test_a_sealing_key_that_is_not_here_is_told(database: Database, infisical: Infisical) -> None:
    """A published key that this host cannot open is a warning that names the file."""
    query(database, "INSERT INTO provisioner.sealing_keys (key_id, public_key) VALUES ('k1', '\\x00')")
    more = infisical.variables | {"PROVISIONER_SEALING__KEY_FILE": "/nowhere/sealing.keys"}
    status, checks = examined(database=database, more=more)
    assert status == 0
    assert "workers need it in /nowhere/sealing.keys" in of(checks, "sealing", "warning")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "mars"], "there is no target mars; configured are "),
        (["--project", NOWHERE], "--project needs --target: "),
    ],
)
def test_an_unclear_target_is_bad_usage(arguments: list[str], said: str) -> None:
    """A misspelt target, and a project that might be at any of several, are refused before anybody is asked."""
    more = {f"PROVISIONER_TARGETS__{name}__URL": f"https://{name.lower()}.infisical.com" for name in ("EU", "US")}
    done = provisioner("doctor", *arguments, more=more)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
