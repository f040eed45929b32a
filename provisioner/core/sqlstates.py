"""What an error of the server, of a pooler or of a proxy means to us, by its SQLSTATE.

The rule: what cannot serve us just now is waited for. A person is called only for what no waiting can cure before
anything has worked, and a statement is given up only if it was refused for what it is.
"""

from enum import Enum, auto
from typing import Final


class Blame(Enum):
    """Who or what an error is about."""

    PASSING = auto()
    """The server, or what is in between, cannot serve just now."""
    READ_ONLY = auto()
    """It answers, and takes no changes: a standby, or a default of the database or role."""
    ACCESS = auto()
    """It does not let us in, or knows no such database."""
    RIGHTS = auto()
    """Our role may not do it."""
    SCHEMA = auto()
    """Something of our schema is not there."""
    SESSION = auto()
    """It does not take what we ask for in the beginning."""
    LOST_STATEMENT = auto()
    """A prepared statement is not there: a pooler in between that nobody noticed."""
    VALUE = auto()
    """It refuses a value: for its type, or by a rule or a trigger of somebody's."""
    DEFECT = auto()
    """It refuses the statement for what it is."""


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
    "55006": Blame.DEFECT,  # our own triggers say so of an edit that is refused now
}
_CLASSES: Final = {
    **dict.fromkeys(("0L", "0P", "28"), Blame.ACCESS),
    # 09, 27, 38, 39, P0: others' triggers and functions. 54: others' index, on what is long. HV: a foreign table.
    **dict.fromkeys(("09", "20", "21", "22", "23", "27", "2F", "38", "39", "44", "54", "HV", "P0"), Blame.VALUE),
    **dict.fromkeys(("03", "0A", "10", "24", "34", "36", "42"), Blame.DEFECT),
}
# In the beginning no statement of ours was sent yet: what is refused then is how we introduce ourselves.
_BEGINNING: Final = ("0A", "22", "42")


def blame(sqlstate: str | None, *, fatal: bool = False) -> Blame:
    """Tell what an error is about. `fatal`: the session has ended with it, and so it is no matter of a statement."""
    state = sqlstate or ""
    found = _EXACT.get(state) or _CLASSES.get(state[:2], Blame.PASSING)
    if not fatal:
        return found
    if state[:2] in _BEGINNING and found not in {Blame.RIGHTS, Blame.LOST_STATEMENT}:
        return Blame.SESSION
    return Blame.PASSING if found in {Blame.VALUE, Blame.DEFECT} else found
