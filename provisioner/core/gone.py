"""Decide which projects have certainly been deleted from Infisical.

A project can be missing from a list for many reasons: the identity was removed from it, a replica lags, or the address
now leads to another Infisical. So a project must be missing from several lists over a period. It is then queried
individually, and only Infisical's own answer that it does not exist counts. If many are missing at once, none is
assumed to be deleted.

Pure. Only projects that appeared in an earlier list from the same address are considered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from provisioner.core.model import Observation, Proof, Result

MISSING_LISTS: Final = 3  # consecutive lists that lack a project before it is queried individually
MISSING_FOR: Final = timedelta(minutes=5)  # a replica lags for seconds, an upgrade of a server for minutes
QUERIES_PER_ROUND: Final = 20  # projects queried per round, at one read each
# A person deletes a few projects at a time. More than this number, and more than this share of all, means another
# Infisical, a restored backup, or an incomplete list.
FEW_MISSING: Final = 3
MISSING_SHARE: Final = 0.25
_THERE: Final = frozenset({Result.FOUND, Result.NOT_IN_PROJECT, Result.FORBIDDEN, Result.FOREIGN_PROJECT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A project that used to be listed and is missing: from how many consecutive lists, and since when."""

    project_id: str
    project_name: str
    looks: int
    since: datetime


def too_many(missing: int, known: int) -> bool:
    """Whether too many of the `known` projects are missing for the list to be believed."""
    return missing > max(FEW_MISSING, MISSING_SHARE * known)


def to_ask(
    absences: Sequence[Absence], known: int, now: datetime, *, lasting: timedelta = MISSING_FOR
) -> Sequence[Absence]:
    """Return the projects to query now, the longest missing first; none if too many are missing."""
    if too_many(len(absences), known):
        return ()
    ripe = [each for each in absences if each.looks >= MISSING_LISTS and now - each.since >= lasting]
    return sorted(ripe, key=lambda each: (each.since, each.project_id))[:QUERIES_PER_ROUND]


def is_gone(seen: Observation) -> bool:
    """Whether an answer is Infisical's own statement that the project does not exist."""
    return seen.result is Result.PROJECT_MISSING and seen.proof is Proof.REFUSED


def is_there(seen: Observation) -> bool:
    """Whether an answer shows that the project exists, with or without the identity as a member."""
    return seen.result in _THERE
