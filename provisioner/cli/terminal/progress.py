"""Progress bars: only on a terminal, and not for programs (`quiet`)."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from provisioner.cli.terminal.output import console

T = TypeVar("T")

STEP = 1000  # rows between two updates of a bar


@contextmanager
def reading(stream: io.BufferedReader, *, quiet: bool) -> Iterator[Callable[[], None]]:
    """Show how far a file has been read; call the result to update the bar."""
    about = os.fstat(stream.fileno())
    size = about.st_size if stat.S_ISREG(about.st_mode) else None
    with _bar("checking", size, quiet=quiet) as move:
        yield lambda: move(completed=stream.tell() if size else 0)


def loading(rows: Iterable[T], *, total: int, quiet: bool) -> Iterator[T]:
    """Pass on the rows, and show how many have passed."""
    with _bar("loading", total, quiet=quiet) as move:
        for number, row in enumerate(rows):
            if number % STEP == 0:
                move(completed=number)
            yield row


@contextmanager
def counting(what: str, *, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how much is done; call the result with each increment."""
    with _bar(what, total, quiet=quiet, counted=True) as move:
        yield lambda more: move(advance=more)


@contextmanager
def _bar(what: str, total: int | None, *, quiet: bool, counted: bool = False) -> Iterator[Callable[..., None]]:
    screen = console(stderr=True)
    if quiet or not screen.is_terminal:
        yield lambda **_: None
        return
    from rich import progress as rich

    end = (rich.MofNCompleteColumn(), rich.TimeRemainingColumn()) if counted else None
    columns = end or (rich.TaskProgressColumn(), rich.TimeElapsedColumn())
    text, bar = rich.TextColumn("{task.description}"), rich.BarColumn()
    with rich.Progress(text, bar, *columns, console=screen, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda **step: progress.update(task, **step)
