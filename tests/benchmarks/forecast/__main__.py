"""Compare forecasts with what then really happened: prints a table, and writes it into docs/forecast.md."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from tests.benchmarks.forecast.scenarios import SCENARIOS, Outcome, play
from tests.benchmarks.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = Path(__file__).resolve().parents[3] / "docs" / "forecast.md"
AT_ONCE = 5  # scenarios: more of them would measure this process, not the forecast


def table(outcomes: dict[str, Sequence[Outcome]]) -> str:
    """What was foreseen and what came true, in Markdown."""
    rows = ["| scenario | batch | foreseen after one minute | it really took | off by |", "|---|---|---|---|---|"]
    for name, compared in outcomes.items():
        for one in compared:
            foreseen = f"none: `{one.why}`" if one.foreseen is None else f"{one.foreseen:.2f} min"
            truth = "" if one.truth is None else f"{one.truth:.2f} min"
            off = "" if one.error is None else f"{one.error:+.0%}"
            rows.append(f"| {name} | {one.batch} | {foreseen} | {truth} | {off} |")
    return "\n".join(rows)


async def measure(names: Sequence[str]) -> dict[str, Sequence[Outcome]]:
    """Play the scenarios, a few at a time, each in a database of its own."""
    slots = asyncio.Semaphore(AT_ONCE)
    async with Stage() as stage:

        async def one(name: str) -> Sequence[Outcome]:
            async with slots, stage.database() as database:
                outcomes = await play(stage.server.url(database), name)
                sys.stderr.write(f"{name}: {outcomes}\n")
                return outcomes

        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))


def main() -> None:
    """Run every scenario, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.forecast", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"one or more of: {'; '.join(SCENARIOS)}")
    parser.add_argument("--write", action="store_true", help="put the table into docs/forecast.md")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    outcomes = asyncio.run(measure(chosen.scenarios or list(SCENARIOS)))
    made = table(outcomes)
    sys.stdout.write(f"{made}\n")
    if chosen.write:
        part = re.compile(r"(<!-- measured by [^\n]*-->\n).*?(<!-- end of the measurement -->)", re.DOTALL)
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(part.sub(lambda found: f"{found[1]}\n{made}\n\n{found[2]}", text), encoding="utf-8")
    sys.exit(0 if all(one.good for compared in outcomes.values() for one in compared) else 1)


if __name__ == "__main__":
    main()
