"""Descriptions the way Infisical keeps them: what it trims, how it counts length, and our marker.

Infisical runs on JavaScript, whose white space and string lengths differ from Python's. The text that is sent must
equal the text that Infisical stores, because the description is part of the evidence that a connection is ours.
"""

import re
from typing import Final

# What String.prototype.trim removes. str.strip() also removes U+001C to U+001F and U+0085, and keeps U+FEFF.
SPACE: Final = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005"
    "\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
# In UTF-16 code units: a character beyond U+FFFF, such as an emoji, counts as two.
LONGEST: Final = 255


def units(text: str) -> int:
    """Return the length of a text as Infisical counts it."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


_MARK: Final = re.compile(r"\[provisioner:(?P<marker>[0-9a-z-]+):(?P<request>[0-9]+)\]$")


def describe(request_id: int, description: str | None, *, marker: str) -> str:
    """Return the description to send: trimmed, and with our marker if the target's settings ask for it.

    `marker` is the installation's id, or empty for no marker.
    """
    text = (description or "").strip(SPACE)
    if not marker:
        return text
    mark = mark_of(request_id, marker)
    return f"{_cut(text, LONGEST - 1 - len(mark))} {mark}".strip(SPACE)


def mark_of(request_id: int, marker: str) -> str:
    """Return the ending of the descriptions of this request's connections; nobody else writes it."""
    return f"[provisioner:{marker}:{request_id}]"


def is_description_of(request_id: int, description: str | None, described: str) -> bool:
    """Whether a description is the one that a request asks for, with or without a marker."""
    if described == describe(request_id, description, marker=""):
        return True
    mark = _MARK.search(described)
    return mark is not None and described == describe(request_id, description, marker=mark["marker"])


def _cut(text: str, longest: int) -> str:
    """Cut a text to a length without splitting a surrogate pair."""
    if text.isascii():
        return text[:longest]
    return text.encode("utf-16-le", "surrogatepass")[: 2 * longest].decode("utf-16-le", "ignore")
