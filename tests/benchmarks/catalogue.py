"""Everything that `make bench` measures, in the order in which it is shown."""

from __future__ import annotations

from tests.benchmarks.figures import Measure

SECTIONS = ("throughput", "alone", "intake", "wake", "start", "scaling", "selfhosted")


def _throughput(latency: str) -> tuple[Measure, ...]:
    key, api = f"throughput.{latency}", f"API {latency[:-2]} ms"
    return (
        Measure(key=f"{key}.steady_share", title=f"{api}: steady, of a bare loop", unit="share", more=True),
        Measure(key=f"{key}.whole_share", title=f"{api}: from start to end, of a bare loop", unit="share", more=True),
        Measure(key=f"{key}.steady", title=f"{api}: steady", unit="requests/s", more=True),
        Measure(key=f"{key}.whole", title=f"{api}: from start to end", unit="requests/s", more=True),
        Measure(key=f"{key}.bare", title=f"{api}: bare loop", unit="requests/s", more=True),
        Measure(key=f"{key}.mock", title=f"{api}: the mock's CPU, of the bare loop's", unit="share"),
        Measure(key=f"{key}.worker_cpu", title=f"{api}: worker CPU", unit="s / 1 000"),
        Measure(key=f"{key}.postgres_cpu", title=f"{api}: PostgreSQL CPU", unit="s / 1 000"),
        Measure(key=f"{key}.transactions", title=f"{api}: write transactions", unit="/ request"),
        Measure(key=f"{key}.wal", title=f"{api}: WAL, right after a checkpoint", unit="bytes / request"),
        Measure(key=f"{key}.peak", title=f"{api}: worker's peak memory", unit="MB"),
        Measure(key=f"{key}.foreign", title=f"{api}: CPU that others used meanwhile", unit="cores"),
    )


def _scaling(name: str, title: str) -> tuple[Measure, ...]:
    made: list[Measure] = []
    for workers in (1, 2, 4):
        key, who = f"scaling.{name}.{workers}", f"{workers} worker{'s' * (workers > 1)}, {title}"
        made += [
            Measure(key=f"{key}.steady", title=f"{who}: steady", unit="requests/s", more=True),
            Measure(key=f"{key}.share", title=f"{who}: of so many times one", unit="share", more=True),
            Measure(key=f"{key}.postgres_cpu", title=f"{who}: PostgreSQL CPU", unit="s / 1 000"),
            Measure(key=f"{key}.transactions", title=f"{who}: write transactions", unit="/ request"),
        ]
    return tuple(made)


def _self_hosted(load: str, title: str) -> tuple[Measure, ...]:
    key = f"selfhosted.{load}"
    return (
        Measure(key=f"{key}.share", title=f"{title}: by default, of the fastest fixed number", unit="times"),
        Measure(key=f"{key}.auto", title=f"{title}: by default", unit="s"),
        *(Measure(key=f"{key}.{most}", title=f"{title}: max_in_flight = {most}", unit="s") for most in (4, 8, 11, 16)),
        Measure(key=f"{key}.auto_stalled", title=f"{title}: by default, runs in which the server stopped", unit="of 1"),
        Measure(key=f"{key}.stalled", title=f"{title}: runs in which the server stopped", unit="of 5"),
    )


MEASURES = (
    *_throughput("0ms"),
    *_throughput("50ms"),
    Measure(key="size.pending", title="table and queue, a pending row", unit="bytes"),
    Measure(key="size.finished", title="table, a finished row", unit="bytes"),
    Measure(key="queue.claims", title="claims alone, one connection", unit="requests/s", more=True),
    Measure(key="queue.settles", title="settlements alone, one connection", unit="requests/s", more=True),
    Measure(key="intake.copy", title="intake by COPY", unit="rows/s", more=True),
    Measure(key="intake.submit", title="intake by `submit`, its start included", unit="rows/s", more=True),
    Measure(key="wake.p50", title="single insert to result on an idle worker, p50", unit="ms"),
    Measure(key="wake.p99", title="single insert to result on an idle worker, p99", unit="ms"),
    Measure(key="idle.worker_cpu", title="idle worker: its CPU", unit="% of a core"),
    Measure(key="idle.postgres_cpu", title="idle worker: PostgreSQL CPU", unit="% of a core"),
    Measure(key="idle.queries", title="idle worker: transactions", unit="/ s"),
    Measure(key="start.help", title="`provisioner --help`", unit="ms"),
    Measure(key="start.status", title="`provisioner status`", unit="ms"),
    Measure(key="start.daemon", title="`provisioner run`, from start to the first result", unit="ms"),
    *_scaling("free", "no limiter"),
    *_scaling("metered", "limiter"),
    *_self_hosted("quick", "self-hosted, 300 rows"),
    *_self_hosted("upstream", "self-hosted, 200 rows, OpenRouter 0.3 s"),
)
