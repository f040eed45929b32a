"""Measure how fast the provisioner is on this machine, and what it costs: see tests/benchmarks/README.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.benchmarks import alone, latency, self_hosted, tables, throughput
from tests.benchmarks.catalogue import MEASURES, SECTIONS
from tests.benchmarks.drawing import draw
from tests.benchmarks.figures import Samples, save
from tests.benchmarks.stage import IN_FLIGHT, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.benchmarks.figures import Figure

    Part = Callable[[Stage], Awaitable[dict[str, float]]]

BUSY = 0.1  # cores that others may use until the figures are marked
note = Console(stderr=True).print


def parts(section: str, requests: int) -> tuple[Part, ...]:
    """What one repetition of a section measures."""
    known: dict[str, tuple[Part, ...]] = {
        "throughput": (
            partial(throughput.throughput, requests=requests, latency=0.0),
            partial(throughput.throughput, requests=max(1, requests // 2), latency=0.05),
        ),
        "alone": (partial(alone.alone, requests=requests),),
        "intake": (partial(alone.intake, requests=requests),),
        "wake": (latency.wake,),
        "start": (latency.start,),
        "scaling": (partial(throughput.scaling, requests=max(1, requests // 5)),),
        "selfhosted": (self_hosted.self_hosted,),
    }
    return known[section]


async def measure(sections: tuple[str, ...], requests: int, reps: int) -> tuple[Samples, str]:
    """Everything so many times, each time in turn, so that a busy minute does not hit one measure alone."""
    samples = Samples()
    async with Stage() as stage:
        for rep in range(reps):
            for section in sections:
                note(f"[dim]{rep + 1} of {reps}: {section}")
                for part in parts(section, requests):
                    samples.add(await part(stage))
        return samples, stage.server.version


def about(version: str, chosen: argparse.Namespace, figures: tuple[Figure, ...]) -> dict[str, object]:
    """What is to know about this run."""
    foreign = [one.median for one in figures if one.measure.key.endswith(".foreign")]
    busy = f"yes: {max(foreign):.1f} cores were used by others" if max(foreign, default=0) > BUSY else "no"
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "busy": busy if foreign else "not known",
        "python": platform.python_version(),
        "postgresql": version,
        "requests": chosen.requests,
        "repetitions": chosen.reps,
        "in flight": IN_FLIGHT,
    }


def arguments() -> argparse.Namespace:
    """What the command line and the environment say."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    given = os.environ.get
    parser.add_argument("--requests", type=int, default=given("BENCH_REQUESTS", "10000"), help="requests a run")
    parser.add_argument("--reps", type=int, default=given("BENCH_REPS", "5"), help="repetitions")
    parser.add_argument("--only", default=given("BENCH_ONLY", ",".join(SECTIONS)), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, default=given("BENCH_OUT", "build/bench"), help="directory of the results")
    chosen = parser.parse_args()
    chosen.sections = tuple(name.strip() for name in chosen.only.split(","))
    if unknown := set(chosen.sections) - set(SECTIONS):
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {', '.join(sorted(unknown))}")
    if chosen.requests < 200 or chosen.reps < 1:
        parser.error("--requests must be at least 200 and --reps at least 1")
    return chosen


def main() -> None:
    """Measure, then print and write the results."""
    chosen = arguments()
    samples, version = asyncio.run(measure(chosen.sections, chosen.requests, chosen.reps))
    figures = samples.figures(MEASURES)
    known = about(version, chosen, figures)
    Console().print(tables.terminal(figures))
    chosen.out.mkdir(parents=True, exist_ok=True)
    save(chosen.out / "bench.json", figures, known)
    (chosen.out / "bench.md").write_text(tables.markdown(figures, known), encoding="utf-8")
    (chosen.out / "bench.svg").write_text(draw(figures), encoding="utf-8")
    for name, value in known.items():
        note(f"[dim]{name}: {value}")
    note(f"written: {chosen.out}/bench.json, bench.md, bench.svg")


if __name__ == "__main__":
    main()
