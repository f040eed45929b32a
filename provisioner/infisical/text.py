"""Make what others say safe to show and to store.

Pure functions. Foreign text loses what terminals, logs and PostgreSQL cannot take, and the secret where it is quoted.
"""

import re
from collections.abc import Mapping
from itertools import takewhile
from typing import Final

from provisioner.core.model import ERROR_MESSAGE_LENGTH
from provisioner.core.secret import MASK

# A shorter secret is found in ordinary words: it is masked only where it stands alone.
TELLTALE: Final = 8
# A quotation that breaks off shows a secret's beginning: so much of it is not found in anything else. Keys of one
# kind begin alike (`sk-or-v1-`), and ids, which may well share a run of digits with a key, do not begin like one.
BEGINNING: Final = 16
# Longer than a UUID: what shares such a run with a secret is no id.
LONG_RUN: Final = 37
# What JSON, URLs and HTML write otherwise: a quotation in one of these has the parts of a secret between as they are.
_rewritten: Final = re.compile(r"[^0-9A-Za-z._~-]+").split
LONGEST_KIND: Final = 60  # characters of a content type
# More of a foreign text is not even looked at: a message is a sentence, a proxy's error page is not.
GLANCE: Final = 4 * ERROR_MESSAGE_LENGTH


def clean(text: str, *, secret: str = "") -> str:
    """Foreign text in one line, at most `ERROR_MESSAGE_LENGTH` characters, in which `secret` is masked.

    The secret itself and a quotation of it that breaks off; never what merely has some characters in common with it,
    such as the id by which people find their project.
    """
    # Control characters, marks that turn the writing around, halves of characters: none of them is printable.
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:GLANCE]).split())
    return shorten(_without(line, secret.strip()) if secret else line)


def content(headers: Mapping[str, str]) -> str:
    """The kind of content that an answer says it has, for people; `headers` are looked up in lower case."""
    return clean(headers.get("content-type", "").partition(";")[0].lower())[:LONGEST_KIND] or "no content type"


def shorten(text: str) -> str:
    """Text that fits a row's error message."""
    return text if len(text) <= ERROR_MESSAGE_LENGTH else f"{text[: ERROR_MESSAGE_LENGTH - 1]}…"


def _without(text: str, secret: str) -> str:
    if not secret:
        return text
    if len(secret) < TELLTALE:
        return re.sub(rf"(?<![0-9A-Za-z]){re.escape(secret)}(?![0-9A-Za-z])", MASK, text)
    kept: list[str] = []
    at = 0
    masked = False
    parts = [part for part in _rewritten(secret) if len(part) >= TELLTALE]
    while at < len(text):
        if run := _quoted(text, at, secret) or max(
            (len(part) for part in parts if text.startswith(part, at)), default=0
        ):
            if not masked:
                kept.append(MASK)
            at += run
        else:
            kept.append(text[at])
            at += 1
        masked = bool(run)
    return "".join(kept)


def _quoted(text: str, at: int, secret: str) -> int:
    """How many characters from `at` on quote the secret; 0 if it is not quoted there."""
    if text.startswith(secret[:BEGINNING], at):
        begins = 0
    elif at + LONG_RUN <= len(text) and text[at : at + LONG_RUN] in secret:
        begins = secret.index(text[at : at + LONG_RUN])
    else:
        return 0
    alike = zip(text[at:], secret[begins:], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], alike))
