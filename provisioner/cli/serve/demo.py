"""`provisioner demo`: the main job on this machine alone, and the proof that it was done."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape

from provisioner.cli.terminal.output import program
from provisioner.core.text import several
from provisioner.postgres.queries import statements

if TYPE_CHECKING:
    from rich.console import Console

    from provisioner.postgres.pool import Database
    from provisioner.sandbox.audit import Audit
    from provisioner.sandbox.postgres import PostgresServer
    from provisioner.sandbox.simulator import Simulator

# Shares of the creates that go wrong: a bad day, so that there is something to see.
FAULTS: Final = {
    "cut-before-commit": 0.03,
    "cut-after-commit": 0.03,
    "late-commit": 0.02,
    "error-before-commit": 0.02,
    "error-after-commit": 0.02,
    "html-502": 0.03,
    "openrouter-429": 0.01,
    "token-expired": 0.005,
}
# The same for creates of rotations; some of them leave a key behind.
ROTATION_FAULTS: Final = {
    "cut-before-commit": 0.02,
    "cut-after-commit": 0.03,
    "error-after-commit": 0.02,
    "key-then-error": 0.02,
    "html-502": 0.02,
}
WINDOW: Final = 10.0  # seconds; Infisical Cloud's is 60, but a demo has little time
WRITES: Final = 250  # creates per window
ONBOARD: Final = (
    *("onboard", "--from-infisical", "--yes", "--batch", "demo"),
    *("--with-rotation", "--rotation", "spend_limit=10"),
)
THEIRS: Final = 3  # connections of somebody else with the same names
TIME_LIMIT: Final = 3600.0  # seconds; after that something is broken

Requests = Annotated[int, typer.Option(min=1, max=100_000, help="Number of requests.")]
Workers = Annotated[int, typer.Option(min=1, max=16, help="Number of workers.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same projects and faults.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep everything running afterwards, until Ctrl-C.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The options of the demo."""

    requests: int
    workers: int
    seed: int
    keep: bool


def demo(requests: Requests = 300, workers: Workers = 2, seed: Seed = 1, keep: Keep = False) -> None:
    """Run the whole product on this machine: PostgreSQL, a simulated Infisical, and `onboard` from start to report.

    The demo onboards some hundred projects while the simulated Infisical limits the rate and loses answers, and kills
    one of the workers. Then it compares the result with Infisical's own list. It cleans up after itself.

    Example: provisioner demo --requests 1000 --workers 4
    """
    from provisioner.cli.terminal.frame import run_async

    raise typer.Exit(run_async(_demo(Plan(requests=requests, workers=workers, seed=seed, keep=keep))))


async def _demo(plan: Plan) -> int:
    from rich.console import Console

    from provisioner.postgres.migrations import migrate
    from provisioner.postgres.pool import Database
    from provisioner.sandbox.simulator import Simulator
    from provisioner.sandbox.simulator.options import Options

    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    options = Options(
        projects=plan.requests,
        seed=plan.seed,
        write_limit=WRITES,
        window=WINDOW,
        latency=0.05,
        pool=0,  # with ten database connections it would stall for a minute wherever the machine is busy
        faults=FAULTS,
        rotation_faults=ROTATION_FAULTS,
    )
    with private_postgres() as server:
        _say(console, "PostgreSQL", f"{server.version.split()[0]}, private, on port {server.port}")
        async with Simulator(options) as simulator:
            _say(console, "Infisical", f"simulated at {simulator.url}: {WRITES} creates per {WINDOW:g} s, with faults")
            await migrate(server.url())  # before the helping workers, which would exit without it
            database = Database(server.url())
            try:
                _take_names(plan, simulator)
                await _work(plan, console, database, _environment(server, simulator), server.directory)
                audit = await _compare(database, simulator)
                left_behind = await _left_behind(database)
                _report(console, audit, simulator.state(), left_behind, time.monotonic() - began)
                if plan.keep:
                    await _linger(console, server, simulator)
                else:
                    _say(console, "next", f"{program()} demo --keep")
                    _say(console, "", "the same, and everything stays up, so that you can look around")
                    _say(console, "then", f"{program()} onboard --help")
                    _say(console, "", "your own projects: the README says what it needs")
            finally:
                await database.close()
    return 1 if audit.problems else 0


def _take_names(plan: Plan, simulator: "Simulator") -> None:
    """Let somebody else take the name in a few of the projects."""
    taken = simulator.projects[:: max(1, plan.requests // THEIRS)][:THEIRS] if plan.requests > THEIRS else []
    simulator.configure(plant=[{"projectId": project, "name": "openrouter"} for project in taken])


async def _work(plan: Plan, console: "Console", database: "Database", environment: dict[str, str], logs: Path) -> None:
    """Onboard, with other workers that help; the last of them is killed in the middle and replaced."""
    _say(console, "command", " ".join(("provisioner", *ONBOARD)))
    console.print()
    async with asyncio.timeout(TIME_LIMIT), AsyncExitStack() as stack:
        helpers = [
            await stack.enter_async_context(worker_process(environment, logs, number))
            for number in range(2, plan.workers + 1)
        ]
        onboarding = await stack.enter_async_context(_onboarding(environment, logs))
        killed = False
        while onboarding.returncode is None:
            if helpers and not killed and await _ended(database) >= plan.requests // 3:
                helpers[-1].kill()
                killed = True
                await stack.enter_async_context(worker_process(environment, logs, plan.workers + 1))
            with suppress(TimeoutError):
                await asyncio.wait_for(onboarding.wait(), 0.2)
        if onboarding.returncode == 1 or any(each.returncode is not None for each in helpers[:-1]):
            raise typer.Exit(_complain(console, logs))
    console.print()
    if killed:
        _say(console, "kill -9", "one of the workers was killed on the way, and another one took its place")


async def _ended(database: "Database") -> int:
    row = await database.fetchrow(statements("demo")["progress"])
    return row["ended"] if row else 0


async def _compare(database: "Database", simulator: "Simulator") -> "Audit":
    from provisioner.sandbox.audit import audit, audit_rotations

    state = simulator.state()
    found = audit([dict(row) for row in await database.fetch(statements("demo")["rows"])], state)
    rotations = [dict(row) for row in await database.fetch(statements("demo")["rotations"])]
    return replace(found, problems=[*found.problems, *audit_rotations(rotations, state)])


async def _left_behind(database: "Database") -> int:
    rows = await database.fetch(statements("demo")["rotations"])
    return sum(row["left_behind"] is not None for row in rows)


def _report(console: "Console", audit: "Audit", state: dict[str, Any], left_behind: int, took: float) -> None:
    faults = ", ".join(f"{count} {name}" for name, count in sorted(state["faults"].items()))
    refused = state["requests"].get("POST /api/v1/app-connections/open-router", {}).get("429", 0)
    states = sorted(audit.states.items(), reverse=True)  # successes before failures
    console.print()
    _say(console, "requests", f"{audit.requests}: " + ", ".join(f"{n} {state}" for state, n in states))
    _say(console, "creates", f"{audit.creates} sent, {refused} of them over the rate limit")
    _say(console, "went wrong", faults or "nothing")
    _say(console, "lost answers", f"{several(audit.answers_lost, 'connection')} made without an answer")
    _say(console, "found again", f"{several(audit.found_again, 'connection')}, by looking up what may have been made")
    _say(console, "conflicts", f"{audit.states.get('failed', 0)} names belonged to somebody else, and were left alone")
    _say(console, "Infisical has", f"{several(audit.made, 'connection')} of ours")
    spare = sum(key["rotationId"] is None for key in state["keys"])
    _say(
        console,
        "keys",
        f"{len(state['keys']) - spare} at OpenRouter, one for each of {len(state['rotations'])} rotations",
    )
    named = several(left_behind, "rotation says", "rotations say")
    _say(console, "", f"{spare} left behind by lost answers; {named} by name which to delete")
    for problem in audit.problems[:20]:
        console.print(f"[red]{'wrong':>13}[/red]  {problem}")
    if not audit.problems:
        verdict = "every request is accounted for: each made once, ids and hashes as on the server"
        console.print(f"[green]{'proven':>13}[/green]  {verdict}, in {took:.0f} s")


async def _linger(console: "Console", server: "PostgresServer", simulator: "Simulator") -> None:
    """Keep everything running until Ctrl-C."""
    _say(console, "look further", f"export PROVISIONER_DATABASE_URL={server.url()}")
    _say(console, "", f"{program()} database psql -c 'TABLE provisioner.batch_progress'")
    _say(console, "", f"{program()} status")
    _say(console, "", f"{program()} list --state failed")
    _say(console, "", f"curl {simulator.url}/_simulator/state")
    _say(console, "", "Ctrl-C stops everything")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


@contextmanager
def private_postgres() -> "Iterator[PostgresServer]":
    """Start a temporary PostgreSQL. Ends the command with a clear line if that is impossible."""
    from provisioner.sandbox.postgres import PostgresServer, SandboxUnavailable

    server = PostgresServer()
    try:
        server.start()
    except SandboxUnavailable as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def _onboarding(environment: dict[str, str], logs: Path) -> AsyncIterator[Process]:
    """Run the demo's command, on the terminal of the person who watches."""
    sys.stdout.flush()
    command = (sys.executable, *_called(), *ONBOARD)
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=logs, stdin=DEVNULL)
    async with _ending(process):
        yield process


def _called() -> tuple[str, ...]:
    """Return how this program was called, so that printed commands can be copied."""
    given = Path(sys.argv[0])
    return (str(given.resolve()),) if given.name == "provisioner" and given.is_file() else ("-m", "provisioner")


@asynccontextmanager
async def worker_process(environment: dict[str, str], logs: Path, number: int) -> AsyncIterator[Process]:
    """Start a worker, and at the end of the block stop it and wait for it."""
    with (logs / f"worker-{number}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "provisioner", "run", "--listen", "off"),
            env=environment,
            cwd=logs,  # there is no settings file here
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    async with _ending(process):
        yield process


@asynccontextmanager
async def _ending(process: Process) -> AsyncIterator[None]:
    """End a process with the block."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed, or has ended
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _environment(server: "PostgresServer", simulator: "Simulator") -> dict[str, str]:
    ours = ("PROVISIONER_", "INFISICAL_", "OPENROUTER_", "DATABASE_URL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return inherited | {
        "PROVISIONER_DATABASE_URL": server.url(),
        "INFISICAL_HOST": simulator.url,
        "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": simulator.client_id,
        "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": simulator.client_secret,
        "OPENROUTER_PROVISIONING_KEY": "sk-or-v1-this-is-the-demo",
        "PROVISIONER_WORKER__LEASE": "5",
    }


def _complain(console: "Console", logs: Path) -> int:
    for log in sorted(logs.glob("worker-*.log")):
        console.print(log.read_text(errors="replace")[-2000:], markup=False)
    _say(console, "error", "a worker ended early; its log is above")
    return 1


def _say(console: "Console", label: str, text: str) -> None:
    console.print(f"[bold]{label:>13}[/bold]  {escape(text)}")
