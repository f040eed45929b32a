"""Make text from outside safe for a terminal, the log or the page by replacing what is not printable.

Batches, roles, targets and messages are partly chosen by anyone who may insert. Escape sequences can write to the
clipboard and rename windows, U+202E reverses text, and a line end forges a line of a log.
"""

import re
from datetime import timedelta
from typing import Final

LINES: Final = "\n\t"  # the white space in text of several lines or columns
_JSON_SPACE: Final = "\n"
_API_KEY: Final = re.compile(r"\bsk-[A-Za-z0-9_-]{6,}")


def printable(text: str, *, kept: str = "", instead: str = "?") -> str:
    """Return the text with each character that is neither printable nor in `kept` replaced by `instead`."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in kept else instead for letter in text)


def printable_json(document: str) -> str:
    """Return the same JSON document with unprintable characters escaped; no data is lost."""
    if document.isprintable():
        return document
    return "".join(letter if letter.isprintable() or letter in _JSON_SPACE else _escape(letter) for letter in document)


def _escape(letter: str) -> str:
    code = ord(letter)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def without_keys(text: str, *, instead: str = "[redacted]") -> str:
    """Return the text without API keys, so that a key pasted in the wrong place is not repeated to others."""
    return _API_KEY.sub(instead, text) if "sk-" in text else text


def duration(span: timedelta | float) -> str:
    """Say about how long that is: `40 s`, `12 min`, `8 h 20 min`, `3 d 4 h`. A number is seconds.

    >>> duration(30000)
    '8 h 20 min'
    """
    whole = max(0, round(span.total_seconds() if isinstance(span, timedelta) else span))
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


def several(number: int, one: str, many: str | None = None) -> str:
    """Say how many; `many` are `one` with an s unless it says otherwise.

    >>> several(1, "line"), several(2000, "line"), several(2, "request waits", "requests wait")
    ('1 line', '2,000 lines', '2 requests wait')
    """
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def percent(part: int, whole: int) -> str:
    """Say how much of it that is, rounded down: all of it is 100 % only then."""
    return f"{100 * part // max(1, whole)} %"
