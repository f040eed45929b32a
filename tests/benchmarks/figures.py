"""Figures: what was measured over several runs, and the file that keeps it. No I/O but that file's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Something that is measured; `more` says whether more of it is better."""

    key: str
    title: str
    unit: str
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measure's values, one a run."""

    measure: Measure
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The run in the middle."""
        return median(self.runs)

    @property
    def low(self) -> float:
        """The smallest run."""
        return min(self.runs)

    @property
    def high(self) -> float:
        """The largest run."""
        return max(self.runs)

    def __str__(self) -> str:
        spread = f" ({number(self.low)} to {number(self.high)})" if len(self.runs) > 1 else ""
        return f"{number(self.median)}{spread}"


@dataclass(slots=True)
class Samples:
    """Collects the runs of measures as they come."""

    runs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        """Take over one run's values."""
        for key, value in values.items():
            self.runs.setdefault(key, []).append(value)

    def figures(self, measures: Iterable[Measure]) -> tuple[Figure, ...]:
        """The figures in the order of the measures; what was not measured is left out."""
        return tuple(Figure(measure=one, runs=tuple(self.runs[one.key])) for one in measures if one.key in self.runs)


def number(value: float) -> str:
    """A number to three digits, without an exponent, thousands set apart."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    digits = next((digits for digits, least in enumerate((100.0, 10.0, 1.0, 0.1, 0.01)) if size >= least), 5)
    return f"{value:.{digits}f}" if value else "0"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def save(path: Path, figures: Sequence[Figure], about: Mapping[str, object]) -> None:
    """Write the figures as JSON, with what is to know about the run."""
    kept = [
        {"key": one.measure.key, "title": one.measure.title, "unit": one.measure.unit, "more": one.measure.more}
        | {"median": one.median, "low": one.low, "high": one.high, "runs": list(one.runs)}
        for one in figures
    ]
    path.write_text(json.dumps({"about": dict(about), "figures": kept}, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> tuple[Figure, ...]:
    """Read figures back. Raises `ValueError` where there are none."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))["figures"]
        return tuple(
            Figure(
                measure=Measure(key=one["key"], title=one["title"], unit=one["unit"], more=one["more"]),
                runs=tuple(one["runs"]),
            )
            for one in kept
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no figures of a benchmark ({error!r}); `make bench` writes them") from error
