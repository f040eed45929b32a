"""`provisioner show ID`: one request, what was tried, and what happens next."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from provisioner.cli.terminal.filters import Id, tell_unknown
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database
from provisioner.cli.terminal.output import console, print_json, say, show as show_on
from provisioner.core.text import several

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from provisioner.core.requests import Attempt, Detail

SHOWN: Final = 30  # attempts that fit on a screen; --json has all of them


async def show(request: Id, config: Config = None, as_json: Json = False) -> int:
    """Show one request: what happened, what happens next and when, and what to do if it failed.

    Exits 1 if there is no such request.

    Example: provisioner show 4711
    """
    from provisioner.cli.terminal.output import local_time
    from provisioner.core.explain import Formatters, explain
    from provisioner.core.text import duration
    from provisioner.postgres.detail import read_attempts, read_detail

    async with open_database(load(config)) as database:
        detail = await read_detail(database, request)
        attempts, earlier = await read_attempts(database, request, limit=None if as_json else SHOWN)
    if detail is None:
        tell_unknown([request])
        return NOT_DONE
    words = Formatters(local_time, duration)
    if as_json:
        tried = [{**asdict(attempt), "took": attempt.took} for attempt in attempts]
        print_json({**asdict(detail), "what_next": explain(detail, words), "tried": tried})
        return DONE
    screen = console()
    for name, value in _facts(detail):
        say(f"{name:>16}  {value}")
    say("")
    for sentence in explain(detail, words):
        say(sentence)
    if attempts:
        say("")
        if earlier:
            say(f"{several(earlier, 'earlier call is', 'earlier calls are')} not shown; --json has them")
        show_on(_attempt_table(attempts, screen), screen)
    return DONE


def _facts(request: "Detail") -> Iterator[tuple[str, str]]:
    """Yield the known facts, leaving out empty ones."""
    from provisioner.cli.terminal.output import local_time, one_line

    facts: dict[str, object] = {
        request.kind if request.is_rotation else "request": request.id,
        "state": request.state.replace("_", " "),
        "target": request.target,
        "project": request.project_id,
        "project name": one_line(request.project_name),
        "name": request.name,
        "uses connection": request.connection,
        "secret": request.secret,
        "description": one_line(request.description),
        "credential": request.credential,
        "on conflict": request.on_conflict,
        "priority": request.priority or "",
        "batch": one_line(request.batch),
        "requested by": request.requested_by,
        "created": local_time(request.created_at),
        "not before": local_time(request.not_before),
        "finished": local_time(request.finished_at),
        "creates sent": request.attempts,
        "rotation": request.rotation_id,
        "key": one_line(request.key_issued),
        "connection": request.connection_id,
        "organization": request.org_id,
        "credentials hash": request.credentials_hash,
        "error": request.error_code,
        "message": one_line(request.error_message),
        "left behind": one_line(request.left_behind),
    }
    for name, value in facts.items():
        if value not in {None, ""}:
            yield name, str(value)


def _attempt_table(attempts: "Sequence[Attempt]", screen: "Console") -> "Table":
    from rich.text import Text

    from provisioner.cli.terminal.output import local_time, one_line
    from provisioner.cli.terminal.tables import plain_table

    table = plain_table(
        screen,
        *("try", "call", "started", "took", "HTTP", "outcome", "request id"),
        right=("try", "took", "HTTP"),
        whole=("call", "started", "request id"),
    )
    table.columns[5].no_wrap = False
    table.columns[5].overflow = "fold"
    for each in attempts:
        message = one_line(each.error_message)
        what = each.outcome if message in {"", each.outcome} else f"{each.outcome}: {message}"
        code = f" [{each.error_code}]" if each.error_code not in {None, each.outcome} else ""
        status = "" if each.http_status is None else str(each.http_status)
        cells = (
            str(each.attempt),
            each.action.replace("_", " "),
            local_time(each.started_at),
            f"{each.took:.2f} s",
            status,
        )
        table.add_row(*map(Text, cells), Text(f"{what}{code}"), Text(each.req_id or ""))
    return table
