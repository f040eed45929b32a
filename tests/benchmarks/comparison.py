"""Compare two runs of the benchmarks: a difference counts when the ranges of the two do not overlap."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.benchmarks.figures import Figure, load

if TYPE_CHECKING:
    from collections.abc import Sequence

STYLES = {"better": "green", "worse": "red", "same": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One measure in both runs."""

    old: Figure
    new: Figure

    @property
    def ratio(self) -> float | None:
        """New over old; None where the old one is nothing."""
        return self.new.median / self.old.median if self.old.median else None

    @property
    def verdict(self) -> str:
        """`better` or `worse` when the ranges are apart, else `same`."""
        if self.new.low <= self.old.high and self.old.low <= self.new.high:
            return "same"
        return "better" if (self.new.low > self.old.high) is self.new.measure.more else "worse"


def compare(old: Sequence[Figure], new: Sequence[Figure]) -> tuple[Difference, ...]:
    """What both runs have measured, in the new one's order."""
    before = {one.measure.key: one for one in old}
    return tuple(Difference(old=before[one.measure.key], new=one) for one in new if one.measure.key in before)


def table(differences: Sequence[Difference]) -> Table:
    """The comparison for a terminal."""
    made = Table("measure", "unit", "old", "new", "new / old", "beyond the ranges")
    for column in made.columns[2:5]:
        column.justify = "right"
    for one in differences:
        measure, verdict = one.new.measure, one.verdict
        ratio = "-" if one.ratio is None else f"{one.ratio:.2f}"
        made.add_row(measure.title, measure.unit, str(one.old), str(one.new), ratio, verdict, style=STYLES[verdict])
    return made


def main() -> None:
    """Print the comparison of two files."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.comparison", description=__doc__)
    parser.add_argument("old", type=Path, help="bench.json of the earlier run")
    parser.add_argument("new", type=Path, help="bench.json of the later run")
    chosen = parser.parse_args()
    try:
        differences = compare(load(chosen.old), load(chosen.new))
    except ValueError as error:
        sys.exit(str(error))
    if not differences:
        sys.exit(f"{chosen.old} and {chosen.new} have no measure in common")
    Console().print(table(differences))


if __name__ == "__main__":
    main()
