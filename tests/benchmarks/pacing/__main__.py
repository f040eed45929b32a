"""Simulate the pacing in many situations: prints a table, and draws how each budget was used into an SVG."""

from __future__ import annotations

import argparse
import sys
from math import isnan
from pathlib import Path

from tests.benchmarks.pacing.drawing import draw
from tests.benchmarks.pacing.scenarios import SCENARIOS, bars, simulate

STEP = 5.0  # seconds a bar
HEAD = (
    f"{'situation':<26}{'used':>8}{'of ours':>9}{'refused':>9}{'others refused':>16}{'asks/s/worker':>15}{'least':>7}\n"
)


def main() -> None:
    """Run every scenario."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pacing", description=__doc__)
    parser.add_argument("--svg", type=Path, default=Path("pacing.svg"), help="where to draw (default: pacing.svg)")
    chosen = parser.parse_args()
    rows = []
    sys.stdout.write(HEAD)
    for scenario in SCENARIOS:
        result, world = simulate(scenario)
        share = "-" if isnan(result.ours) else f"{result.ours:.1%}"
        sys.stdout.write(
            f"{result.name:<26}{result.used:>8.1%}{share:>9}{result.refused:>9.2%}{result.hurt:>16.2%}"
            f"{result.questions:>15.2f}{result.least:>7.0%}\n"
        )
        rows.append((result.name, tuple(bars(world, STEP)), round(scenario.limit / scenario.window * STEP)))
    chosen.svg.write_text(draw(rows, step=STEP), encoding="utf-8")
    sys.stdout.write(f"drawn: {chosen.svg}\n")


if __name__ == "__main__":
    main()
