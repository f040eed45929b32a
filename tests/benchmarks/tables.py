"""Figures as tables: for a terminal, and in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.figures import Figure

HEAD = ("measure", "median (range)", "unit")


def terminal(figures: Sequence[Figure]) -> Table:
    """The figures for a terminal."""
    made = Table(*HEAD)
    made.columns[1].justify = "right"
    for one in figures:
        made.add_row(one.measure.title, str(one), one.measure.unit)
    return made


def markdown(figures: Sequence[Figure], about: Mapping[str, object]) -> str:
    """The figures as a Markdown table, with what is to know about the run below it."""
    rows = [HEAD, ("---", "---:", "---"), *((one.measure.title, str(one), one.measure.unit) for one in figures)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"{name}: {value}  " for name, value in about.items()), ""])
