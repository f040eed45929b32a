"""The progress of one command's requests."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from provisioner.core.reports import Leftovers
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "onboarding"
# The present settings may have another key than the one with which these requests failed.
OF_CREDENTIALS: Final = ("credential_refused", "credential_unknown", "credential_unreadable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many requests are in each status; `failed` by error code. `retried` needed more than one attempt."""

    pending: int = 0
    succeeded: int = 0
    cancelled: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    retried: int = 0

    @property
    def failures(self) -> int:
        """The number of failures."""
        return sum(self.failed.values())

    @property
    def ended(self) -> int:
        """The number of requests that have ended, in success or failure."""
        return self.succeeded + self.failures + self.cancelled

    @property
    def requests(self) -> int:
        """The number of requests."""
        return self.pending + self.ended


async def tally(database: Database, ids: Sequence[int], *, own: bool = False) -> Tally:
    """Count them; `own` for a role that cannot see the queues. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    counts: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    retried = 0
    for row in await database.fetch(statements(_SQL, own=own)["progress"], ids):
        retried += row["retried"]
        if row["status"] == "failed":
            failed[row["error_code"]] += row["requests"]
        else:
            counts["succeeded" if row["status"] == "removed" else row["status"]] += row["requests"]
    return Tally(
        pending=counts["pending"],
        succeeded=counts["succeeded"],
        cancelled=counts["cancelled"],
        failed=dict(failed.most_common()),
        retried=retried,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotations:
    """The number of rotations, and how many of them (`leaving`) may have left something behind, with descriptions."""

    rotations: int = 0
    leaving: int = 0
    left_behind: Sequence[str] = ()


async def rotations(database: Database, ids: Sequence[int]) -> Rotations:
    """Return the rotations among these requests. Raises as `tally` does."""
    row = await database.fetchrow(statements(_SQL)["rotations"], ids)
    if row is None:  # a count has one row
        raise AssertionError
    return Rotations(rotations=row["rotations"], leaving=row["leaving"], left_behind=tuple(row["left_behind"] or ()))


async def retry_credentials(database: Database, ids: Sequence[int]) -> int:
    """Retry the requests that failed because of their credential; returns how many. Raises as `tally` does."""
    rows = await database.fetch(statements(_SQL)["retry"], ids, list(OF_CREDENTIALS))
    return int(rows[0][0])


async def standing(database: Database, ids: Sequence[int]) -> Leftovers:
    """Return the outcome of these requests, and what the remaining ones wait for. Raises as `tally` does."""
    found: dict[str, dict[str, int]] = {}
    for kind, whose, requests in await database.fetch(statements(_SQL)["standing"], ids):
        found.setdefault(kind, {})[whose] = requests
    done = await tally(database, ids)
    return Leftovers(
        paused=found.get("paused", {}),
        quarantined=found.get("quarantined", {}),
        outside=found.get("outside", {}),
        unserved=found.get("unserved", {}),
        failed=dict(done.failed),
        succeeded=done.succeeded,
        scheduled=sum(found.get("scheduled", {}).values()),
        unfinished=sum(found.get("unfinished", {}).values()),
    )
