"""Clean and check the text of a key, a token or a client secret.

Editors, shells and spreadsheets put things around a key: a byte-order mark, line ends, invisible characters. These are
stripped. Inside the text they make the key invalid, and it is not sent, because that would count as a failed attempt.
Pure; error messages never show a part of the text.
"""

import codecs
import unicodedata
from typing import Final

from provisioner.core.secret import Secret

LONGEST_KEY: Final = 16384  # characters; a signed token with many claims has a few thousand

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
_QUOTES: Final = ('""', "''", "``")
_ENCODINGS: Final = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class NoKey(ValueError):
    """The text cannot be a key. The message continues a sentence that begins with where the text is."""


def decoded(octets: bytes) -> str:
    """Decode the text of a file: UTF-8, or what its byte-order mark says, as Windows writes it. Raises `NoKey`."""
    encoding = next((name for mark, name in _ENCODINGS if octets.startswith(mark)), "utf-8")
    try:
        return octets.decode(encoding)
    except UnicodeDecodeError:
        # The chained exception would carry the content along.
        raise NoKey("is not UTF-8 text") from None


def bare(text: str) -> str:
    """Strip what is invisible around a text: white space, byte-order marks, control and zero-width characters."""
    begins, ends = 0, len(text)
    while begins < ends and _is_invisible(text[begins]):
        begins += 1
    while ends > begins and _is_invisible(text[ends - 1]):
        ends -= 1
    return text[begins:ends]


def key_in(text: str) -> Secret:
    """Return the key that a text contains. Raises `NoKey` if it cannot be one."""
    key = bare(text)
    if reason := _flaw(key):
        raise NoKey(reason)
    return Secret(key)


def _flaw(key: str) -> str:
    if not key:
        return "is empty"
    if len(key) > LONGEST_KEY:
        return f"is longer than {LONGEST_KEY} characters, and no key or token is that long"
    if len(key) > 1 and key[0] + key[-1] in _QUOTES:
        return "is in quotation marks, which do not belong to it"
    odd = next((letter for letter in key if not "!" <= letter <= "~"), None)
    return "" if odd is None else f"contains {_called(odd)}, which no key or token has"


def _called(letter: str) -> str:
    """Name a misplaced character the way people do."""
    if letter in "\r\n\u2028\u2029\x85":
        return "a line break"
    if letter == " ":
        return "a space"
    code = f"U+{ord(letter):04X}"
    if unicodedata.category(letter) == "Cs":
        return "bytes that are not UTF-8 text"
    if _is_invisible(letter):
        return f"the invisible character {code}"
    return f"the character {code}"


def _is_invisible(letter: str) -> bool:
    return letter.isspace() or unicodedata.category(letter) in _INVISIBLE
