"""Points in time between PostgreSQL and Python: a server holds more of them than a `datetime` can.

From 4713 BC to the year 294276, and infinity. One such value in one row must not end a worker or somebody's listing, so
what lies outside is shown as the nearest that every time zone can show.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # the wire counts microseconds from here
_MICROSECOND: Final = timedelta(microseconds=1)
# A day from the ends of the calendar, for a zone may be up to a day away.
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)


def encode(moment: datetime) -> tuple[int]:
    """What goes over the wire for an aware `datetime`."""
    return ((moment - _EPOCH) // _MICROSECOND,)


(_FIRST,) = encode(EARLIEST)
(_LAST,) = encode(LATEST)


def decode(wire: tuple[int]) -> datetime:
    """The moment that came over the wire, or the nearest one that can be shown."""
    # These run several times for each request.
    (moment,) = wire
    return _EPOCH + timedelta(0, 0, moment if _FIRST <= moment <= _LAST else min(max(moment, _FIRST), _LAST))


async def read_moments(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Let a session read whatever point in time a row holds."""
    await connection.set_type_codec("timestamptz", schema="pg_catalog", encoder=encode, decoder=decode, format="tuple")
