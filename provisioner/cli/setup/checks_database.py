"""The checks of `doctor` that only need the database."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Final

from provisioner.cli.setup.checks import Check, ok, problem, warning
from provisioner.cli.terminal.output import local_time
from provisioner.core.alerts import ADVICE, PLAN
from provisioner.core.errors import DatabaseUnavailable, ProvisionerError, SchemaMismatch
from provisioner.core.text import duration, several
from provisioner.postgres.access import Kind, lacking
from provisioner.postgres.condition import Server, defaults, holders, publications, read_server
from provisioner.postgres.migrations import require_schema
from provisioner.postgres.reports import read_outlook
from provisioner.postgres.rows import read_rows, unasked, unrecorded

if TYPE_CHECKING:
    from provisioner.core.reports import TargetReport
    from provisioner.postgres.pool import Database

OLDEST: Final = 14
NEWEST: Final = 18
OLD: Final = 300.0  # seconds; a longer transaction makes dead rows pile up under load
SOME: Final = 3  # ids that serve as examples
CLOCK: Final = 2.0  # seconds by which the two clocks may differ


async def check_database(database: "Database", *, wall: Callable[[], float] = time.time) -> AsyncIterator[Check]:
    """Check everything about the database; checks that an earlier problem prevents are left out.

    `wall` is this host's clock, in seconds since 1970.
    """
    before = wall()
    try:
        server = await read_server(database)
    except DatabaseUnavailable as error:
        said = f"it cannot be reached: {error}"
        yield problem("database", said, "check that it is running and that PROVISIONER_DATABASE_URL is right")
        return
    except ProvisionerError as error:
        yield problem("database", str(error))
        return
    after = wall()
    for check in (*_server(server), *_durability(server), *_password(database)):
        yield check
    if server.encoding != "UTF8":
        remedy = "create one with `createdb --encoding UTF8 --template template0`, and move to it"
        yield problem("encoding", f"text is stored as {server.encoding}, which cannot represent every text", remedy)
        return
    yield _clock(server.now.timestamp(), before, after)
    try:
        await require_schema(database)
    except SchemaMismatch as error:
        yield problem("schema", str(error))
        return
    except ProvisionerError as error:
        yield problem("rights", str(error).partition(";")[0], _grants(server))
        return
    yield ok("schema", "it is up to date")
    async for check in _contents(database, server):
        yield check


async def _contents(database: "Database", server: Server) -> AsyncIterator[Check]:
    missing = await lacking(database, Kind.WORKER)
    kinds = [kind for kind in (Kind.READER, Kind.REQUESTER) if not await lacking(database, kind)] if missing else []
    if not missing:
        yield ok("rights", f"role {server.role} has the rights of a worker")
    elif kinds:
        others = "the checks of a worker are left out, as it has a role of its own"
        yield ok("rights", f"role {server.role} has the rights of a {' and a '.join(kinds)}; {others}")
    else:
        yield problem(
            "rights",
            f"role {server.role} has neither the rights of a requester, a reader, nor a worker: for"
            f" a worker it lacks {', '.join(missing)}",
            _grants(server),
        )
    async for check in _surroundings(database, server):
        yield check
    async for check in _clean_up(database, server):
        yield check
    if not missing:
        async for check in _rows(database):
            yield check
        async for check in _rotations(database):
            yield check
        async for check in _work(database):
            yield check


def _grants(server: Server) -> str:
    """Say what to do about a role without rights, advising no more rights than necessary."""
    return (
        f"`provisioner grant --requester {server.role}` lets it insert requests and see its own, `--reader` see"
        " everything, and `--worker` run workers"
    )


def _server(server: Server) -> Iterator[Check]:
    said = f"PostgreSQL {server.version}"
    if server.major < OLDEST:
        yield problem("database", f"{said} is too old", f"upgrade it: {OLDEST} to {NEWEST} are supported")
    elif server.major > NEWEST:
        yield warning("database", f"{said} is newer than this version knows", "look for a newer version of provisioner")
    elif server.standby:
        yield problem("database", f"{said} is a standby", "name the primary in PROVISIONER_DATABASE_URL")
    elif server.read_only:
        remedy = "set default_transaction_read_only to off for this role and database"
        yield problem("database", f"{said} is read-only for {server.role}", remedy)
    else:
        yield ok("database", f"{said}, as {server.role}")
    if server.pooled:
        yield from _pooler(server)


def _pooler(server: Server) -> Iterator[Check]:
    if server.notifies:
        yield ok("pooler", "there is one, and each client has its own session")
        return
    said = "there is one, and it shares sessions: notifications do not arrive, so workers poll"
    if not server.keeps_statements:
        said += "; it does not keep prepared statements, so each one is planned every time"
    remedy = "this works; it is faster with the server's own address, or with max_prepared_statements of PgBouncer 1.21"
    yield warning("pooler", said, remedy)
    if server.jit:
        said = "jit is on, and cannot be switched off through the pooler: compiling may take longer than the statements"
        yield warning("pooler", said, f"ALTER ROLE {server.role} SET jit = off")


def _durability(server: Server) -> Iterator[Check]:
    """Check that commits survive a crash: otherwise connections could be made that no row remembers."""
    for name, on in (("fsync", server.fsync), ("full_page_writes", server.full_page_writes)):
        if not on:
            said = f"{name} is off: after a crash of the server the database may be damaged or have lost requests"
            yield warning("durability", said, f"set {name} = on in postgresql.conf and reload it")
    if server.fsync and server.full_page_writes:
        yield ok("durability", "what is committed survives a crash")


def _password(database: "Database") -> Iterator[Check]:
    if note := database.note():
        yield warning("password", note, "it works without the file; correct the file if it should be used")


async def _surroundings(database: "Database", server: Server) -> AsyncIterator[Check]:
    """Check defaults and publications that others have set."""
    if given := await defaults(database):
        said = f"{', '.join(given)} for our role or database"
        if server.pooled and not server.notifies:
            yield warning(
                "defaults",
                f"{said}: each of our transactions overrides that, which costs two more round trips",
                f"ALTER ROLE {server.role} SET … to PostgreSQL's own default",
            )
        else:
            yield ok("defaults", f"{said}: our sessions override that")
    for each in await publications(database):
        said = f"{each.publication} publishes {each.tables:,} of our tables"
        if each.bare:
            remedy = f"ALTER TABLE provisioner.{each.bare[0]} REPLICA IDENTITY FULL"
            yield problem("publication", f"{said}, and rows of {', '.join(each.bare)} cannot be told apart", remedy)
        else:
            yield ok("publication", f"{said}, each with a primary key")


def _clock(theirs: float, before: float, after: float) -> Check:
    """Compare the database's time with our own clock before and after reading it."""
    ahead = max(theirs - after, before - theirs, 0.0)
    if ahead <= CLOCK:
        return ok("clock", "the database's and this host's clocks agree")
    said = f"the database's differs from this host's by {duration(ahead)}"
    return warning("clock", said, "synchronize both with NTP; leases use the database's clock, logs use this host's")


async def _clean_up(database: "Database", server: Server) -> AsyncIterator[Check]:
    found = await holders(database, older_than=OLD)
    for each in found:
        who = ", ".join(filter(None, (each.role, each.application)))
        since = f" for {duration(each.seconds)}" if each.seconds is not None else ""
        holds = "blocks vacuum" if each.wal is None else f"keeps {_size(each.wal)} of WAL"
        said = f"{each.what}{f' ({who})' if who else ''} {holds}{since}"
        if each.query:
            said += f", last statement: {each.query.strip()} …"
        yield warning("clean-up", said, f"end it, for example with {each.remedy}")
    if found:
        return
    if server.sees_all:
        yield ok("clean-up", "no old transaction blocks vacuum")
    else:
        remedy = f"GRANT pg_read_all_stats TO {server.role} shows them"
        yield warning("clean-up", "other roles' transactions cannot be seen, so one of them may block vacuum", remedy)


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


async def _rows(database: "Database") -> AsyncIterator[Check]:
    """Check that outcomes are recorded, pending requests have a place, and the counts are right."""
    row = await unrecorded(database)
    if row.requests:
        count = several(row.requests, "outcome")
        said = f"{count} cannot be recorded, for example that of request {row.example_id}: {row.example}"
        yield problem("outcomes", said, "remove the cause; the outcomes are kept, and are recorded automatically")
    else:
        yield ok("outcomes", "all are recorded")
    rows = await read_rows(database)
    if rows.misplaced:
        some = ", ".join(map(str, rows.misplaced[:SOME]))
        have = several(len(rows.misplaced), "pending request has", "pending requests have")
        said = f"{have} no place in the queue, for example {some}"
        remedy = "a worker will put them in the queue; `provisioner.recount()` in SQL corrects the counts"
        yield warning("requests", f"{said}: they were written with triggers off", remedy)
    elif rows.whole:
        yield ok("requests", "every pending request has its place in the queue")
    else:
        yield ok("requests", f"every pending request among the newest {rows.looked_at:,} has its place in the queue")
    if rows.miscounted:
        yield warning("counts", f"{rows.miscounted:,} are wrong", "`provisioner.recount()` in SQL corrects them")
    elif rows.miscounted == 0:
        yield ok("counts", "they are correct")


async def _rotations(database: "Database") -> AsyncIterator[Check]:
    """Check that the connection of each pending rotation is requested."""
    waits = await unasked(database)
    if waits.rotations:
        wait = several(waits.rotations, "rotation waits", "rotations wait")
        said = (
            f"{wait} for a connection that nobody has requested, for example {waits.example_id} for {waits.connection}"
        )
        advice = f"request the connection in the same project, or run `provisioner cancel {waits.example_id}`"
        yield warning("rotations", said, advice)
    else:
        yield ok("rotations", "the connection of every pending one is requested")


async def _work(database: "Database") -> AsyncIterator[Check]:
    targets, workers = await read_outlook(database)
    if workers.living:
        yield ok("workers", f"{workers.living:,} alive, {workers.pace:.1f} creates/s recently")
    else:
        yield warning("workers", "none is alive", "`provisioner run` starts one")
    if workers.lost:
        yield warning("workers", f"{workers.lost:,} lost", "other workers take over; find out what ended them")
    for target in targets:
        if target.paused_at is not None:
            by = target.paused_by or "an unknown role"
            said = f"{target.target} was paused at {local_time(target.paused_at)} by {by}"
            yield warning("target", said, f"`provisioner resume {target.target}` resumes it")
        if target.trouble:
            what = ADVICE[PLAN] if target.restricted else "it resumes automatically"
            yield warning("target", f"{target.target} is in trouble{target.partly}: {target.trouble}", what)
        if target.pending and not target.workers:
            wait = several(target.pending, "request waits", "requests wait")
            said = f"{wait} for {target.target}, and no worker serves it"
            yield warning(
                "target", said, f"`provisioner run` starts one, with [targets.{target.target}] in its settings"
            )
        for found in _in_flight(target):
            yield found
        if target.metered and target.permits and target.period:
            yield ok("limit", f"{target.target} allows {several(target.permits, 'create')} in {target.period:g} s")
        if target.limited_at is not None:
            yield ok("limit", f"{target.target} is {target.operator_limit}")


def _in_flight(target: "TargetReport") -> Iterator[Check]:
    if target.cliff is not None and target.cliff_at is not None:
        said = f"{target.target} stalled with {target.cliff:,} creates in flight, last on {local_time(target.cliff_at)}"
        limit = f"the limit is {target.in_flight_limit:,} for now"
        yield warning("in flight", said, f"{limit}; set max_in_flight below {target.cliff:,}")
    elif target.in_flight_limit is not None:
        yield ok("in flight", f"{target.target} gets at most {several(target.in_flight_limit, 'create')} at once")
