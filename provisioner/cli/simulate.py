"""`provisioner simulate`: the simulated Infisical on a port of this machine."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from provisioner.sandbox.simulator.faults import FAULTS, parse_faults

if TYPE_CHECKING:
    from provisioner.sandbox.simulator.options import Mode, Options

__all__ = ["simulate"]

FAULTS_HELP = "NAME=SHARE,… of the creates that meet a fault; the same ones for the same seed. " + " ".join(
    f"{name}: {effect}." for name, effect in FAULTS.items()
)


def _mode(value: str) -> str:
    if value not in {"cloud", "self-hosted"}:
        raise typer.BadParameter(f"{value!r} is neither 'cloud' nor 'self-hosted'")
    return value


def _faults(value: str) -> str:
    try:
        parse_faults(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return value


def _project_count(projects: int | None, *, any_project: bool) -> int:
    if any_project and projects is not None:
        raise typer.BadParameter("cannot be combined with --projects", param_hint="--any-project")
    return 10 if projects is None else projects


Port = Annotated[int, typer.Option(min=0, max=65535, help="The port on 127.0.0.1; 0 takes a free one.")]
Mode_ = Annotated[str, typer.Option(callback=_mode, help="cloud, or self-hosted: without any rate limit.")]
WriteLimit = Annotated[int, typer.Option(min=1, help="Writes a window, for each route and address.")]
ReadLimit = Annotated[int, typer.Option(min=1, help="Reads a window, for each route and address.")]
Window = Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="How long a window of the limits is.")]
Latency = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="What every request waits.")]
Pool = Annotated[
    int,
    typer.Option(
        min=0,
        help="The server's database connections: with 10, twelve creates at once stop it for a minute, as they stop a "
        "real one. 0 is no end of them.",
    ),
]
Projects = Annotated[int | None, typer.Option(min=0, help="How many projects there are; 10 if not said.")]
AnyProject = Annotated[bool, typer.Option("--any-project", help="Take every UUID for a project.")]
ClientId = Annotated[str | None, typer.Option(help="The machine identity's id; else from the seed.")]
ClientSecret = Annotated[str | None, typer.Option(help="Its made-up secret; else from the seed.")]
TokenTtl = Annotated[int, typer.Option(min=0, metavar="SECONDS", help="The life of an access token; 0 is for ever.")]
Faults = Annotated[str, typer.Option(callback=_faults, metavar="NAME=SHARE,…", help=FAULTS_HELP)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same ids, secrets and faults.")]


def simulate(  # noqa: PLR0917 - the command line names them
    port: Port = 0,
    mode: Mode_ = "cloud",
    write_limit: WriteLimit = 200,
    read_limit: ReadLimit = 350,
    window: Window = 60.0,
    latency: Latency = 0.0,
    pool: Pool = 10,
    projects: Projects = None,
    any_project: AnyProject = False,
    client_id: ClientId = None,
    client_secret: ClientSecret = None,
    token_ttl: TokenTtl = 2_592_000,
    faults: Faults = "",
    seed: Seed = 0,
) -> None:
    """Serve a simulated Infisical on 127.0.0.1 until interrupted; print one line of JSON when it listens.

    GET /_simulator/state tells what happened; POST /_simulator/settings changes what happens next.

    Example: provisioner simulate --port 8080 --write-limit 90 --faults cut-after-commit=0.02,html-502=0.01
    """
    from provisioner.sandbox.simulator.options import Options

    options = Options(
        port=port,
        mode=cast("Mode", mode),
        write_limit=write_limit,
        read_limit=read_limit,
        window=window,
        latency=latency,
        pool=pool,
        projects=_project_count(projects, any_project=any_project),
        any_project=any_project,
        client_id=client_id,
        client_secret=client_secret,
        token_ttl=token_ttl,
        faults=parse_faults(faults),
        seed=seed,
    )
    raise typer.Exit(_run(options))


def _run(options: "Options") -> int:
    from provisioner.cli._frame import run_async

    return run_async(_serve(options))


async def _serve(options: "Options") -> int:
    import asyncio
    import json
    import signal

    from provisioner.sandbox.simulator.app import PortTaken, Simulator
    from provisioner.sandbox.simulator.settings import SettingsError

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Simulator(options) as simulator:
            typer.echo(json.dumps(simulator.announcement()))
            await stop.wait()
    except PortTaken as error:
        typer.echo(f"provisioner simulate: {error.strerror}; choose another with --port", err=True)
        return 1
    except SettingsError as error:
        typer.echo(f"provisioner simulate: {error}", err=True)
        return 2
    return 0
