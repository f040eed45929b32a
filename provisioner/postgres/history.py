"""What happened recently, as recorded by the workers."""

from datetime import timedelta
from typing import Final

from provisioner.core.history import HOURS, MINUTES, History, Slot, without_gaps
from provisioner.postgres.pool import Database
from provisioner.postgres.queries import statements

_SQL: Final = "reports"
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)


async def read_history(database: Database) -> History:
    """Return the last hours and days of all targets. Raises `DatabaseUnavailable` and `DatabaseUnusable`."""
    sql = statements(_SQL)
    found: dict[int, list[Slot]] = {60: [], 3600: []}
    async with (
        database.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await database.set_up(connection)
        now = await connection.fetchval(sql["now"])
        for row in await connection.fetch(sql["history"], MINUTE * MINUTES, HOUR * HOURS):
            values = dict(row)
            found[values.pop("span")].append(Slot(**values))
    return History(
        minutes=without_gaps(found[60], now=now, span=MINUTE, number=MINUTES),
        hours=without_gaps(found[3600], now=now, span=HOUR, number=HOURS),
    )
