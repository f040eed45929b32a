"""Text in CSV that a spreadsheet would run as a formula.

Written with an apostrophe before it, as spreadsheets have it and OWASP advises; reading takes the apostrophe off
again. Text that itself begins with apostrophes and such a character gets one more, so that reading always gives what
was there.
"""

import re
from typing import Final

_FORMULA: Final = re.compile(r"'*[=+\-@\t\r\n]")


def escaped(text: str) -> str:
    """Return the text as it stands in a cell."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescaped(cell: str) -> str:
    """Return the text that a cell stands for."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
