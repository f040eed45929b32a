"""Make what others say safe to show and to store.

Pure functions. Foreign text loses what terminals, logs and PostgreSQL cannot take, and whatever of a secret is in it.
"""

from typing import Final

from provisioner.core.model import ERROR_MESSAGE_LENGTH
from provisioner.core.secret import MASK

# So many characters of a key in a row betray it; fewer are found in ordinary words.
TELLTALE: Final = 8
# More of a foreign text is not even looked at: a message is a sentence, a proxy's error page is not.
GLANCE: Final = 4 * ERROR_MESSAGE_LENGTH


def clean(text: str, *, secret: str = "") -> str:
    """Foreign text in one line, at most `ERROR_MESSAGE_LENGTH` characters, without `secret` and without its parts."""
    # Control characters, marks that turn the writing around, halves of characters: none of them is printable.
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:GLANCE]).split())
    return shorten(_without(line, secret.strip()) if secret else line)


def shorten(text: str) -> str:
    """Text that fits a row's error message."""
    return text if len(text) <= ERROR_MESSAGE_LENGTH else f"{text[: ERROR_MESSAGE_LENGTH - 1]}…"


def _without(text: str, secret: str) -> str:
    if len(secret) < TELLTALE:
        return text.replace(secret, MASK) if secret else text
    told = [text[at : at + TELLTALE] in secret for at in range(len(text) - TELLTALE + 1)]
    if not any(told):
        return text
    kept: list[str] = []
    masked_to = 0
    for at, letter in enumerate(text):
        if at < len(told) and told[at]:
            if at >= masked_to:
                kept.append(MASK)
            masked_to = at + TELLTALE
        if at >= masked_to:
            kept.append(letter)
    return "".join(kept)
