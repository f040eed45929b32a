"""Descriptions as Infisical keeps them: what it trims, how it counts, and our mark in them.

Infisical runs on JavaScript, whose white space and whose lengths are not quite Python's. What is sent has to be what it
will store, for a connection is known as ours by its description too.
"""

import re
from typing import Final

# What String.prototype.trim removes: str.strip() would take more (U+001C to U+001F, U+0085) and leave U+FEFF.
SPACE: Final = (
    "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005"
    "\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
)
# In UTF-16 code units: a letter beyond U+FFFF, such as an emoji, counts as two.
LONGEST: Final = 255


def units(text: str) -> int:
    """How long Infisical takes a text to be."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


_MARK: Final = re.compile(r"\[provisioner:(?P<marker>[0-9a-z-]+):(?P<request>[0-9]+)\]$")


def describe(request_id: int, description: str | None, *, marker: str) -> str:
    """A request's description as it is sent: trimmed, and marked as ours where the target's settings ask for it.

    `marker` is the id of the installation, or empty for no mark.
    """
    text = (description or "").strip(SPACE)
    if not marker:
        return text
    mark = mark_of(request_id, marker)
    return f"{_cut(text, LONGEST - 1 - len(mark))} {mark}".strip(SPACE)


def mark_of(request_id: int, marker: str) -> str:
    """How descriptions of a request's own making end, where they are marked: nobody else writes that."""
    return f"[provisioner:{marker}:{request_id}]"


def is_description_of(request_id: int, description: str | None, described: str) -> bool:
    """Whether a connection is described as a request asks for, marked or not."""
    if described == describe(request_id, description, marker=""):
        return True
    mark = _MARK.search(described)
    return mark is not None and described == describe(request_id, description, marker=mark["marker"])


def _cut(text: str, longest: int) -> str:
    """The beginning of a text, without half a letter at its end."""
    if text.isascii():
        return text[:longest]
    return text.encode("utf-16-le", "surrogatepass")[: 2 * longest].decode("utf-16-le", "ignore")
