"""The Compose file: its shape, its references, and what its services can reach."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from tests.support.deploy import CONFIG, MANUAL, blocks, is_command, started

if TYPE_CHECKING:
    from pathlib import Path

FILE = CONFIG / "compose.yaml"
TEXT = FILE.read_text()


class Strict(BaseModel):
    """A part of the file, in which nothing is unknown."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Probe(Strict):
    """How a service is asked for its health."""

    test: list[str] = []
    interval: str = ""
    timeout: str = ""
    retries: int = 0
    start_period: str = ""
    disable: bool = False


class Dependency(Strict):
    """What has to be so before a service starts."""

    condition: Literal["service_healthy", "service_completed_successfully"]


class Service(Strict):
    """One service."""

    image: str
    build: dict[Literal["context"], str] = {}
    command: list[str] = []
    user: str = ""
    environment: dict[str, str]
    secrets: list[str]
    volumes: list[str] = []
    tmpfs: list[str] = []
    shm_size: str = ""
    networks: list[str]
    ports: list[str] = []
    deploy: dict[Literal["replicas"], int] = {}
    depends_on: dict[str, Dependency] = {}
    healthcheck: Probe
    stop_grace_period: str = ""
    restart: Literal["no", "unless-stopped"]
    read_only: bool
    cap_drop: list[str]
    security_opt: list[str]
    logging: dict[str, Any]


class Project(Strict):
    """The file."""

    name: str
    hardened: dict[str, Any] = Field(alias="x-hardened")
    provisioner: dict[str, Any] = Field(alias="x-provisioner")
    services: dict[str, Service]
    networks: dict[str, dict[Literal["internal"], bool]]
    volumes: dict[str, dict[str, Any]]
    secrets: dict[str, dict[Literal["file"], str]]


PROJECT = Project.model_validate(yaml.safe_load(TEXT))
OURS = ["migrate", "worker"]


def seconds(text: str) -> int:
    """A duration such as 60s or 2m."""
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]  # fails as a test should
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("name", PROJECT.services)
def test_every_reference_leads_somewhere(name: str) -> None:
    """Secrets, networks, volumes and services that a service names are there, and so are the files it reads."""
    service = PROJECT.services[name]
    assert set(service.secrets) <= set(PROJECT.secrets)
    assert set(service.networks) <= set(PROJECT.networks)
    assert {volume.partition(":")[0] for volume in service.volumes} <= set(PROJECT.volumes)
    assert set(service.depends_on) <= set(PROJECT.services)
    read = {value for value in service.environment.values() if value.startswith("/run/secrets/")}
    assert read == {f"/run/secrets/{secret}" for secret in service.secrets}
    if context := service.build.get("context"):
        assert (CONFIG / context / "Dockerfile").is_file()


@pytest.mark.parametrize("name", PROJECT.services)
def test_a_service_may_do_little(name: str) -> None:
    """No service writes to its root file system, has a capability, or can gain one."""
    service = PROJECT.services[name]
    assert (service.read_only, service.cap_drop) == (True, ["ALL"])
    assert service.security_opt == ["no-new-privileges:true"]
    assert [place.partition(":")[0] for place in service.tmpfs][:1] == ["/tmp"]  # noqa: S108  # the container's


def settings_of(name: str, tmp_path: Path) -> Any:
    """The settings of one of our services."""
    service = PROJECT.services[name]
    chosen = {"INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": "an-id"}
    environment = {
        key: re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}", lambda part: chosen.get(part[1], part[2] or ""), value)
        for key, value in service.environment.items()
    }
    return started(environment, tmp_path, mounted={"/run/secrets": service.secrets})


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_commands_that_there_are(name: str) -> None:
    """Commands and probes are commands of the command line."""
    service = PROJECT.services[name]
    assert is_command(service.command)
    probe = service.healthcheck
    assert probe.disable or (probe.test[:2] == ["CMD", "provisioner"] and is_command(probe.test[2:]))


def test_a_worker_has_what_it_needs(tmp_path: Path) -> None:
    """A worker's settings are complete, its port can be published, and it has time to stop."""
    settings, worker = settings_of("worker", tmp_path), PROJECT.services["worker"]
    assert settings.login().client_secret.reveal() == "the-client-secret"
    assert settings.sealing.key_file.is_file()
    host, port = settings.listen.endpoint
    assert host == "0.0.0.0"  # noqa: S104 - nothing is bound here
    assert worker.ports == [f"127.0.0.1:{port}-{port + worker.deploy['replicas'] - 1}:{port}"]
    assert seconds(worker.stop_grace_period) >= settings.worker.grace + 10


def test_the_migration_comes_first_and_has_one_secret(tmp_path: Path) -> None:
    """Workers wait for the schema; the migration knows the database and nothing else."""
    assert PROJECT.services["worker"].depends_on["migrate"].condition == "service_completed_successfully"
    assert PROJECT.services["migrate"].secrets == ["database-url"]
    assert settings_of("migrate", tmp_path).database_url()


def test_the_database_is_nobody_elses() -> None:
    """PostgreSQL has no way out and no published port."""
    postgres = PROJECT.services["postgres"]
    assert postgres.ports == []
    assert [PROJECT.networks[name] for name in postgres.networks] == [{"internal": True}]


def test_secrets_stay_out_of_the_repository_and_are_explained() -> None:
    """Every secret is a file of a folder that git ignores, and the manual says how it is made."""
    files = {one["file"] for one in PROJECT.secrets.values()}
    assert "config/secrets/" in (CONFIG.parent / ".gitignore").read_text().splitlines()
    manual = "".join(blocks("sh", MANUAL.read_text()))
    assert {
        file for file in files if f"config/{file}" not in shlex.split(manual.replace(">", " "), comments=True)
    } == set()
