"""Draw figures as bars with their ranges: a small SVG, written by hand."""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.figures import Figure

LEFT, WIDTH, RIGHT, TALL, GAP = 400, 420, 220, 18, 34
COLOURS = {True: "#2f6fab", False: "#e0a33b"}  # more is better; less is better


def draw(figures: Sequence[Figure]) -> str:
    """One bar a figure, those of one unit that follow each other to one scale; the thin line is the range."""
    parts, top = [], 40
    for unit, group in groupby(figures, key=lambda one: one.measure.unit):
        several = tuple(group)
        parts.append(f'<text x="10" y="{top + 13}" font-weight="bold">{escape(unit)}</text>')
        top += TALL + 4
        longest = max(one.high for one in several) or 1.0
        for one in several:
            parts += _bar(one, WIDTH / longest, top)
            top += TALL + 4
        top += GAP - TALL
    size = f'width="{LEFT + WIDTH + RIGHT}" height="{top}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *_legend(),
            *parts,
            "</svg>\n",
        ]
    )


def _legend() -> list[str]:
    named = ((True, "more is better"), (False, "less is better"))
    return [
        f'<rect x="{LEFT + 130 * n}" y="10" width="12" height="12" fill="{COLOURS[more]}"/>'
        f'<text x="{LEFT + 130 * n + 18}" y="20">{text}</text>'
        for n, (more, text) in enumerate(named)
    ]


def _bar(one: Figure, scale: float, top: int) -> list[str]:
    middle, low, high = (LEFT + value * scale for value in (one.median, one.low, one.high))
    y = top + TALL / 2
    return [
        f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(one.measure.title)}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{middle - LEFT:.1f}" height="{TALL}" fill="{COLOURS[one.measure.more]}"/>',
        f'<path d="M{low:.1f} {y}H{high:.1f}" stroke="#222"/>',
        f'<text x="{max(middle, high) + 8:.1f}" y="{y + 4}">{escape(str(one))}</text>',
    ]
