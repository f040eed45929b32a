"""Escape text that a spreadsheet would run as a formula in a CSV file.

Such text gets an apostrophe in front, as spreadsheets do and OWASP recommends. Reading removes it again. Text that
already begins with apostrophes and such a character gets one more, so reading always restores the original.
"""

import re
from typing import Final

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r\n]")


def escaped(text: str) -> str:
    """Return the text as it is written to a cell."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescaped(cell: str) -> str:
    """Return the original text of a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
