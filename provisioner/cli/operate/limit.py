"""`provisioner limit`: limit a target while workers run."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic_core import PydanticCustomError

from provisioner.cli.operate.targets import Target, is_known, only_target
from provisioner.cli.terminal.frame import DONE, NOT_DONE, Config, Json, load, open_database, print_json, run_async, say
from provisioner.postgres import operations
from provisioner.settings.values import MOST_IN_FLIGHT, RateLimit, parse_limit

if TYPE_CHECKING:
    from provisioner.postgres.operations import Limit
    from provisioner.settings import Settings

RULE: Final = "must be a number per time, such as 60/min, 5/s or 20/10s"


def limit(  # noqa: PLR0917  # Typer passes names
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
) -> None:
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
    raise typer.Exit(run_async(_limit(load(config), target, rate, in_flight, as_json=as_json)))


def _rate(given: str) -> RateLimit:
    try:
        rate = parse_limit(given)
    except PydanticCustomError:
        raise typer.BadParameter(RULE, param_hint="--writes") from None
    if not isinstance(rate, RateLimit):
        raise typer.BadParameter(f"{RULE}; --as-configured lifts the limit", param_hint="--writes")
    return rate


async def _limit(
    settings: "Settings", given: str | None, rate: RateLimit | None, in_flight: int | None, *, as_json: bool
) -> int:
    target = given or only_target(settings.targets)
    writes, period = (rate.permits, rate.window) if rate else (None, 60.0)
    async with open_database(settings) as database:
        if not await is_known(database, settings, target):
            return NOT_DONE
        done = await operations.set_limit(database, target, writes=writes, period=period, in_flight=in_flight)
    if as_json:
        print_json({"target": target, **asdict(done)})
    else:
        say(_said(target, done))
    return DONE


def _said(target: str, done: "Limit") -> str:
    parts = []
    if done.writes and done.period:
        parts.append(f"{RateLimit(done.writes, done.period)} writes")
    if done.in_flight:
        parts.append(f"{done.in_flight:,} creates in flight")
    if not parts:
        return f"target {target} is limited as configured"
    return f"target {target} is limited to {' and '.join(parts)}; `provisioner limit {target} --as-configured` lifts it"
