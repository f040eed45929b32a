"""A whole run in which every secret is recognisable, and in which everything that can go wrong does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.support import eventually
from tests.support.cli import environment
from tests.support.forking import Forked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from random import Random

    from provisioner.sandbox.simulator import Simulator

ROLE = "leaky"
# Everything that a client secret or a password may have in it, and that is written otherwise somewhere.
AWKWARD = '"\\%+/&=?'
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
NAMES = (
    "database password",
    "client secret",
    "wrong client secret",
    "static token",
    "jwt",
    "proxy password",
    "address of notices",
    "signing key",
    "key by variable",
    "key by file",
    "key by toml",
    "refused key",
    "echoed key",
    "sealed key",
    "refused sealed key",
    "misplaced sealed key",
    "key put into SQL",
    "key put into COPY",
    "key put into the wrong column",
)


def planted(random: Random) -> dict[str, str]:
    """The secrets of a run, without what everybody knows of them (`sk-or-v1-`)."""
    plain = {name: "".join(random.choices(ALPHABET, k=40)) for name in NAMES}
    for name in ("database password", "client secret", "proxy password"):
        plain[name] = AWKWARD.join((plain[name][:20], plain[name][20:]))
    return plain


def a_jwt(signature: str) -> str:
    """Another issuer's token; its first two parts are no secret."""
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": "pod"}]
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), signature]
    )


def verifier(password: str) -> str:
    """PostgreSQL's stored form of a password, made here so that no statement contains the password."""
    salt = b"recognisable"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 4096)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    served = hmac.digest(salted, b"Server Key", "sha256")
    numbers = (base64.b64encode(octets).decode() for octets in (salt, stored, served))
    return "SCRAM-SHA-256$4096:{}${}:{}".format(*numbers)


def told_to(simulator: Simulator, secrets: Mapping[str, str], inputs: Path, *, port: int, echo: int) -> dict[str, str]:
    """The environment of our processes. `port` is the database's, `echo` that of a server that quotes requests."""
    (inputs / "file.key").write_text(f"sk-or-v1-{secrets['key by file']}\n")
    (inputs / "secret").write_text(secrets["client secret"])
    toml = inputs / "provisioner.toml"
    toml.write_text(f'[credentials.typed]\nvalue = "sk-or-v1-{secrets["key by toml"]}"\n')
    target = "PROVISIONER_TARGETS__"
    password = quote(secrets["database password"], safe="")
    proxy = f"http://proxy:{quote(secrets['proxy password'], safe='')}@127.0.0.1:{echo}"
    return environment(
        None,
        PROVISIONER_CONFIG=str(toml),
        PROVISIONER_DATABASE_URL=f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/leaks",
        PROVISIONER_LOG__LEVEL="debug",
        PROVISIONER_LISTEN__ADDRESS="127.0.0.1:0",
        PROVISIONER_WORKER__LEASE="5",
        PROVISIONER_SEALING__KEY_FILE=str(inputs / "sealing.keys"),
        PROVISIONER_RETRY__MAX_ATTEMPTS="2",
        PROVISIONER_RETRY__BASE="0.1",
        INFISICAL_HOST=simulator.url,
        INFISICAL_UNIVERSAL_AUTH_CLIENT_ID=simulator.client_id,
        INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET_FILE=str(inputs / "secret"),
        OPENROUTER_PROVISIONING_KEY=f"sk-or-v1-{secrets['key by variable']}",
        PROVISIONER_CREDENTIALS__FILED__FILE=str(inputs / "file.key"),
        PROVISIONER_CREDENTIALS__REFUSED__VALUE=f"sk-or-v1-{secrets['refused key']}-mode-401",
        PROVISIONER_CREDENTIALS__ECHOED__VALUE=f"sk-or-v1-{secrets['echoed key']}",
        PROVISIONER_CREDENTIALS__EMPTY__ENV="NOT_THERE",
        PROVISIONER_NOTIFY__URL=f"http://127.0.0.1:{echo}/{secrets['address of notices']}",
        PROVISIONER_NOTIFY__SIGNING_KEY=secrets["signing key"],
        **{
            f"{target}WRONG__URL": simulator.url,
            f"{target}WRONG__CLIENT_ID": "11111111-1111-4111-8111-111111111111",
            f"{target}WRONG__CLIENT_SECRET": secrets["wrong client secret"],
            f"{target}STATIC__URL": f"http://127.0.0.1:{echo}",
            f"{target}STATIC__TOKEN": secrets["static token"],
            f"{target}OIDC__URL": simulator.url,
            f"{target}OIDC__AUTH": "oidc",
            f"{target}OIDC__IDENTITY_ID": simulator.identity_id,
            f"{target}OIDC__JWT": a_jwt(secrets["jwt"]),
            f"{target}REFUSED_JWT__URL": f"http://127.0.0.1:{echo}",
            f"{target}REFUSED_JWT__AUTH": "kubernetes",
            f"{target}REFUSED_JWT__IDENTITY_ID": simulator.identity_id,
            f"{target}REFUSED_JWT__JWT": a_jwt(secrets["jwt"]),
            f"{target}PROXIED__URL": simulator.url.replace("127.0.0.1", "localhost"),  # a target of its own
            f"{target}PROXIED__CLIENT_ID": simulator.client_id,
            f"{target}PROXIED__CLIENT_SECRET": secrets["client secret"],
            f"{target}PROXIED__PROXY": proxy,
        },
    )


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Serve a port that refuses everything and quotes the whole request; provides the requests too."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            sizes = [line for line in head.lower().splitlines() if line.startswith(b"content-length:")]
            asked = head + await reader.readexactly(int(sizes[0].split(b":")[1]) if sizes else 0)
            heard.append(asked)
            quoted = asked.decode(errors="replace")
            # Each refusal takes another path through the code.
            status = (400, 401, 403, 422, 500)[len(heard) % 5]
            content: dict[str, Any] = {"reqId": "req-0123456789abcd", "statusCode": status, "error": quoted}
            content["message"] = [{"message": quoted, "path": [quoted]}] if status == 422 else quoted
            body = json.dumps(content).encode()
            writer.write(
                f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


class Crew:
    """Worker processes and commands, everything that they say in files below `outputs`."""

    def __init__(self, environ: Mapping[str, str], outputs: Path) -> None:
        self.environ = dict(environ)
        self.outputs = outputs
        self.processes: list[subprocess.Popen[bytes]] = []
        self._commands = 0

    def start(self) -> Path:
        """Start a worker; returns its log."""
        log = self.outputs / f"worker-{len(self.processes)}.log"
        with log.open("wb") as file:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "provisioner", "run"], env=self.environ, cwd="/", stdout=file, stderr=file
                )
            )
        return log

    async def port_of(self, log: Path) -> int:
        """The status port of the worker with that log."""

        def said() -> int:
            lines = [json.loads(line) for line in log.read_text().splitlines() if '"status_port_opened"' in line]
            return int(lines[0]["port"]) if lines else 0

        return await eventually(said, within=20)

    async def command(self, *arguments: str, more: Mapping[str, str] | None = None) -> str:
        """Run a command, store its output, and return its standard output."""
        self._commands += 1
        files = [self.outputs / f"command-{self._commands}-{arguments[0]}.{stream}" for stream in ("out", "err")]
        with files[0].open("wb") as out, files[1].open("wb") as err:
            told = {**self.environ, **(more or {})}
            process = Forked(arguments, env=told, stdout=out.fileno(), stderr=err.fileno())
            self.note_processes(process.pid)
            await asyncio.to_thread(process.wait)
        return files[0].read_text()

    def note_processes(self, *pids: int) -> None:
        """Store what everybody on this machine can see of our processes."""
        with (self.outputs / "processes").open("ab") as file:
            for pid in (*pids, *(process.pid for process in self.processes if process.poll() is None)):
                for place in ("cmdline", "comm", "wchan"):
                    try:
                        file.write(Path(f"/proc/{pid}/{place}").read_bytes() + b"\n")
                    except OSError:  # it has ended, or this is no Linux
                        continue

    def kill(self) -> None:
        """`kill -9` all workers."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
