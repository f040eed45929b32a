"""Secrets in files: correcting the file corrects the running worker."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.cli import provisioner, query, started
from tests.support.infisical import KEY, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.forking import Forked
    from tests.support.infisical import Infisical
    from tests.support.postgres import Database

INSERT = "INSERT INTO provisioner.connection_requests (project_id, credential) "
LEFT = "SELECT count(*) FROM provisioner.connection_requests WHERE status <> 'succeeded'"
REVOKE = "POST /api/v1/auth/token/revoke"


@contextmanager
def worker(config: Path, log: Path) -> Iterator[Forked]:
    """A daemon with this file of settings, killed at the end if it still runs."""
    with log.open("wb") as stream:
        process = started("run", "--config", config, "--listen", "off", stderr=stream.fileno())
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def asked(database: Database, infisical: Infisical, credential: str = "default") -> None:
    """Ask for a connection in each project."""
    listed = ", ".join(f"('{project}', '{credential}')" for project in infisical.projects)
    query(database, f"{INSERT} VALUES {listed}")


def test_a_client_secret_is_mended_in_its_file(database: Database, tmp_path: Path) -> None:
    """A wrong client secret is sent only once; when its file is corrected the worker continues within seconds."""
    secret, log, config = tmp_path / "secret", tmp_path / "log", tmp_path / "provisioner.toml"
    url = tmp_path / "url"
    url.write_text(f"{database.url}\n")
    secret.write_text("wrong\n")
    with simulated("--mode", "self-hosted", "--projects", "20") as infisical:
        config.write_text(
            f"""
            [database]
            url_file = "{url}"
            [targets.default]
            url = "{infisical.url}"
            client_id = "{infisical.client_id}"
            client_secret_file = "{secret}"
            [credentials.default]
            value = "{KEY}"
            [worker]
            poll = 0.2
            """
        )
        asked(database, infisical)
        with worker(config, log) as process:
            refused = {"ok": 0, "refused": 1, "locked": 0}
            wait_until(lambda: infisical.state()["logins"] == refused)
            wait_until(lambda: b"breaker_opened" in log.read_bytes())
            # The target is probed every few seconds; none of these probes is a login.
            probes = "SELECT count(*) FROM provisioner.waiting WHERE run_at > now()"
            wait_until(lambda: query(database, probes) != "0")
            assert infisical.state()["logins"] == refused
            secret.write_text(infisical.client_secret)
            wait_until(lambda: query(database, LEFT) == "0", within=20)
            assert infisical.state()["logins"] == {"ok": 1, "refused": 1, "locked": 0}
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        assert infisical.state()["requests"][REVOKE] == {"200": 1}
        assert infisical.client_secret not in log.read_text()


def test_a_token_is_replaced_in_its_file(database: Database, tmp_path: Path) -> None:
    """A token from a file that Infisical refuses is not used again; the next one in the file is; neither is revoked."""
    token, log, config = tmp_path / "token", tmp_path / "log", tmp_path / "provisioner.toml"
    token.write_text("refused.by.infisical")
    with simulated("--mode", "self-hosted", "--projects", "3") as infisical:
        config.write_text(
            f"""
            [database]
            url = "{database.url}"
            [targets.default]
            url = "{infisical.url}"
            token_file = "{token}"
            [credentials.default]
            value = "{KEY}"
            """
        )
        asked(database, infisical)
        with worker(config, log) as process:
            wait_until(lambda: b"login_refused" in log.read_bytes())
            token.write_text(infisical.log_in())
            wait_until(lambda: query(database, LEFT) == "0", within=20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        assert REVOKE not in infisical.state()["requests"]


def test_doctor_fetches_what_is_in_infisical(database: Database) -> None:
    """A credential in Infisical is fetched through its target with the one login; one that cannot be is a problem."""
    with simulated("--projects", "1") as infisical:
        secret = {"name": "KEY", "projectId": infisical.projects[0], "environment": "prod"}
        infisical.set(secrets=[{**secret, "value": KEY}])
        place = {"PROJECT": infisical.projects[0], "ENVIRONMENT": "prod", "SECRET": "KEY"}
        more = {
            **infisical.variables,
            **{f"PROVISIONER_CREDENTIALS__THERE__{name}": value for name, value in place.items()},
            **{f"PROVISIONER_CREDENTIALS__GONE__{name}": value for name, value in {**place, "SECRET": "NO"}.items()},
        }
        done = provisioner("doctor", "--json", database=database, more=more)
        found = {each["said"]: each["verdict"] for each in json.loads(done.stdout)["checks"]}
        assert found["there can be fetched through target default"] == "ok"
        (told,) = [said for said, verdict in found.items() if verdict == "problem"]
        assert f"credential gone (secret NO in project {infisical.projects[0]}, environment prod, path /)" in told
        assert done.returncode == 1
        assert KEY not in done.stdout
        assert infisical.state()["logins"]["ok"] == 1
