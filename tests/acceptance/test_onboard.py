"""`provisioner onboard`: from projects to connections in one command, which can be resumed."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.cli import provisioner, query, started
from tests.support.infisical import KEY, Infisical, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.forking import Forked
    from tests.support.postgres import Database

ONBOARD = ("onboard", "--from-infisical", "--yes")
WRONG = {"OPENROUTER_PROVISIONING_KEY": "sk-or-v1-wrong-mode-401", "PROVISIONER_RETRY__BASE": "0.1"}
QUICK = {"PROVISIONER_WORKER__LEASE": "5", "PROVISIONER_RETRY__BASE": "0.1", "PROVISIONER_RETRY__CAP": "0.5"}


@pytest.fixture
def infisical() -> Iterator[Infisical]:
    """Run a simulated Infisical with eight projects."""
    with simulated("--mode", "self-hosted", "--projects", "8") as infisical:
        yield infisical


def onboard(
    database: Database, infisical: Infisical, *more: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Onboard all of Infisical's projects, without a question."""
    known = {**infisical.variables, **QUICK, **variables}
    done = provisioner(*ONBOARD, *more, database=database, more=known)
    assert "Traceback" not in done.stderr
    return done


def made(infisical: Infisical) -> list[str]:
    """The projects in which a connection of ours was made, once for each."""
    return sorted(one["projectId"] for one in infisical.state()["connections"] if not one["planted"])


@contextmanager
def onboarding(database: Database, infisical: Infisical) -> Iterator[Forked]:
    """Onboard, in a way that can be interrupted."""
    told = {**infisical.variables, **QUICK}
    process = started(*ONBOARD, database=database, more=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    yield process
    process.communicate()


def some_are_done(database: Database) -> bool:
    """Whether the first requests have succeeded."""
    return query(database, "SELECT count(*) >= 2 FROM provisioner.connection_requests WHERE status <> 'pending'") == "t"


def test_twice_from_nothing(reachable_directory: Path, infisical: Infisical, tmp_path: Path) -> None:
    """On a machine without a database everything is done at once, and the second time nothing is, which is said."""
    variables = {**infisical.variables, "XDG_DATA_HOME": str(reachable_directory)}
    report = tmp_path / "report.jsonl"
    first = provisioner(*ONBOARD, "--batch", "first", "--report", report, more=variables)
    assert first.returncode == 0, first.stderr
    assert "8 to create" in first.stdout
    assert "8 of 8 requests done: 8 succeeded, 0 failed" in first.stdout
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert sorted(row["project_id"] for row in rows) == made(infisical) == sorted(infisical.projects)
    assert {row["project_name"] for row in rows} == {f"project {number}" for number in range(1, 9)}
    second = provisioner(*ONBOARD, "--report", report.with_suffix(".html"), more=variables)
    assert second.returncode == 0, second.stderr
    assert "nothing to do: every request was done earlier (8 succeeded, 0 failed)" in second.stdout
    assert len(infisical.state()["creates"]) == 8
    assert "project 8" in report.with_suffix(".html").read_text()
    status = provisioner("status", more={**variables, "PROVISIONER_DATABASE_URL": "embedded"})
    assert status.returncode == 0
    assert "first" in status.stdout


def test_a_key_of_its_own_for_every_project(database: Database, infisical: Infisical) -> None:
    """With a rotation each project has its connection, its key with a limit and its secret, and nothing twice."""
    options = ("--with-rotation", "--rotation", "spend_limit=10", "--rotation", "limit_reset=monthly")
    done = onboard(database, infisical, *options)
    assert done.returncode == 0, done.stderr
    assert "16 of 16 requests done: 16 succeeded, 0 failed" in done.stdout
    assert "8 of them are rotations" in done.stdout
    again = onboard(database, infisical, *options)
    assert "nothing to do: every request was done earlier (16 succeeded, 0 failed)" in again.stdout
    state = infisical.state()
    assert len(state["connections"]) == len(state["rotations"]) == len(state["keys"]) == len(state["secrets"]) == 8
    assert {(key["limit"], key["limitReset"]) for key in state["keys"]} == {(10, "monthly")}
    assert {key["name"].split(" prod #")[0] for key in state["keys"]} == {f"project {n}" for n in range(1, 9)}
    removing = ("remove", "--all", "--with-secrets", "--revoke-keys", "--yes")
    assert "16 will be deleted from Infisical" in provisioner(*removing, database=database).stdout
    drained = provisioner("run", "--drain", "--listen", "off", database=database, more={**infisical.variables, **QUICK})
    assert drained.returncode == 0, drained.stderr
    state = infisical.state()
    assert [state[each] for each in ("connections", "rotations", "keys", "secrets")] == [[], [], [], []]


def test_a_wrong_key_at_first(database: Database, infisical: Infisical) -> None:
    """With a refused key it exits with 1 and says what to correct; with the right one the same command ends the job."""
    wrong = onboard(database, infisical, **WRONG)
    assert wrong.returncode == 1
    assert "the API key of credential default, which OpenRouter refuses" in wrong.stderr
    right = onboard(database, infisical)
    assert right.returncode == 0, right.stdout + right.stderr
    assert "8 of 8 requests done: 8 succeeded, 0 failed" in right.stdout
    assert made(infisical) == sorted(infisical.projects)


def test_no_key_at_all(database: Database, infisical: Infisical) -> None:
    """Requests that cannot be done are reported before anything is loaded."""
    done = onboard(database, infisical, OPENROUTER_PROVISIONING_KEY="")
    assert done.returncode == 1
    assert "8 cannot be done here: credential default" in done.stdout
    assert "nothing was loaded" in done.stderr
    assert query(database, "SELECT count(*) FROM provisioner.connection_requests") == "0"


def test_ctrl_c(database: Database) -> None:
    """Ctrl-C stops cleanly and says that the same command resumes, and it does."""
    with simulated("--projects", "8", "--write-limit", "3", "--window", "2") as infisical:
        with onboarding(database, infisical) as process:
            wait_until(lambda: some_are_done(database))
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
            assert process.returncode == 1
            assert "nothing is lost: run the same command to continue" in said
        again = onboard(database, infisical)
        assert again.returncode == 0, again.stderr
        assert made(infisical) == sorted(infisical.projects)


def test_kill(database: Database) -> None:
    """After kill -9 the same command ends the job, and nothing is made twice."""
    with simulated("--projects", "8", "--write-limit", "3", "--window", "2") as infisical:
        with onboarding(database, infisical) as process:
            wait_until(lambda: some_are_done(database))
            process.kill()
        again = onboard(database, infisical)
        assert again.returncode == 0, again.stderr
        assert made(infisical) == sorted(infisical.projects)


def test_the_network_away_for_a_while(database: Database) -> None:
    """While nothing answers it waits, no request fails, and it continues by itself."""
    with simulated("--projects", "8", "--write-limit", "3", "--window", "1") as infisical:
        with onboarding(database, infisical) as process:
            wait_until(lambda: some_are_done(database))
            infisical.set(outage="refuse")
            troubled = "SELECT count(*) > 0 FROM provisioner.target_incidents"
            wait_until(lambda: query(database, troubled) == "t", within=20)
            infisical.set(outage="none")
            said, _ = process.communicate()
        assert process.returncode == 0
        assert "8 of 8 requests done: 8 succeeded, 0 failed" in said
        assert made(infisical) == sorted(infisical.projects)


def test_a_file_with_keys_of_its_own(database: Database, infisical: Infisical, tmp_path: Path) -> None:
    """A file's API keys are sealed, with a key that is made if there is none, and failed projects are named."""
    infisical.set(plant=[{"projectId": infisical.projects[2], "name": "openrouter"}])
    file = tmp_path / "projects.csv"
    named = zip(infisical.projects[:3], ("Anna's", "<b>Bold</b>", "Taken"), strict=True)
    file.write_text(
        "project_id,project_name,api_key\n" + "".join(f"{id_},{name},{KEY}-{name[0]}\n" for id_, name in named)
    )
    keys, report = tmp_path / "sealing.keys", tmp_path / "report.html"
    variables = {**infisical.variables, **QUICK, "PROVISIONER_SEALING__KEY_FILE": str(keys)}
    done = provisioner("onboard", file, "--yes", "--report", report, database=database, more=variables)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "2 to create" in done.stdout
    assert "1 conflict: somebody else's connection has the name" in done.stdout
    assert "1 failed with name_conflict" in done.stdout
    assert f"Taken ({infisical.projects[2]})" in done.stdout
    assert keys.exists()
    page = report.read_text()
    assert "&lt;b&gt;Bold&lt;/b&gt;" in page
    assert "<b>Bold" not in page
    assert KEY not in page + done.stdout + done.stderr


def test_it_ends_with_its_own_requests(database: Database, infisical: Infisical, tmp_path: Path) -> None:
    """Requests of others that take longer do not keep it."""
    infisical.set(writeLimit=2, mode="cloud", window=600)
    file = tmp_path / "projects.csv"
    file.write_text(f"project_id,priority\n{infisical.projects[0]},5\n")
    others = ", ".join(f"('{project}')" for project in infisical.projects[1:])
    query(database, f"INSERT INTO provisioner.connection_requests (project_id) VALUES {others}")
    done = provisioner("onboard", file, "--yes", database=database, more={**infisical.variables, **QUICK})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 request done: 1 succeeded" in done.stdout


def test_which_projects_are_meant(database: Database, infisical: Infisical) -> None:
    """Names and the absence of a connection choose among the projects."""
    infisical.set(plant=[{"projectId": infisical.projects[0], "name": "theirs"}])
    done = onboard(database, infisical, "--name", "PROJECT [12]", "--without-connection", "--type", "secret-manager")
    assert done.returncode == 0, done.stderr
    assert "8 projects, 1 of them selected" in done.stdout
    assert made(infisical) == [infisical.projects[1]]


def test_projects_without_the_identity_are_told(database: Database, infisical: Infisical, tmp_path: Path) -> None:
    """A file's projects that the machine identity is not in are named before anything is created."""
    infisical.set(permissions={infisical.projects[0]: "foreign"})
    file = tmp_path / "projects.csv"
    file.write_text("project_id\n" + "\n".join(infisical.projects[:2]) + "\n")
    variables = {**infisical.variables, **QUICK, "PROVISIONER_RETRY__MAX_ATTEMPTS": "1"}
    done = provisioner("onboard", file, "--yes", database=database, more=variables)
    assert "1 of 2 lacks the machine identity, or does not exist" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from-infisical",), "add --yes to proceed"),
        (("--yes",), "give either a FILE or --from-infisical"),
        (("projects.csv", "--from-infisical", "--yes"), "give either a FILE or --from-infisical"),
        (("projects.csv", "--yes", "--name", "a*"), "need --from-infisical"),
        (("--from-infisical", "--yes", "--report", "report.pdf"), "--report must end in .html, .csv or .jsonl"),
    ],
)
def test_what_cannot_be_meant(arguments: tuple[str, ...], said: str) -> None:
    """Without a terminal it needs --yes, and what contradicts itself is refused with exit status 2."""
    done = provisioner("onboard", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_keys_of_a_file_are_asked_about_before_anything_is_loaded(
    database: Database, infisical: Infisical, tmp_path: Path
) -> None:
    """A key that is not a management key is reported with its projects, and costs no create."""
    file = tmp_path / "projects.csv"
    lines = [f"{id_},project {n},sk-or-v1-plain-mode-inference" for n, id_ in enumerate(infisical.projects)]
    file.write_text("\n".join(["project_id,project_name,api_key", *lines]))
    asking = {
        "PROVISIONER_OPENROUTER__URL": f"{infisical.url}/openrouter/api/v1",
        "PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "sealing.keys"),
    }
    done = provisioner("onboard", file, "--yes", database=database, more=infisical.variables | asking)
    assert done.returncode == 1
    assert "8 cannot be done here: its API key: OpenRouter says that this is an inference key" in done.stdout
    assert f"project 0 ({infisical.projects[0]})" in done.stdout
    assert "nothing was loaded" in done.stderr
    assert infisical.state()["requests"]["GET /openrouter/api/v1/key"] == {"200": 1}
    assert infisical.state()["creates"] == []
