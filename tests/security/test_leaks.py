"""Whatever happens, no secret is written anywhere where somebody could read it."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote

import asyncpg
import pytest

from provisioner.core.secret import Secret
from provisioner.credentials.sealing import SealingKey, read_file
from provisioner.sandbox.postgres import PostgresServer
from provisioner.sandbox.simulator import Options, Simulator, identity
from tests.security.scene import NAMES, ROLE, Crew, echoing, planted, told_to, verifier
from tests.security.searching import find
from tests.support import eventually
from tests.support.builders import project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# Everything that a server can be configured to log.
TALKATIVE = {
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_connections": "on",
    "log_error_verbosity": "verbose",
    "log_min_messages": "debug1",
}
EVERY_END = {
    "succeeded",
    "credential_refused",
    "credential_unknown",
    "credential_unreadable",
    "project_not_found",
    "target_unknown",
}
FAULTS = {"cut-after-commit": 0.1, "error-before-commit": 0.1, "html-502": 0.1, "token-expired": 0.1}
WITH_KEYS = (
    "INSERT INTO provisioner.connection_requests (target, project_id, name, credential) VALUES ($1, $2::uuid, $3, $4)"
)


def tokens_of(simulator: Simulator) -> list[str]:
    """The access tokens that are valid now; the signature is their secret part."""
    world = simulator.world
    return [identity.signed(world, token).rpartition(".")[2] for token in world.tokens.values()]


async def fetch(url: str) -> bytes:
    """A page's contents, whatever its status."""

    def get() -> bytes:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
                return bytes(answer.read())
        except HTTPError as error:
            return error.read()

    return await asyncio.to_thread(get)


@asynccontextmanager
async def asking(server: PostgresServer, database: str = "leaks") -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Lend a connection of the server's owner."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(server.url(database))
    try:
        yield connection
    finally:
        await connection.close()


async def codes(server: PostgresServer) -> set[str]:
    """The requests' outcomes, or the result of the last attempt of unfinished ones."""
    async with asking(server) as connection:
        rows = await connection.fetch(
            "SELECT DISTINCT coalesce(error_code, status) AS code FROM provisioner.connection_requests"
            " UNION SELECT DISTINCT outcome FROM provisioner.attempts"
        )
        return {row["code"] for row in rows}


async def prepare(server: PostgresServer, password: str) -> None:
    """Make the database and the role of the workers."""
    async with asking(server, "postgres") as connection:
        await connection.execute("CREATE DATABASE leaks")
        await connection.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{verifier(password)}'")


async def ask_for_everything(server: PostgresServer, simulator: Simulator, secrets: dict[str, str], keys: Path) -> None:
    """Insert requests that succeed, and requests that fail in every way."""
    ((key_id, private),) = read_file(keys).items()
    seal = SealingKey(key_id=key_id, public=bytes(private.public_key)).seal
    first, second, *others = simulator.projects

    def box(secret: str, *, to: str, end: str = "") -> str:
        return seal(Secret(f"sk-or-v1-{secrets[secret]}{end}"), project_id=to, name="boxed")

    rows = [("default", one, "openrouter", "default") for one in others]
    rows += [("default", first, name, name) for name in ("filed", "typed", "refused", "empty", "nosuch")]
    rows += [("static", first, f"echoed-{n}", "echoed") for n in range(5)]
    rows += [(target, second, target, "default") for target in ("wrong", "oidc", "proxied", "refused-jwt", "nowhere")]
    rows += [
        ("default", first, "boxed", box("sealed key", to=first)),
        ("default", second, "boxed", box("refused sealed key", to=second, end="-mode-401")),
        ("default", others[0], "boxed", box("misplaced sealed key", to=first)),
        ("default", others[1], "boxed", f"sealed:{key_id}:{'QUJD' * 40}"),
        ("default", others[2], "boxed", f"sealed:unknown:{'QUJD' * 40}"),
        ("default", project(9), "missing", "default"),
    ]
    async with asking(server) as connection:
        await connection.executemany(WITH_KEYS, rows)


async def offend(server: PostgresServer, secrets: dict[str, str]) -> str:
    """Put readable keys in wrong places; returns the server's messages."""
    said = []
    async with asking(server) as connection:
        typed = f"sk-or-v1-{secrets['key put into SQL']}"
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await connection.execute(WITH_KEYS, "default", project(7), "offence", typed)
        said.append(json.dumps(refused.value.as_dict(), default=str))
        copied = f"sk-or-v1-{secrets['key put into COPY']}"
        with pytest.raises(asyncpg.CheckViolationError) as refused:
            await connection.copy_records_to_table(
                "connection_requests",
                schema_name="provisioner",
                columns=["project_id", "credential"],
                records=[(project(7), copied)],
            )
        said.append(json.dumps(refused.value.as_dict(), default=str))
        await connection.execute("CHECKPOINT")  # contents that are only in memory would not be found
    return "\n".join(said)


async def submit(crew: Crew, simulator: Simulator, secrets: dict[str, str], inputs: Path) -> None:
    """Load files: a good one, and one with keys in the wrong places."""
    good, bad = inputs / "good.csv", inputs / "bad.jsonl"
    good.write_text(f"project_id,name,api_key\n{simulator.projects[3]},submitted,sk-or-v1-{secrets['sealed key']}\n")
    key = f"sk-or-v1-{secrets['key put into the wrong column']}"
    wrong = ("credential", "name", "target", "project_id", "on_conflict", "priority", "not_before", "batch", key)
    lines = [json.dumps({"project_id": simulator.projects[0], column: key}) for column in wrong]
    bad.write_text("\n".join([*lines[:-2], lines[-1], f'{{"project_id": "{key}', f'["{key}"]', key]))
    await crew.command("submit", str(good))
    await crew.command("submit", str(bad))
    await crew.command("plan", str(good))
    (inputs / "header.csv").write_text(f"project_id,{key}\n")
    await crew.command("submit", str(inputs / "header.csv"))


async def look_everywhere(crew: Crew, port: int) -> None:
    """Store the output of every page and every command."""
    for path in ("", "metrics", "status.json", "healthz", "readyz"):
        (crew.outputs / f"page-{path or 'index'}").write_bytes(await fetch(f"http://127.0.0.1:{port}/{path}"))
    async with asyncio.TaskGroup() as group:
        for arguments in (
            ("settings",),
            ("status", "--json"),
            ("list", "--json", "--limit", "200"),
            ("export", "--format", "jsonl"),
            ("keys", "list"),
            ("doctor",),
            *(("show", str(number)) for number in (21, 24, 31)),
        ):
            group.create_task(crew.command(*arguments))


async def spoil(crew: Crew, secrets: dict[str, str]) -> None:
    """Run commands with invalid settings, whose messages must not quote a secret."""
    password = secrets["database password"]
    for wrong in (
        {"PROVISIONER_DATABASE_URL": f"postgresql://{ROLE}:{password}@[::1/leaks"},
        {"PROVISIONER_TARGETS__PROXIED__PROXY": f"ftp://a:{secrets['proxy password']}@b"},
        {"PROVISIONER_TARGETS__STATIC__TOKEN": secrets["static token"] + "\r\nX: y"},
        {"PROVISIONER_CREDENTIALS__TYPED__VAULE": f"sk-or-v1-{secrets['key by toml']}"},
    ):
        await crew.command("run", "--drain", more=wrong)


@pytest.mark.timeout(240)
async def test_no_secret_is_left_anywhere(tmp_path: Path) -> None:
    """A run in which everything goes wrong leaves no secret in any log, page, answer, process list or database file."""
    secrets = planted(Random(4711))  # noqa: S311 - recognisable, not secret
    inputs, outputs = tmp_path / "inputs", tmp_path / "outputs"
    inputs.mkdir()
    outputs.mkdir()
    options = Options(
        projects=20,
        client_secret=secrets["client secret"],
        faults=FAULTS,
        upstream_pace=0.01,
        late_by=0.1,
        seed=3,
    )
    with PostgresServer(settings=TALKATIVE) as server:
        await prepare(server, secrets["database password"])
        async with Simulator(options) as simulator, echoing() as (echo, heard):
            crew = Crew(told_to(simulator, secrets, inputs, port=server.port, echo=echo), outputs)
            try:
                tokens = set(await play(crew, server, simulator, secrets, inputs))
            finally:
                crew.kill()
        assert await codes(server) >= EVERY_END
        server.stop()
        (private,) = (line.split()[1] for line in (inputs / "sealing.keys").read_text().splitlines())
        secrets |= {"sealing key": private, **{f"token {n}": token for n, token in enumerate(sorted(tokens))}}
        places = [outputs, server.directory / "data", server.directory / "server.log"]
        assert all(secrets[name].encode() in b"".join(heard) for name in ("static token", "jwt", "echoed key"))
        log = (server.directory / "server.log").read_text(errors="replace")
        assert "INSERT INTO provisioner.connection_requests" in log  # it was configured to log everything, and did
        found = await asyncio.to_thread(find, secrets, places, tmp_path)
    # A key in a statement is in the log of a server that logs statements; docs/security.md says so.
    assert found == {str(places[2]): {"key put into SQL"}}


async def play(
    crew: Crew, server: PostgresServer, simulator: Simulator, secrets: dict[str, str], inputs: Path
) -> list[str]:
    """The run itself; returns the access tokens that were handed out."""
    tokens: list[str] = []
    await crew.command("migrate")
    await crew.command("keys", "generate")
    first, second = crew.start(), crew.start()
    port = await crew.port_of(first)
    await ask_for_everything(server, simulator, secrets, inputs / "sealing.keys")
    (crew.outputs / "refusals").write_text(await offend(server, secrets))
    await submit(crew, simulator, secrets, inputs)

    async def ended(least: int) -> Any:
        async with asking(server) as connection:
            statement = "SELECT count(*) FROM provisioner.connection_requests WHERE status <> 'pending'"
            return await connection.fetchval(statement) >= least

    await eventually(lambda: ended(12), within=30)
    tokens += tokens_of(simulator)
    crew.processes[1].kill()
    crew.processes[1].wait()
    simulator.configure(openRouter="down")
    await crew.port_of(second)
    third = crew.start()
    server.restart("immediate")
    simulator.configure(openRouter="ok")
    port = await crew.port_of(third)
    await eventually(lambda: ended(26), within=40)

    async def every_end() -> Any:
        return await codes(server) >= EVERY_END

    await eventually(every_end, within=40)
    tokens += tokens_of(simulator)
    await look_everywhere(crew, port)
    await spoil(crew, secrets)
    crew.processes[2].terminate()
    await asyncio.to_thread(crew.processes[2].wait, 30)
    return tokens + tokens_of(simulator)


@pytest.mark.parametrize("written", ["plain", "base64", "hex", "url", "json", "a piece"])
def test_the_search_finds_what_was_left(tmp_path: Path, written: str) -> None:
    """The search that finds nothing above finds a secret that exists, in every encoding, amid other bytes."""
    secrets = planted(Random(4711))  # noqa: S311 - recognisable, not secret
    secret = secrets["database password"]
    left = {
        "plain": secret.encode(),
        "base64": base64.b64encode(f"user:{secret}@host".encode()),
        "hex": secret.encode().hex().encode(),
        "url": quote(secret, safe="").encode(),
        "json": json.dumps({"password": secret}).encode(),
        "a piece": secret[9:21].encode(),
    }[written]
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "16384"
    file.write_bytes(b"\0\xff\n" * 5000 + left + b"\0" * 5000)
    (tmp_path / "data" / "clean").write_bytes(b"\0\xff\n" * 5000 + secret[9:20].encode() + b"\0")
    assert find(secrets, [tmp_path / "data"], tmp_path) == {str(file): {"database password"}}
    assert set(secrets) == set(NAMES)
