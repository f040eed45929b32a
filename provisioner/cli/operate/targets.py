"""`provisioner pause`, `resume` and `limit`: stop, continue or slow down a target while workers run."""

from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from pydantic_core import PydanticCustomError

from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database
from provisioner.cli.terminal.output import local_time, print_json, say, tell_error
from provisioner.postgres import operations
from provisioner.postgres.operations import Limit, PauseState
from provisioner.settings.values import MOST_IN_FLIGHT, RateLimit, parse_limit

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

RULE: Final = "must be a number per time, such as 60/min, 5/s or 20/10s"

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET]", help="Name of the target. Optional if only one is configured.", show_default=False
    ),
]


async def pause(target: Target = None, config: Config = None, as_json: Json = False) -> int:
    """Pause a target: workers finish what is in flight there and start nothing more.

    You can still insert requests; they wait. Pausing a paused target changes nothing.

    Example: provisioner pause default
    """
    return await _hold(load(config), target, "pause", as_json=as_json)


async def resume(target: Target = None, config: Config = None, as_json: Json = False) -> int:
    """Resume a paused target.

    Resuming a target that is not paused changes nothing.

    Example: provisioner resume default
    """
    return await _hold(load(config), target, "resume", as_json=as_json)


async def limit(  # noqa: PLR0917  # Typer passes names
    target: Target = None,
    writes: Annotated[
        str | None, typer.Option(metavar="RATE", help="Maximum rate of writes, such as 60/min.", show_default=False)
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_IN_FLIGHT, help="Maximum number of creates in flight, over all workers.", show_default=False
        ),
    ] = None,
    as_configured: Annotated[
        bool, typer.Option("--as-configured", help="Lift the limit: the settings apply again.")
    ] = False,
    config: Config = None,
    as_json: Json = False,
) -> int:
    """Limit a target while workers run; all of them obey within about a second.

    The limit replaces `write_limit` and `max_in_flight` until you lift it with --as-configured, also across restarts.
    An option that you leave out stays as it is. The limit never exceeds what Infisical's answers allow. `provisioner
    status` shows it.

    Example: provisioner limit default --writes 60/min --in-flight 16
    """
    if as_configured and (writes is not None or in_flight is not None):
        raise typer.BadParameter("--as-configured cannot be combined with --writes or --in-flight")
    if not as_configured and writes is None and in_flight is None:
        raise typer.BadParameter("give --writes, --in-flight, or --as-configured")
    rate = _rate(writes) if writes is not None else None
    settings = load(config)
    name = target or _only_target(settings.targets)
    permits, period = (rate.permits, rate.window) if rate else (None, 60.0)
    async with open_database(settings) as database:
        if not await _is_known(database, settings, name):
            return NOT_DONE
        done = await operations.set_limit(database, name, writes=permits, period=period, in_flight=in_flight)
    if as_json:
        print_json({"target": name, **asdict(done)})
    else:
        say(_limited(name, done))
    return DONE


async def _hold(
    settings: "Settings", given: str | None, operation: Literal["pause", "resume"], *, as_json: bool
) -> int:
    """Pause or resume a target and return the exit status."""
    target = given or _only_target(settings.targets)
    async with open_database(settings) as database:
        if not await _is_known(database, settings, target):
            return NOT_DONE
        done = await (operations.pause if operation == "pause" else operations.resume)(database, target)
    if as_json:
        print_json({"target": target, "paused": operation == "pause", **asdict(done)})
    else:
        say(_held(target, operation, done))
    return DONE


def _held(target: str, operation: str, done: PauseState) -> str:
    since = f"since {local_time(done.paused_at)} by {done.paused_by}" if done.paused_at else ""
    if operation == "pause":
        if done.changed:
            return f"target {target} is paused: nothing more is started, and what is in flight may finish"
        return f"target {target} was already paused {since}"
    if done.changed:
        return f"target {target} is resumed; it was paused {since}"
    return f"target {target} was not paused"


def _rate(given: str) -> RateLimit:
    try:
        rate = parse_limit(given)
    except PydanticCustomError:
        raise typer.BadParameter(RULE, param_hint="--writes") from None
    if not isinstance(rate, RateLimit):
        raise typer.BadParameter(f"{RULE}; --as-configured lifts the limit", param_hint="--writes")
    return rate


def _limited(target: str, done: Limit) -> str:
    parts = []
    if done.writes and done.period:
        parts.append(f"{RateLimit(done.writes, done.period)} writes")
    if done.in_flight:
        parts.append(f"{done.in_flight:,} creates in flight")
    if not parts:
        return f"target {target} is limited as configured"
    return f"target {target} is limited to {' and '.join(parts)}; `provisioner limit {target} --as-configured` lifts it"


async def _is_known(database: "Database", settings: "Settings", target: str) -> bool:
    """Whether the settings or the database know this target; if not, say so."""
    known = (await operations.known_targets(database)).union(settings.targets)
    if target not in known:
        tell_error(f"there is no target {target!r}; known targets: {', '.join(sorted(known))}")
    return target in known


def _only_target(targets: Collection[str]) -> str:
    """Return the target if there is only one; several are a usage error."""
    if len(targets) != 1:
        raise typer.BadParameter(f"name one of the targets: {', '.join(sorted(targets))}")
    (target,) = targets
    return target
