"""Outcomes that the database refuses to record: distinguish them from outages, and set them aside with all data.

If a trigger, an index or a constraint of the user's refuses one row, that says nothing about the database. It can be
recognised by the session: it is still alive, and the server has answered.
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

NOBODY: Final = 0  # the worker number of outcomes that are set aside
# Classes of SQLSTATE that are usually temporary: rollback, resources, intervention, system. A trigger may raise them
# too, so after several repetitions the worker sets the outcome aside.
_PASSING: Final = ("08", "40", "53", "57", "58", "XX", "25", "55")
_SLOW: Final = "57014"
_NO_TEXT: Final = ("22021", "22P05")  # characters that no text can contain, such as NUL
FIRST_PAUSE: Final = timedelta(seconds=1)
_LOCK_TIME: Final = "SET LOCAL lock_timeout = '2s'"  # it is retried later, and blocks nothing


@contextmanager
def refusals_translated(connection: "Session") -> Iterator[None]:
    """Turn the server's refusal of an outcome into `OutcomeRefused` or `OutcomeDelayed`; outages stay as they are."""
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
        if error.severity is None or code in _NO_TEXT:  # without a severity it comes from the driver, not the server
            raise OutcomeUnstorable(said) from error
        if code[:2] in _PASSING:
            raise OutcomeDelayed(said, slow=code == _SLOW) from error
        raise OutcomeRefused(said) from error
    except (asyncpg.InterfaceError, ValueError, OverflowError) as error:
        if not isinstance(error, ValueError | OverflowError) or connection.is_closed():
            raise
        raise OutcomeUnstorable(f"a value cannot be stored ({type(error).__name__})") from error


def reason_of(error: asyncpg.PostgresError) -> str:
    """Return the server's message without its details, which may contain a whole row."""
    said = str(error.args[0]) if error.args else type(error).__name__
    return f"{said[:ERROR_MESSAGE_LENGTH]} ({error.sqlstate})"


def dump_calls(calls: Sequence[Call]) -> str:
    """Serialise calls for the table: JSON that marks points in time."""
    return json.dumps(calls, default=lambda value: {"at": value.isoformat()})


def load_calls(kept: str) -> list[Call]:
    """Restore calls from the table."""
    return [(kind, name, columns) for kind, name, columns in json.loads(kept, object_hook=_context)]


def _context(value: dict[str, Any]) -> object:
    return datetime.fromisoformat(value["at"]) if set(value) == {"at"} else value


async def set_aside(connection: "Session", worker: "WorkerId", settlement: Settlement, reason: str) -> bool:
    """Store an outcome that could not be recorded, owned by no worker; whether the claim was still this worker's."""
    claim, outcome = settlement.claim, settlement.outcome
    made = outcome.connection.id if isinstance(outcome, Succeed) else None
    kept = dump_calls(list(calls_for([settlement])))
    with refusals_translated(connection):
        async with connection.transaction():
            await connection.execute(_LOCK_TIME)
            sql = statements("settle")["set_aside"]
            arguments = (worker, claim.request.id, claim.fence, made, reason, kept, FIRST_PAUSE)
            return await connection.fetchval(sql, *arguments) is not None


async def record_set_aside(connection: "Session", request: int, fence: int, kept: str) -> str | None:
    """Try to record an outcome that was set aside; returns the reason of a failure."""
    sql = statements("settle")
    try:
        with refusals_translated(connection):
            async with connection.transaction():
                await carry_out(connection, NOBODY, load_calls(kept))
                await connection.execute(sql["record_aside"], request, fence)
                return None
    except (OutcomeRefused, OutcomeDelayed) as error:
        reason = str(error)
    with refusals_translated(connection):
        await connection.execute(sql["explain_aside"], request, fence, reason)
    return reason
