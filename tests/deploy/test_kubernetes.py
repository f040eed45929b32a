"""The manifests of `config/k8s`: valid, consistent with each other and with the product."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from provisioner.observe.web import StatusPort
from tests.support.cli import query
from tests.support.deploy import CONFIG, MANUAL, UID, blocks, is_command, rendered, started
from tests.support.status_port import Answers, sources_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database

FOLDERS = ["base", "keda", "monitoring"]
RELEASES = ["1.31", "1.37"]
NAMED = "app.kubernetes.io/name"


def resources(folder: str = "base") -> list[dict[str, Any]]:
    """What a folder renders to."""
    return rendered(CONFIG / "k8s" / folder)


def one(kind: str, folder: str = "base") -> dict[str, Any]:
    """The only resource of a kind."""
    (found,) = [item for item in resources(folder) if item["kind"] == kind]
    return found


def pods(folder: str = "base") -> list[dict[str, Any]]:
    """The pods' templates."""
    return [item["spec"]["template"] for item in resources(folder) if item["kind"] in {"Deployment", "Job"}]


def chosen(selector: dict[str, Any], template: dict[str, Any]) -> bool:
    """Tell whether a selector finds the pods of a template."""
    labels = template["metadata"]["labels"]
    return bool(selector["matchLabels"]) and selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_knows_every_field(release: str) -> None:
    """Each resource of Kubernetes' own kinds is valid by its strict schema, in an old and in a new release."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the schemas' reader is behind its own libraries
        import kubernetes_validate  # type: ignore[import-untyped]  # it has no stubs
    for folder in FOLDERS:  # one after the other: the schemas of a release take long to read
        own = [
            item
            for item in resources(folder)
            if not re.search(r"(keda\.sh|monitoring\.coreos\.com)/", item["apiVersion"])
        ]
        assert len(own) >= 6
        for item in own:
            kubernetes_validate.validate(item, release, strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_agrees(folder: str) -> None:
    """Where kubectl is at hand, it renders the folder to the same resources."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on this machine")
    done = subprocess.run(  # noqa: S603  # our own arguments
        [kubectl, "kustomize", CONFIG / "k8s" / folder], capture_output=True, text=True, check=True
    )
    # The config map's name has its content's hash at the end; it is named so in two places.
    made = re.sub(r"name: provisioner-[a-z0-9]{10}$", "name: provisioner", done.stdout, flags=re.MULTILINE)

    def by_name(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(items, key=lambda item: (item["kind"], item["metadata"]["name"]))

    assert by_name(list(yaml.safe_load_all(made))) == by_name(resources(folder))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_namespace_is_said(folder: str) -> None:
    """Everything goes where whoever applies it wants it."""
    assert [item for item in resources(folder) if "namespace" in item["metadata"]] == []


def test_pods_keep_to_the_restricted_profile() -> None:
    """Pods pass the strictest of the pod security standards, and ask nothing of the cluster."""
    assert len(pods()) == 2
    for pod in pods():
        spec = pod["spec"]
        own = spec["securityContext"]
        assert (own["runAsNonRoot"], own["runAsUser"], own["fsGroup"]) == (True, UID, UID)
        assert own["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(spec)
        for container in spec["containers"]:
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()


def test_temporary_files_have_a_place() -> None:
    """Below a read-only root there is one directory that can be written, of bounded size."""
    for pod in pods():
        (place,) = [volume for volume in pod["spec"]["volumes"] if "emptyDir" in volume]
        assert place["emptyDir"]["sizeLimit"]
        for container in pod["spec"]["containers"]:
            assert {"name": place["name"], "mountPath": "/tmp"} in container["volumeMounts"]  # noqa: S108  # the container's


def test_pods_name_what_is_there() -> None:
    """Service account, config map, secrets and volumes that a pod names exist, or are made as the manual says."""
    named = {(item["kind"], item["metadata"]["name"]) for item in resources()}
    made = made_secrets()
    for pod in pods():
        spec = pod["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in named
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in named
            elif "secret" in volume:
                items = {item["key"] for item in volume["secret"].get("items", [])}
                assert items <= made[volume["secret"]["secretName"]]
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
            assert is_command(container["args"])


def made_secrets() -> dict[str, set[str]]:
    """The secrets that the manual's commands make, with their keys."""
    text = "".join(blocks("sh", MANUAL.read_text())).replace("\\\n", " ")
    return {
        name: set(re.findall(r"--from-file=([\w.-]+)=", rest))
        for name, rest in re.findall(r"create secret generic ([\w-]+)(.*)", text)
    }


def settings_of(template: dict[str, Any], place: Path) -> Any:
    """The settings of the only container of a pod."""
    (container,) = template["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    made, mounted, config = made_secrets(), {}, None
    for mount in container["volumeMounts"]:
        source = volumes[mount["name"]]
        if "configMap" in source:
            config = one("ConfigMap")["data"]["provisioner.toml"]
            continue
        if "emptyDir" in source:
            continue
        secret = source["secret"]
        keys = [item["path"] for item in secret.get("items", [])] or sorted(made[secret["secretName"]])
        mounted[mount["mountPath"]] = keys
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    if config is not None:
        assert environment["PROVISIONER_CONFIG"] == "/etc/provisioner/provisioner.toml"
    return started(environment, place, mounted=mounted, config=config)


def test_a_worker_has_what_it_needs(tmp_path: Path) -> None:
    """A worker's settings are complete, and it has time to stop."""
    deployment = one("Deployment")
    settings = settings_of(deployment["spec"]["template"], tmp_path)
    assert settings.login().client_secret.reveal() == "the-client-secret"
    assert settings.database_url()
    assert settings.credentials["default"].file.is_file()
    assert settings.sealing.key_file.is_file()
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= settings.worker.grace + 10


def test_the_migration_has_what_it_needs(tmp_path: Path) -> None:
    """The migration knows the database, and no other secret."""
    settings = settings_of(one("Job")["spec"]["template"], tmp_path)
    assert settings.database_url()
    assert settings.targets["default"].client_secret is None


def test_probes_ask_what_is_answered(tmp_path: Path) -> None:
    """Probes and scrapes go to the port where the worker listens for others, and to paths that are served there."""
    from provisioner.observe.health import Health

    template = one("Deployment")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    answers = Answers()
    health = Health(lambda: answers.vitals, poll=1.0)
    sources = sources_of(answers, health)
    served = {
        route.resource.canonical
        for route in StatusPort(sources, monotonic=time.monotonic).application().router.routes()
        if route.resource
    }
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert settings_of(template, tmp_path).listen.endpoint == ("0.0.0.0", ports["status"])  # noqa: S104 - nothing is bound
    assert {probe["port"] for probe in probes.values()} <= ports.keys()
    assert {probe["path"] for probe in probes.values()} <= served
    assert (probes["liveness"]["path"], probes["readiness"]["path"]) == ("/healthz", "/readyz")
    (scrape,) = one("PodMonitor", "monitoring")["spec"]["podMetricsEndpoints"]
    assert scrape["port"] in ports
    assert scrape["path"] in served


def test_selectors_find_the_workers() -> None:
    """All selectors mean the workers, and the network's rules the migration too."""
    deployment = one("Deployment")["spec"]
    workers = deployment["template"]
    (migration,) = [pod for pod in pods() if pod != workers]
    selectors = [
        deployment["selector"],
        one("PodDisruptionBudget")["spec"]["selector"],
        one("PodMonitor", "monitoring")["spec"]["selector"],
        *(spread["labelSelector"] for spread in workers["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert chosen(selector, workers)
        assert not chosen(selector, migration)
    rules = one("NetworkPolicy")["spec"]["podSelector"]
    assert chosen(rules, workers)
    assert chosen(rules, migration)


def test_monitoring_opens_the_port_that_it_asks() -> None:
    """By itself nobody may call; with monitoring its namespace may, on the port of the metrics."""
    assert one("NetworkPolicy")["spec"]["ingress"] == []
    (rule,) = one("NetworkPolicy", "monitoring")["spec"]["ingress"]
    (scrape,) = one("PodMonitor", "monitoring")["spec"]["podMetricsEndpoints"]
    assert [port["port"] for port in rule["ports"]] == [scrape["port"]]


def test_the_scaler_owns_the_number_of_workers(database: Database) -> None:
    """KEDA's objects name each other, the deployment and a key of the secret; its query is answered by the schema."""
    scaled, login = one("ScaledObject", "keda"), one("TriggerAuthentication", "keda")
    deployment = one("Deployment", "keda")
    (trigger,) = scaled["spec"]["triggers"]
    (secret,) = login["spec"]["secretTargetRef"]
    assert "replicas" not in deployment["spec"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]
    assert secret["parameter"] == "connection"
    assert secret["key"] in made_secrets()[secret["name"]]
    assert query(database, trigger["metadata"]["query"]) == "0"
    query(
        database,
        "INSERT INTO provisioner.connection_requests (project_id) SELECT gen_random_uuid() FROM generate_series(1, 7)",
    )
    assert query(database, trigger["metadata"]["query"]) == "7"
    counted = re.search(r"LIMIT (\d+)", trigger["metadata"]["query"])
    assert counted
    assert int(counted[1]) >= int(trigger["metadata"]["targetQueryValue"]) * scaled["spec"]["maxReplicaCount"]
