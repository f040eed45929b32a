"""Draw how a budget was used over time: a small SVG, written by hand."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, TOP = 860, 90, 190, 46
COLOURS = {"ours": "#2f6fab", "theirs": "#e0a33b", "refused": "#c0392b"}
Row = tuple[str, "Sequence[dict[str, int]]", int]


def draw(rows: Sequence[Row], *, step: float) -> str:
    """One strip a scenario: bars of `step` seconds, stacked; the line is the limit's even pace."""
    height = TOP + len(rows) * (HEIGHT + 24) + 10
    size = f'width="{LEFT + WIDTH + 20}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="10" y="20" font-size="15">Requests in {step:g} s, by whom</text>',
        *_legend(),
    ]
    for number, (name, bars, even) in enumerate(rows):
        parts += _strip(name, bars, even, TOP + number * (HEIGHT + 24))
    return "\n".join([*parts, "</svg>\n"])


def _legend() -> list[str]:
    return [
        f'<rect x="{LEFT + 100 * n}" y="10" width="12" height="12" fill="{colour}"/>'
        f'<text x="{LEFT + 100 * n + 18}" y="20">{name}</text>'
        for n, (name, colour) in enumerate(COLOURS.items())
    ]


def _strip(name: str, bars: Sequence[dict[str, int]], even: int, top: int) -> list[str]:
    tallest = max([even * 2, *(sum(bar.values()) for bar in bars)])
    wide = WIDTH / max(1, len(bars))
    parts = [f'<text x="10" y="{top + HEIGHT / 2}">{escape(name)}</text>']
    for n, bar in enumerate(bars):
        base = float(top + HEIGHT)
        for kind, colour in COLOURS.items():
            tall = bar.get(kind, 0) / tallest * HEIGHT
            base -= tall
            if tall:
                parts.append(
                    f'<rect x="{LEFT + n * wide:.1f}" y="{base:.1f}" width="{max(wide - 0.5, 0.5):.1f}"'
                    f' height="{tall:.1f}" fill="{colour}"/>'
                )
    line = top + HEIGHT - even / tallest * HEIGHT
    parts.append(f'<path d="M{LEFT} {line:.1f}h{WIDTH}" stroke="#555" stroke-dasharray="4 3"/>')
    parts.append(f'<path d="M{LEFT} {top + HEIGHT}h{WIDTH}" stroke="#999"/>')
    return parts
