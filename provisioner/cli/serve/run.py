"""`provisioner run`: the daemon, and the result of a drain, in words and as an exit status."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.terminal.frame import DONE, NOT_DONE, PARTLY, Config
from provisioner.core.text import several

if TYPE_CHECKING:
    from provisioner.core.reports import Leftovers

Drain = Annotated[bool, typer.Option("--drain", help="Exit when nothing is left to do.")]
Listen = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of the status port, or off.")]


def run(config: Config = None, drain: Drain = False, listen: Listen = None) -> None:
    """Run a worker: claim requests and create their connections, until told to stop.

    On SIGTERM, SIGINT or SIGHUP the worker claims nothing more, waits up to worker.grace seconds for what is in flight,
    and exits with status 0. A second signal ends it at once; nothing is lost then either.

    With --drain it ends when nothing is left to do, and prints a summary. Exit status: 0 everything is done; 3 some
    requests failed; 1 something could not be done, such as requests of a paused target or with a refused API key.

    Example: provisioner run --drain
    """
    from provisioner.cli.terminal.frame import run_async
    from provisioner.cli.terminal.output import say
    from provisioner.observe.logs import configure_logging
    from provisioner.service import run_daemon
    from provisioner.settings import load_settings

    settings = load_settings(config=config, overrides={"listen": {"address": listen}})
    configure_logging(settings.log.level, settings.log.format)
    left = run_async(run_daemon(settings, drain=drain))
    if left is not None:
        for line in told(left):
            say(line)
        raise typer.Exit(exit_status(left))


def exit_status(left: "Leftovers") -> int:
    """Return 0 if everything is done, 1 if something could not be done, else 3 if requests failed.

    Requests that are scheduled for later are not a failure.
    """
    if left.paused or left.quarantined or left.outside or left.unserved or left.unfinished or left.unrecorded:
        return NOT_DONE
    return PARTLY if left.failed else DONE


def told(left: "Leftovers") -> Iterator[str]:
    """Yield one line for each fact that a person may want to know, the total first."""
    from provisioner.core.alerts import advice_for

    failed = sum(left.failed.values())
    waiting = sum(sum(kind.values()) for kind in (left.paused, left.quarantined, left.outside, left.unserved))
    waiting += left.scheduled + left.unfinished + left.unrecorded
    removed = f"{left.removed:,} removed, " if left.removed else ""
    yield f"{left.succeeded:,} succeeded, {failed:,} failed, {removed}{waiting:,} left"
    for code, count in left.failed.items():
        yield (
            f"{count:,} failed with {code or 'no error code'}: {advice_for(code)};"
            f" then run `provisioner retry --error {code}`"
        )
    for target, count in left.paused.items():
        yield f"{_requests(count)} for target {target}, which is paused; `provisioner resume {target}` resumes it"
    for credential, count in left.quarantined.items():
        yield (
            f"{_requests(count)} for the API key of credential {credential}, which OpenRouter refuses:"
            " correct the key, then run this again"
        )
    for target, count in left.outside.items():
        yield (
            f"{_requests(count)} for projects in which the machine identity of target {target} may not create:"
            " add it to them with a role that may create app connections, then run this again"
        )
    for target, count in left.unserved.items():
        yield f"{_requests(count)} for target {target}, which no worker serves: `provisioner run` starts one"
    if left.unrecorded:
        yield f"{_requests(left.unrecorded)} to be recorded: `provisioner status` says why it is refused"
    if left.scheduled:
        its = "its" if left.scheduled == 1 else "their"
        yield f"{_requests(left.scheduled)} for {its} time: not_before is later"
    if left.unfinished:
        yield f"{_requests(left.unfinished)}: the run was stopped before everything was done; run this again"


def _requests(count: int) -> str:
    return several(count, "request waits", "requests wait")
