"""Results as a page for people: totals, causes of failures, and every request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TextIO

from provisioner.core.alerts import advice_for
from provisioner.core.text import printable, without_keys

if TYPE_CHECKING:
    from jinja2 import Environment

# The colours of states; all others are neutral.
_KINDS: Final = {"succeeded": "good", "failed": "bad", "quarantined": "bad", "retrying": "warn"}
_LONGEST: Final = 400  # characters of a message that fit into a cell


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """The top of the page: requests by state, and failures by cause."""

    title: str
    made_at: datetime
    asked: str = ""
    states: Mapping[str, int] = field(default_factory=dict)
    causes: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of requests."""
        return sum(self.states.values())


class Document:
    """A page that is written row by row; `columns` name the values."""

    def __init__(self, stream: TextIO, columns: Sequence[str], heading: Heading) -> None:
        self._stream, self._columns, self._heading = stream, columns, heading
        parts: Any = _environment().get_template("report.html").module
        self._parts = parts
        stream.write(str(self._parts.head(heading)).lstrip())

    def write(self, row: Sequence[object]) -> None:
        """Write one request."""
        self._stream.write(str(self._parts.row(dict(zip(self._columns, row, strict=True)))))

    def end(self) -> None:
        """Write the end of the page."""
        self._stream.write(str(self._parts.foot(self._heading)))


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only for this format

    environment = Environment(
        loader=PackageLoader("provisioner.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "iso": lambda moment: moment.astimezone(UTC).isoformat(timespec="seconds"),
        "kind": lambda state: _KINDS.get(state, "off"),
        "line": _line,
        "percent": lambda part, whole: f"{100 * part / whole:.2f}" if whole else "0",
        "remedy": advice_for,
        "secret": lambda row: f"{row['environment']}:{row['secret_path'].rstrip('/')}/{row['secret_name']}",
        "utc": lambda moment: f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return environment


def _line(foreign: str | None) -> str:
    """Make foreign text safe: printable, one line, truncated, and without anything that may be a key."""
    line = " ".join(printable(without_keys(foreign or "")).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
