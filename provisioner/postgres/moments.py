"""Convert points in time between PostgreSQL and Python: PostgreSQL's range is larger than that of `datetime`.

It extends from 4713 BC to the year 294276, and includes infinity. One such value in a row must not end a worker or
break a listing, so out-of-range values become the nearest time that every time zone can show.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # the wire format counts microseconds from here
_MICROSECOND: Final = timedelta(microseconds=1)
# One day from the ends of the calendar, because a time zone may be up to one day away.
EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 30, tzinfo=UTC)


def encode(moment: datetime) -> tuple[int]:
    """Return the wire format of an aware `datetime`."""
    return ((moment - _EPOCH) // _MICROSECOND,)


(_FIRST,) = encode(EARLIEST)
(_LAST,) = encode(LATEST)


def decode(wire: tuple[int]) -> datetime:
    """Return the point in time from the wire, or the nearest one that can be shown."""
    # These run several times per request.
    (moment,) = wire
    return _EPOCH + timedelta(0, 0, moment if _FIRST <= moment <= _LAST else min(max(moment, _FIRST), _LAST))


async def read_moments(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Make a session accept any point in time that a row contains."""
    await connection.set_type_codec("timestamptz", schema="pg_catalog", encoder=encode, decoder=decode, format="tuple")
