"""Decide which projects are gone from Infisical for sure.

A list leaves a project out for many reasons: the identity was taken out of it, a replica lags, the address is that of
another Infisical. So a project has to be missing from several lists over a while; then it is asked for by itself, and
only Infisical's own word that there is no such project counts. Where many are missing at once, nobody deleted them.

Pure. Only projects that were seen in a list of the same address are known here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from provisioner.core.model import Observation, Proof, Result

MISSING_LISTS: Final = 3  # lists in a row in which a project is missing before it is asked for
MISSING_FOR: Final = timedelta(minutes=5)  # a replica lags for seconds, an upgrade of a server for minutes
ASKED: Final = 20  # projects that are asked for in a round: each takes a read
# A person deletes a few projects at a time. More than these, and more than this share of all, is another Infisical, a
# restored backup, or a list that is not whole.
FEW: Final = 3
SHARE: Final = 0.25
_THERE: Final = frozenset({Result.FOUND, Result.NOT_IN_PROJECT, Result.FORBIDDEN, Result.FOREIGN_PROJECT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A project that was seen once and is missing now: from how many lists in a row, and since when."""

    project_id: str
    project_name: str
    looks: int
    since: datetime


def too_many(missing: int, known: int) -> bool:
    """Whether so many of all `known` projects are missing that the list is not to be believed."""
    return missing > max(FEW, SHARE * known)


def to_ask(
    absences: Sequence[Absence], known: int, now: datetime, *, lasting: timedelta = MISSING_FOR
) -> Sequence[Absence]:
    """Those that are asked for by themselves now, the longest missing first; none if too many are missing."""
    if too_many(len(absences), known):
        return ()
    ripe = [each for each in absences if each.looks >= MISSING_LISTS and now - each.since >= lasting]
    return sorted(ripe, key=lambda each: (each.since, each.project_id))[:ASKED]


def is_gone(seen: Observation) -> bool:
    """Whether the answer about one project is Infisical's own word that there is none."""
    return seen.result is Result.PROJECT_MISSING and seen.proof is Proof.REFUSED


def is_there(seen: Observation) -> bool:
    """Whether the answer about one project shows that there is one, be the identity in it or not."""
    return seen.result in _THERE
