"""A bar that counts, for work whose steps are not rows of a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from provisioner.cli.terminal.frame import console


@contextmanager
def counting(what: str, *, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how much is done: what this gives is called with how much more that is. Nothing without a terminal."""
    screen = console(stderr=True)
    if quiet or not screen.is_terminal:
        yield lambda _more: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.update(task, advance=more)
