"""Traces by OpenTelemetry, if its own environment variables ask for them.

While they are off, which is the usual case, the worker is not slowed down, and no library is imported.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from threading import Thread
from typing import TYPE_CHECKING, Final

import structlog

from provisioner import __version__
from provisioner.core.model import Action, Observation, Settlement
from provisioner.core.ports import Clock, Observer
from provisioner.core.queue_values import Report

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.stdlib.get_logger()

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN: Final = "http/protobuf"
FLUSH: Final = 5.0  # seconds for the last spans, so that an unreachable collector does not delay a worker's exit


class Both:
    """Passes everything to two observers."""

    def __init__(self, one: Observer, other: Observer) -> None:
        self._observers = (one, other)

    def called(self, target: str, action: Action, observation: Observation) -> None:
        """Pass it on."""
        for each in self._observers:
            each.called(target, action, observation)

    def claimed(self, target: str, requests: int, took: float) -> None:
        """Pass it on."""
        for each in self._observers:
            each.claimed(target, requests, took)

    def settled(self, settlements: Sequence[Settlement], report: Report, took: float) -> None:
        """Pass it on."""
        for each in self._observers:
            each.settled(settlements, report, took)

    def logged_in(self, target: str, outcome: str) -> None:
        """Pass it on."""
        for each in self._observers:
            each.logged_in(target, outcome)


@asynccontextmanager
async def traced(observer: Observer, *, clock: Clock, worker: str) -> AsyncIterator[Observer]:
    """Return the observer, with traces if the environment asks for them; the last spans are sent at the end.

    A failure to send traces is logged, and does not stop the work.
    """
    provider = _provider(worker) if wanted(os.environ) else None
    if provider is None:
        yield observer
        return
    from provisioner.observe.spans import Traces  # noqa: PLC0415  # needs the libraries

    try:
        yield Both(observer, Traces(provider.get_tracer("provisioner", __version__), clock=clock))
    finally:
        # The libraries wait for an unreachable collector longer than a service manager may accept.
        last = Thread(target=provider.shutdown, name="last traces", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, FLUSH)


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for traces: they name a collector, and do not switch it off."""
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower()
    return any(map(environment.get, ENDPOINTS)) and not off and exporters != "none"


def _provider(worker: str) -> "TracerProvider | None":
    """Return the provider that makes and sends spans; None, and a log entry, if it is not available."""
    protocol = next(filter(None, map(os.environ.get, PROTOCOLS)), SPOKEN)
    if protocol != SPOKEN:
        log.warning("traces_unavailable", reason=f"OTLP is spoken as {SPOKEN}, not {protocol}")
        return None
    try:
        from provisioner.observe.spans import make_provider  # noqa: PLC0415  # the libraries may not be installed
    except ImportError:
        missing = "OpenTelemetry is not installed: pip install 'infisical-provisioner[telemetry]'"
        log.warning("traces_unavailable", reason=missing)
        return None
    return make_provider(worker)
