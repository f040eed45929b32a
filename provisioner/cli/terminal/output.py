"""Print lines for people on both streams, JSON for programs, and common phrases."""

import shlex
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from provisioner.cli.terminal.streams import tell
from provisioner.core.text import LINES, printable, printable_json, without_keys

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LONGEST: Final = 1500  # characters of an error: a name of thousands of letters would hide the problem
LAST: Final = 400  # of them, from the end of the sentence, which says what to do
PLAIN_WIDTH: Final = 400  # columns without a terminal: whole lines for grep


def tell_error(text: str) -> None:
    """Print on standard error, in one line, what went wrong and what to do."""
    line = without_keys(printable(" ".join(text.split())))
    if len(line) > LONGEST:
        line = f"{line[: LONGEST - LAST]} … {line[-LAST:]}"
    tell(f"error: {line}")


def tell_warning(text: str) -> None:
    """Print on standard error, in one line, what may go wrong."""
    tell(f"warning: {without_keys(printable(' '.join(text.split())))}")


def tell_detail(text: str) -> None:
    """Print on standard error details of the previous error."""
    tell(f"  {without_keys(printable(text))}")


def say(text: str) -> None:
    """Print one or more lines."""
    sys.stdout.write(f"{printable(text, kept=LINES)}\n")


def called(project_name: str | None, project_id: str) -> str:
    """Return a project for people: its name and its id."""
    return f"{project_name} ({project_id})" if project_name else project_id


def print_json(value: object) -> None:
    """Print a value as one JSON document; it may contain dataclasses and times."""
    import orjson

    say(printable_json(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()))


def console(*, stderr: bool = False) -> "Console":
    """Return the console for people: with colour on a terminal; without one, lines are never folded."""
    from provisioner.cli.terminal.tables import PlainConsole

    made = PlainConsole(stderr=stderr, highlight=False, emoji=False)
    if not made.is_terminal:
        made.width = PLAIN_WIDTH
    return made


def show(what: "RenderableType", screen: "Console") -> None:
    """Print something for people; without a terminal, trailing spaces are left out."""
    if screen.is_terminal:
        screen.print(what)
        return
    with screen.capture() as captured:
        screen.print(what)
    for line in captured.get().splitlines():
        say(line.rstrip())


def local_time(when: datetime | None) -> str:
    """Format a point in time for people, in their own time zone."""
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S}" if when is not None else ""


def one_line(text: str | None) -> str:
    """Make foreign text one printable line."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join((text or "").split()))


def program() -> str:
    """Return the command that starts this program; its absolute path if no shorter form is certain."""
    given = Path(sys.argv[0])
    if given.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m provisioner"
    found = shutil.which("provisioner")
    if found and Path(found).resolve() == given.resolve():
        return "provisioner"
    try:
        return shlex.quote(str(given.resolve().relative_to(Path.cwd())))
    except (ValueError, OSError):
        return shlex.quote(str(given.resolve()))
