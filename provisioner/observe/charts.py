"""Draw recent activity as bars: from numbers to coordinates. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from provisioner.core.history import Slot

HEIGHT: Final = 60.0  # of a drawing, in units of one slot's width
LEAST: Final = 1.5  # the lowest visible bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar that stands on the ground or on another bar."""

    kind: str
    x: int
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Bars side by side, and the number that the highest represents."""

    bars: tuple[Bar, ...]
    slots: int
    most: int

    @property
    def height(self) -> float:
        """The drawing's height."""
        return HEIGHT


def chart(slots: Sequence[Slot], kinds: Sequence[tuple[str, str]]) -> Chart:
    """Draw numbers of each slot on top of each other; `kinds` are their names in the slot and their colours."""
    most = max((sum(getattr(slot, name) for name, _ in kinds) for slot in slots), default=0)
    bars = []
    for x, slot in enumerate(slots):
        ground = HEIGHT
        for name, kind in kinds:
            if number := getattr(slot, name):
                height = max(LEAST, HEIGHT * number / most)
                ground = max(0.0, ground - height)
                bars.append(Bar(kind=kind, x=x, y=round(ground, 2), height=round(min(height, HEIGHT), 2)))
    return Chart(bars=tuple(bars), slots=len(slots), most=most)
