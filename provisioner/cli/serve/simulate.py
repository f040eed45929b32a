"""`provisioner simulate`: the simulated Infisical on a port of this machine."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from provisioner.sandbox.simulator.chance import FAULTS, ROTATION_FAULTS, parse_faults

if TYPE_CHECKING:
    from provisioner.sandbox.simulator import Simulator
    from provisioner.sandbox.simulator.options import Mode, Options

__all__ = ["simulate"]

FAULTS_HELP = "Share of the creates that meet each fault, the same ones for the same seed. " + " ".join(
    f"{name}: {effect}." for name, effect in FAULTS.items()
)

ROTATION_HELP = (
    "Share of the creates of secret rotations that meet each fault: those of --faults that are not OpenRouter's, and "
) + " ".join(f"{name}: {effect}." for name, effect in ROTATION_FAULTS.items() if name not in FAULTS)


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


def _rotation_faults(value: str) -> str:
    try:
        parse_faults(value, ROTATION_FAULTS)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return value


def _project_count(projects: int | None, *, any_project: bool) -> int:
    if any_project and projects is not None:
        raise typer.BadParameter("cannot be combined with --projects", param_hint="--any-project")
    return 10 if projects is None else projects


Port = Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 for any free one.")]
Mode_ = Annotated[str, typer.Option(callback=_mode, help="cloud, or self-hosted, which has no rate limit.")]
WriteLimit = Annotated[int, typer.Option(min=1, help="Writes allowed per window, route and address.")]
ReadLimit = Annotated[int, typer.Option(min=1, help="Reads allowed per window, route and address.")]
Window = Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="Length of a rate limit window.")]
Latency = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Delay of every request.")]
Pool = Annotated[
    int,
    typer.Option(
        min=0,
        help="Database connections of the server. With 10, twelve creates at once stall it for a minute, as they stall "
        "a real one. 0 for unlimited.",
    ),
]
Projects = Annotated[int | None, typer.Option(min=0, help="Number of projects. Default: 10.")]
AnyProject = Annotated[bool, typer.Option("--any-project", help="Accept any UUID as a project.")]
ClientId = Annotated[str | None, typer.Option(help="Client id of the machine identity. Default: from the seed.")]
ClientSecret = Annotated[str | None, typer.Option(help="Its client secret. Default: from the seed.")]
TokenTtl = Annotated[int, typer.Option(min=0, metavar="SECONDS", help="Lifetime of an access token; 0 for unlimited.")]
Faults = Annotated[str, typer.Option(callback=_faults, metavar="NAME=SHARE,…", help=FAULTS_HELP)]
RotationFaults = Annotated[str, typer.Option(callback=_rotation_faults, metavar="NAME=SHARE,…", help=ROTATION_HELP)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same ids, secrets and faults.")]
Env = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the variables that other commands need to log in, for a shell to read: `. FILE`.",
        show_default=False,
    ),
]


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
    rotation_faults: RotationFaults = "",
    seed: Seed = 0,
    env: Env = None,
) -> None:
    """Serve a simulated Infisical on 127.0.0.1 until interrupted. Prints one line of JSON when it listens.

    With --env FILE it also writes a file that sets the variables for other commands. GET /_simulator/state shows what
    happened; POST /_simulator/settings changes what happens next.

    Example: provisioner simulate --env infisical.env --write-limit 90 --faults cut-after-commit=0.02,html-502=0.01
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
        rotation_faults=parse_faults(rotation_faults, ROTATION_FAULTS),
        seed=seed,
    )
    raise typer.Exit(_run(options, env))


class _EnvUnwritable(Exception):
    """The file with the variables cannot be written."""


def _run(options: "Options", env: Path | None) -> int:
    from provisioner.cli.terminal.frame import run_async

    return run_async(_serve(options, env))


async def _serve(options: "Options", env: Path | None) -> int:
    import asyncio
    import signal

    from provisioner.sandbox.simulator.app import PortTaken, Simulator
    from provisioner.sandbox.simulator.options import SettingsError

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Simulator(options) as simulator:
            _announce(simulator, env)
            await stop.wait()
    except PortTaken as error:
        typer.echo(f"provisioner simulate: {error.strerror}; choose another with --port", err=True)
        return 1
    except SettingsError as error:
        typer.echo(f"provisioner simulate: {error}", err=True)
        return 2
    except _EnvUnwritable as error:
        typer.echo(f"provisioner simulate: {env} cannot be written: {error}", err=True)
        return 1
    return 0


def _announce(simulator: "Simulator", env: Path | None) -> None:
    """Say where it listens and how to log in: to a program on standard output, and to a shell in a file."""
    import json

    variables = {
        "INFISICAL_HOST": simulator.url,
        "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": simulator.client_id,
        "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": simulator.client_secret,
        "OPENROUTER_PROVISIONING_KEY": "sk-or-v1-simulated",
    }
    if env is not None:
        exports = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        try:
            env.write_text("".join(exports), encoding="utf-8")
        except OSError as error:
            raise _EnvUnwritable(error.strerror) from error
    typer.echo(json.dumps(simulator.announcement()))
