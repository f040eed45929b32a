"""Text of others before it meets a terminal, a log or the page: whatever is not printable is taken out here.

Batches, names of roles and of targets, messages: anybody who may insert chooses some of them. Escape sequences write to
the clipboard and rename windows, U+202E turns the writing around, a line end forges a line of a log.
"""

import re
from datetime import timedelta
from typing import Final

LINES: Final = "\n\t"  # what a text of several lines, in columns, is made of
_JSON_SPACE: Final = "\n"
_API_KEY: Final = re.compile(r"\bsk-[A-Za-z0-9_-]{6,}")


def printable(text: str, *, kept: str = "", instead: str = "?") -> str:
    """The text with `instead` in the place of each character that is not printable and not among `kept`."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in kept else instead for letter in text)


def printable_json(document: str) -> str:
    """The same JSON document, in which what is not printable is written as an escape: nothing of the data is lost."""
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
    """The text without API keys: one that was pasted in the wrong place is not repeated where others may read it."""
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
