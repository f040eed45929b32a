"""Classify errors of the server, of a pooler or of a proxy by their SQLSTATE.

The rule: temporary trouble is waited out. A person is called only for trouble that waiting cannot fix and that appears
before anything has worked. A statement is given up only if it was refused because of itself.
"""

from enum import Enum, auto
from typing import Final


class Blame(Enum):
    """What an error is about."""

    PASSING = auto()
    """The server, or something in between, cannot serve at present."""
    READ_ONLY = auto()
    """It answers but accepts no changes: a standby, or a default of the database or role."""
    ACCESS = auto()
    """It does not let us in, or the database does not exist."""
    RIGHTS = auto()
    """Our role lacks the privilege."""
    SCHEMA = auto()
    """An object of our schema is missing."""
    SESSION = auto()
    """It rejects what we send at the beginning of a session."""
    LOST_STATEMENT = auto()
    """A prepared statement is missing: there is a pooler that was not detected."""
    VALUE = auto()
    """It rejects a value: because of its type, or by somebody's constraint or trigger."""
    DEFECT = auto()
    """It rejects the statement itself."""


_EXACT: Final = {
    "25006": Blame.READ_ONLY,
    "26000": Blame.LOST_STATEMENT,
    "3D000": Blame.ACCESS,
    "3F000": Blame.SCHEMA,
    "42501": Blame.RIGHTS,
    "42703": Blame.SCHEMA,
    "42883": Blame.SCHEMA,
    "42P01": Blame.SCHEMA,
    "42P05": Blame.LOST_STATEMENT,
    "55006": Blame.DEFECT,  # our own triggers raise it for an edit that is refused
}
_CLASSES: Final = {
    **dict.fromkeys(("0L", "0P", "28"), Blame.ACCESS),
    # 09, 27, 38, 39, P0: other people's triggers and functions. 54: their index on a long value. HV: a foreign table.
    **dict.fromkeys(("09", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "HV", "P0"), Blame.VALUE),
    **dict.fromkeys(("03", "0A", "10", "24", "34", "36", "42"), Blame.DEFECT),
}
# At the beginning of a session we have sent no statement, so these refuse how we introduced ourselves.
_BEGINNING: Final = ("0A", "22", "42")


def blame(sqlstate: str | None, *, fatal: bool = False) -> Blame:
    """Classify an error. `fatal`: it ended the session, so it is not about a statement."""
    state = sqlstate or ""
    found = _EXACT.get(state) or _CLASSES.get(state[:2], Blame.PASSING)
    if not fatal:
        return found
    if state[:2] in _BEGINNING and found not in {Blame.RIGHTS, Blame.LOST_STATEMENT}:
        return Blame.SESSION
    return Blame.PASSING if found in {Blame.VALUE, Blame.DEFECT} else found
