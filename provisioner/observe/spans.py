"""The spans of a claim. Imported only if traces are sent, because it needs OpenTelemetry's libraries."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, set_span_in_context

from provisioner import __version__
from provisioner.core.model import (
    AttemptRecord,
    Cancel,
    Fail,
    Remove,
    Result,
    Retry,
    Settlement,
    Succeed,
)
from provisioner.core.ports import Clock
from provisioner.core.queue_values import Report
from provisioner.core.unobserved import Unobserved

_OUTCOMES: Final = {Succeed: "succeeded", Fail: "failed", Retry: "put_back", Cancel: "cancelled", Remove: "removed"}
# Results of ordinary steps, which are not errors.
_ORDINARY: Final = frozenset(
    {Result.CREATED, Result.UPDATED, Result.REMOVED, Result.FOUND, Result.ABSENT, Result.NAME_TAKEN}
)

Attributes = Mapping[str, str | int | bool]


class Traces(Unobserved):
    """Sends every settled claim to OpenTelemetry: `core.ports.Observer`.

    A trace is one claim: `connection_request` from the claim to its record, and in it `claim` until something was
    sent, each call (`create`, `look_up`, `identify`, `replace`, `inspect`, `remove`), and `settle`. Times are the
    database's. Nothing receives descriptions, credentials or what the other side said in words.
    """

    def __init__(self, tracer: Tracer, *, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock

    def settled(self, settlements: Sequence[Settlement], report: Report, took: float) -> None:
        """Make the spans of a recorded batch."""
        end = _nanoseconds(self._clock.now())
        begin = end - round(took * 1e9)
        for settlement in settlements:
            self._tell(settlement, begin, end, fenced=settlement.claim.request.id in report.fenced)

    def _tell(self, settlement: Settlement, settling: int, end: int, *, fenced: bool) -> None:
        start = _nanoseconds(settlement.claim.claimed_at)
        root = self._tracer.start_span(
            "connection_request", attributes=_attributes(settlement, fenced=fenced), start_time=start
        )
        inside = set_span_in_context(root)

        # The claim has the database's time, the others have this process's estimate of it, which differs slightly.
        def span(name: str, begin: int, finish: int) -> None:
            self._tracer.start_span(name, context=inside, start_time=begin).end(max(begin, finish))

        first = settlement.records[0].started_at if settlement.records else None
        span("claim", start, settling if first is None else _nanoseconds(first))
        for call in settlement.records:
            self._call(call, inside)
        span("settle", settling, end)
        if isinstance(settlement.outcome, Fail):
            root.set_status(Status(StatusCode.ERROR, settlement.outcome.code))
        root.end(max(start, end))

    def _call(self, call: AttemptRecord, inside: Context) -> None:
        start = _nanoseconds(call.started_at)
        attributes: dict[str, str | int | bool] = {"provisioner.seen": call.result.name.lower()}
        if call.status is not None:
            attributes["http.response.status_code"] = call.status
        if call.req_id is not None:
            attributes["infisical.request_id"] = call.req_id
        span = self._tracer.start_span(
            call.action.value, context=inside, kind=SpanKind.CLIENT, attributes=attributes, start_time=start
        )
        if call.result not in _ORDINARY:
            span.set_status(Status(StatusCode.ERROR, call.result.value))
        span.end(start + round(call.elapsed * 1e9))


def make_provider(worker: str) -> TracerProvider:
    """Return the provider that makes and sends spans, configured by `OTEL_…`."""
    ours = {SERVICE_NAME: "provisioner", "service.version": __version__, "service.instance.id": worker}
    # Attributes from the environment come last, and take precedence.
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _attributes(settlement: Settlement, *, fenced: bool) -> Attributes:
    claim, outcome = settlement.claim, settlement.outcome
    request = claim.request
    attributes: dict[str, str | int | bool] = {
        "provisioner.request.id": request.id,
        "provisioner.project.id": request.project_id,
        "provisioner.connection.name": request.name,
        "provisioner.target": request.target,
        "provisioner.attempt": claim.attempt,
        "provisioner.creates_sent": settlement.sent,
        "provisioner.outcome": _OUTCOMES[type(outcome)],
    }
    if isinstance(outcome, Fail | Retry) and outcome.code is not None:
        attributes["error.type"] = outcome.code.value
    if isinstance(outcome, Succeed):
        attributes["provisioner.connection.id"] = outcome.connection.id
        attributes["provisioner.adopted"] = outcome.adopted
    if fenced:
        attributes["provisioner.fenced"] = True
    return attributes


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1000
