"""A console on which nothing can be printed that a terminal would obey, other than what the console itself does."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.segment import Segment

from provisioner.core.text import printable

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderableType


class PlainConsole(Console):
    """Everything that is shown passes `render` as segments: those that are text lose what is not printable.

    Such characters have no width, so tables stay as they were laid out.
    """

    def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> Iterable[Segment]:
        """The segments of something."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment(printable(segment.text, kept="\n", instead=""), segment.style)
