"""Outcomes that the database does not record: told apart from its absences, and set aside with all that is known.

What a trigger, an index or a constraint of the user's says to one row says nothing about the database. The sign is the
session: it lives, and the server has answered.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from provisioner.core.errors import OutcomeDelayed, OutcomeRefused, OutcomeUnstorable
from provisioner.core.model import ERROR_MESSAGE_LENGTH, Settlement, Succeed
from provisioner.postgres.queries import statements
from provisioner.postgres.settling import Call, calls_for, carry_out

if TYPE_CHECKING:
    from provisioner.core.queue_values import WorkerId

    Session = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]

NOBODY: Final = 0  # the worker in whose name outcomes are set aside
# Classes of SQLSTATE that may pass by themselves: a rollback, no resources, intervention, the system. A trigger may say
# them, too; so a worker that hears them often enough sets the outcome aside.
_PASSING: Final = ("08", "40", "53", "57", "58", "XX", "25", "55")
_SLOW: Final = "57014"
_NO_TEXT: Final = ("22021", "22P05")  # characters that no text may hold, such as NUL
FIRST_PAUSE: Final = timedelta(seconds=1)
_LOCK_TIME: Final = "SET LOCAL lock_timeout = '2s'"  # it is set aside at once or later, and keeps nobody waiting


@contextmanager
def told_apart(connection: "Session") -> Iterator[None]:
    """Turn what the server says to an outcome into `OutcomeRefused` or `OutcomeDelayed`; absences stay absences."""
    try:
        yield
    except TimeoutError as error:
        if connection.is_closed():
            raise
        raise OutcomeDelayed("the statement did not end in time", slow=True) from error
    except asyncpg.PostgresError as error:
        if connection.is_closed():
            raise
        said, code = reason_of(error), error.sqlstate or ""
        if error.severity is None or code in _NO_TEXT:  # without one, the driver has said it and not the server
            raise OutcomeUnstorable(said) from error
        if code[:2] in _PASSING:
            raise OutcomeDelayed(said, slow=code == _SLOW) from error
        raise OutcomeRefused(said) from error
    except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
        if not isinstance(error, ValueError | OverflowError) or connection.is_closed():
            raise
        raise OutcomeUnstorable(f"a value cannot be stored ({type(error).__name__})") from error


def reason_of(error: asyncpg.PostgresError) -> str:
    """What the server said, without its details: those may show a whole row."""
    said = str(error.args[0]) if error.args else type(error).__name__
    return f"{said[:ERROR_MESSAGE_LENGTH]} ({error.sqlstate})"


def as_kept(calls: Sequence[Call]) -> str:
    """Calls as the table keeps them: JSON, in which a point in time says that it is one."""
    return json.dumps(calls, default=lambda value: {"at": value.isoformat()})


def from_kept(kept: str) -> list[Call]:
    """The calls that were kept."""
    return [(kind, name, columns) for kind, name, columns in json.loads(kept, object_hook=_context)]


def _context(value: dict[str, Any]) -> object:
    return datetime.fromisoformat(value["at"]) if set(value) == {"at"} else value


async def set_aside(connection: "Session", worker: "WorkerId", settlement: Settlement, reason: str) -> bool:
    """Keep an outcome that is not recorded, as nobody's; whether it was still this worker's."""
    claim, outcome = settlement.claim, settlement.outcome
    made = outcome.connection.id if isinstance(outcome, Succeed) else None
    kept = as_kept(list(calls_for([settlement])))
    with told_apart(connection):
        async with connection.transaction():
            await connection.execute(_LOCK_TIME)
            sql = statements("settle")["set_aside"]
            arguments = (worker, claim.request.id, claim.fence, made, reason, kept, FIRST_PAUSE)
            return await connection.fetchval(sql, *arguments) is not None


async def record_set_aside(connection: "Session", request: int, fence: int, kept: str) -> str | None:
    """Try to record an outcome that was set aside; why not, if not."""
    sql = statements("settle")
    try:
        with told_apart(connection):
            async with connection.transaction():
                await carry_out(connection, NOBODY, from_kept(kept))
                await connection.execute(sql["record_aside"], request, fence)
                return None
    except (OutcomeRefused, OutcomeDelayed) as error:
        reason = str(error)
    with told_apart(connection):
        await connection.execute(sql["explain_aside"], request, fence, reason)
    return reason
