"""Traces of what workers do, as a collector of OpenTelemetry's takes them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from provisioner.core.model import ErrorCode, Fail, Result
from provisioner.core.queue_values import Report
from provisioner.core.unobserved import UNOBSERVED
from provisioner.observe.traces import traced, wanted
from provisioner.worker.clock import DatabaseClock
from tests.support.builders import NOON, a_claim, a_record, a_request, a_settlement, at
from tests.support.cli import environment, provisioner, query
from tests.support.collector import collecting
from tests.support.infisical import KEY, simulated

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from tests.support.postgres import Database

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def attributes(span: Span) -> dict[str, Any]:
    """The attributes of a span as plain values."""
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def run(database: Database, **more: str) -> tuple[str, dict[str, Any]]:
    """Have a worker make three connections in an Infisical that loses answers; returns its log and the connections."""
    with simulated("--mode", "self-hosted", "--projects", "3", "--faults", "error-after-commit=1") as infisical:
        projects = ", ".join(f"('{project}', 'planted-4711 in words')" for project in infisical.projects)
        query(database, f"INSERT INTO provisioner.connection_requests (project_id, description) VALUES {projects}")
        settings = {"PROVISIONER_LISTEN__ADDRESS": "off", "PROVISIONER_RETRY__BASE": "0.1"}
        done = provisioner("run", "--drain", database=database, more={**infisical.variables, **settings, **more})
        state = infisical.state()
    assert done.returncode == 0, done.stderr
    return done.stderr, state


def test_every_claim_is_a_trace(database: Database) -> None:
    """With a collector, a worker sends the claim, the calls and the settlement of each claim."""
    with collecting() as collector:
        _, state = run(database, **{ENDPOINT: collector.url})
        spans = collector.spans()
        assert collector.services() == {"provisioner"}
        assert not any(word in body for body in collector.bodies for word in (KEY.encode(), b"planted-4711"))
    names = collector.names()
    assert names["create"] == len(state["creates"]) == 3
    assert names["look_up"] == 3
    assert names["connection_request"] == names["claim"] == names["settle"] == 6
    roots = {span.trace_id: span for span in spans if not span.parent_span_id}
    assert len(roots) == 6
    for span in spans:
        root = roots[span.trace_id]
        assert span.parent_span_id in {b"", root.span_id}
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    told = [attributes(root) for root in roots.values()]
    made = {each["id"] for each in state["connections"]}
    assert {each.get("provisioner.connection.id") for each in told} == made | {None}
    assert sorted(each["provisioner.outcome"] for each in told) == ["put_back"] * 3 + ["succeeded"] * 3
    create = next(span for span in spans if span.name == "create")
    assert attributes(create)["http.response.status_code"] == 500
    assert attributes(create)["provisioner.seen"] == "unknown"


def test_the_environment_names_the_service(database: Database) -> None:
    """OpenTelemetry's own variables work: the service's name, and the address for traces alone."""
    with collecting() as collector:
        named = {"OTEL_SERVICE_NAME": "mine", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces"}
        run(database, **named)
        assert collector.services() == {"mine"}


def test_a_collector_that_is_away_stops_nothing(database: Database) -> None:
    """If nothing accepts the traces, the work is done all the same, and the worker ends in time."""
    log, state = run(database, **{ENDPOINT: "http://127.0.0.1:1"})
    assert len(state["connections"]) == 3
    assert [json.loads(line)["event"] for line in log.splitlines()].count("worker_stopped") == 1


async def test_a_failure_is_an_error_and_a_late_one_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that failed ends in an error with its code; what came too late to be recorded says so."""
    failed = a_settlement(
        a_claim(a_request(id=7, target="eu")),
        Fail(code=ErrorCode.PERMISSION_DENIED, message="planted-4711"),
        records=[a_record(started_at=at(1), status=403, result=Result.FORBIDDEN, message="planted-4711")],
    )
    late = a_settlement(a_claim(a_request(id=8)), records=[a_record(started_at=at(-0.01))])  # clocks differ
    with collecting() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        async with traced(UNOBSERVED, clock=clock(), worker="me") as observer:
            observer.settled([failed, late], Report(settled=frozenset({7}), fenced=frozenset({8})), 0.5)
        spans = collector.spans()
        assert not any(b"planted-4711" in body for body in collector.bodies)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    roots = {attributes(span)["provisioner.request.id"]: span for span in spans if span.name == "connection_request"}
    assert (roots[7].status.code, roots[7].status.message) == (2, "permission_denied")
    assert roots[7].start_time_unix_nano == NOON.timestamp() * 1e9
    assert (attributes(roots[7])["error.type"], attributes(roots[7])["provisioner.target"]) == (
        "permission_denied",
        "eu",
    )
    assert "provisioner.fenced" not in attributes(roots[7])
    assert attributes(roots[8])["provisioner.fenced"] is True
    calls = [span for span in spans if span.name == "create"]
    assert {span.status.code for span in calls} == {0, 2}
    assert {round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, 3) for span in calls} == {0.2}


@pytest.mark.parametrize(
    ("environ", "sent"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({ENDPOINT: "http://collector:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: "http://collector:4318", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_who_asks_for_traces_gets_them(environ: dict[str, str], sent: bool) -> None:
    """A collector's address switches traces on; OpenTelemetry's own switches turn them off."""
    assert wanted(environ) is sent


def test_nothing_is_imported_that_nobody_asked_for() -> None:
    """Without a collector a worker's process does not import OpenTelemetry."""
    script = (
        "import sys, provisioner.service\nprint([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(  # noqa: S603  # our own arguments
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, env=environment()
    )
    assert done.stdout.strip() == "[]"


async def test_without_a_collector_nothing_is_put_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """While traces are off, the worker's observer is the very one that it would be without them."""
    monkeypatch.delenv(ENDPOINT, raising=False)
    async with traced(UNOBSERVED, clock=clock(), worker="me") as observer:
        assert observer is UNOBSERVED


async def test_a_protocol_that_is_not_spoken_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If gRPC is requested, the supported protocol is reported, and work goes on without traces."""
    from provisioner.observe.logs import configure_logging

    configure_logging("info", "json")
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    async with traced(UNOBSERVED, clock=clock(), worker="me") as observer:
        assert observer is UNOBSERVED
    said = json.loads(capsys.readouterr().err)
    assert said["event"] == "traces_unavailable"
    assert "http/protobuf" in said["reason"]


def test_missing_libraries_are_told_and_stop_nothing(database: Database, tmp_path: Path) -> None:
    """Where the extra is not installed, the log says how to install it, and the work is done."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError\n")
    log, _ = run(database, PYTHONPATH=str(tmp_path), **{ENDPOINT: "http://127.0.0.1:1"})
    events = {json.loads(line)["event"]: json.loads(line) for line in log.splitlines()}
    assert "pip install 'infisical-provisioner[telemetry]'" in events["traces_unavailable"]["reason"]


def clock() -> DatabaseClock:
    """A stopped clock."""
    return DatabaseClock(wall=lambda: at(5), monotonic=lambda: 0.0)
