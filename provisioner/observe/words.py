"""The wording and number formats of the pages, and the environment for their templates.

Jinja2 escapes everything. Text from outside is masked, made printable and cut before that.
"""

import re
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from provisioner.core.alerts import ADVICE, advice_for
from provisioner.core.text import duration, printable
from provisioner.observe.logs import redact_text

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST: Final = 600  # characters of a foreign text that are shown
_CODE: Final = re.compile(r"`([^`]+)`")


@cache
def asset(name: str) -> str:
    """Return the text of a file in `assets/`."""
    return (files("provisioner.observe") / "assets" / name).read_text(encoding="utf-8")


@cache
def environment() -> "Environment":
    """Return the environment that fills in templates."""
    # Jinja2 is imported for the first page: most workers serve none, and start sooner without it.
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    made = Environment(
        loader=PackageLoader("provisioner.observe"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "count": "{:,}".format,
        "duration": duration,
        "iso": lambda moment: moment.astimezone(UTC).isoformat(timespec="seconds"),
        "is_known": ADVICE.__contains__,
        "link": link,
        "masked": masked,
        "pieces": _pieces,
        "remedy": advice_for,
        "utc": lambda moment, form: f"{moment.astimezone(UTC):{form}} UTC",
    }
    return made


def link(page: str, **query: object) -> str:
    """Return the address of a page with its query; empty values are left out."""
    asked = urlencode({name: value for name, value in query.items() if value not in {None, ""}})
    if any(masked(str(value)) != str(value) for value in query.values()):
        return page  # anything that looks like a key is never put into an address, even if that breaks a search
    return f"{page}?{asked}" if asked else page


def moment(when: datetime | None) -> str:
    """Format a point in time for a sentence."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if when else ""


def masked(text: str) -> str:
    """Mask what may be a secret."""
    return redact_text(text)


def _pieces(foreign: str) -> list[str]:
    """Split foreign text, masked, printable, on one line and cut; every second piece is code."""
    line = " ".join(printable(masked(foreign)).split())
    return _CODE.split(line if len(line) <= LONGEST else f"{line[:LONGEST]}…")
