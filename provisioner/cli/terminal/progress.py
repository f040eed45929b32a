"""Progress bars, and durations for people."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from provisioner.cli.terminal.frame import console

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

STEP = 1000  # rows between two steps of a bar


def duration(seconds: float) -> str:
    """Say about how long that is: `40 s`, `12 min`, `8 h 20 min`, `3 d 4 h`.

    >>> duration(30000)
    '8 h 20 min'
    """
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


@contextmanager
def _bar() -> "Iterator[Progress]":
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        yield progress


def reading(stream: io.BufferedReader, *, quiet: bool) -> "AbstractContextManager[Callable[[], None]]":
    """Show how far a file has been read, each time that what this gives is called; nothing without a terminal."""
    return nullcontext(lambda: None) if quiet or not console(stderr=True).is_terminal else _reading(stream)


@contextmanager
def _reading(stream: io.BufferedReader) -> Iterator[Callable[[], None]]:
    about = os.fstat(stream.fileno())
    size = about.st_size if stat.S_ISREG(about.st_mode) else None
    with _bar() as progress:
        task = progress.add_task("checking", total=size)
        yield lambda: progress.update(task, completed=stream.tell() if size else 0)


def loading(rows: Iterable[T], *, total: int, quiet: bool) -> Iterator[T]:
    """Give the rows on, and show how many have gone by; nothing without a terminal."""
    if quiet or not console(stderr=True).is_terminal:
        yield from rows
        return
    with _bar() as progress:
        task = progress.add_task("loading", total=total)
        for number, row in enumerate(rows):
            if number % STEP == 0:
                progress.update(task, completed=number)
            yield row
