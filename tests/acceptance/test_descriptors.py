"""Many targets on a host that allows few open files: the work is done, and nothing else suffers."""

from __future__ import annotations

import asyncio
import json
import resource
import urllib.request
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from aiohttp import web

from tests.support import eventually
from tests.support.cli import SCRIPT, environment, query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Database

TARGETS = 41
EACH = 8  # requests of a target
KEY = "sk-or-v1-of-the-descriptors-test"


class Cloud:
    """Forty-one Infisicals, each slow enough that creates pile up if they may."""

    def __init__(self) -> None:
        self.busy = 0
        self.busiest = 0
        self.created = 0
        self.answered = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        """Answer a login or a create."""
        body: dict[str, Any] = json.loads(await request.read() or b"{}")
        if request.path.endswith("/login"):
            return web.json_response({"accessToken": "a-token", "expiresIn": 3600, "tokenType": "Bearer"})
        if not request.path.endswith("/open-router"):
            return web.json_response({})
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(0.05)  # how slow it is
        self.busy -= 1
        self.created += 1
        self.answered.set()
        made = {"id": str(uuid4()), "app": "open-router", "method": "api-key", "credentialsHash": "ab" * 32, **body}
        return web.json_response({"appConnection": made})


@asynccontextmanager
async def targets() -> AsyncIterator[tuple[Cloud, dict[str, str]]]:
    """Serve on that many addresses of this machine; yields a worker's settings for them."""
    cloud = Cloud()
    runner = web.ServerRunner(web.Server(cloud))
    await runner.setup()
    told = {"OPENROUTER_PROVISIONING_KEY": KEY}
    for number in range(1, TARGETS + 1):
        site = web.TCPSite(runner, f"127.0.0.{number}", 0)
        await site.start()
        host, port = runner.addresses[-1][:2]
        prefix = "PROVISIONER_TARGETS__DEFAULT" if number == 1 else f"PROVISIONER_TARGETS__T{number}"
        told |= {f"{prefix}__URL": f"http://{host}:{port}", f"{prefix}__CLIENT_ID": str(uuid4())}
        told[f"{prefix}__CLIENT_SECRET"] = "a-client-secret"
    try:
        yield cloud, told
    finally:
        await runner.cleanup()


def probe(port: int) -> int:
    """Ask the status port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        return int(answer.status)


@pytest.mark.parametrize(("soft", "hard"), [(256, 256), (256, 4096)])
async def test_many_targets_under_a_low_limit(database: Database, soft: int, hard: int) -> None:
    """Every request is made with one create, no target seems unreachable, the status port always answers."""
    query(
        database,
        "INSERT INTO provisioner.connection_requests (target, project_id)"
        f" SELECT CASE t WHEN 1 THEN 'default' ELSE 't' || t END, gen_random_uuid()"
        f" FROM generate_series(1, {TARGETS}) t, generate_series(1, {EACH})",
    )
    async with targets() as (cloud, told):
        process = await asyncio.create_subprocess_exec(
            *(SCRIPT, "run", "--listen", "127.0.0.1:0"),
            env=environment(database, **told),
            cwd="/",
            stderr=asyncio.subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
        )
        assert process.stderr is not None
        said: list[bytes] = [await process.stderr.readline()]
        port = json.loads(said[0])["port"]
        try:

            async def drain() -> None:
                assert process.stderr is not None
                said.extend([line async for line in process.stderr])

            draining = asyncio.ensure_future(drain())
            while cloud.created < TARGETS * EACH:
                cloud.answered.clear()
                assert await asyncio.to_thread(probe, port) == 200
                await asyncio.wait_for(cloud.answered.wait(), 30)
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
            done = "SELECT count(*) FROM provisioner.connection_requests WHERE status = 'succeeded' AND attempts = 1"
            await eventually(lambda: query(database, done) == str(TARGETS * EACH))
        finally:
            process.terminate()
            await process.wait()
        await draining
    assert cloud.created == TARGETS * EACH
    # The number of open files stays below the limit: some belong to the database, the status port, a file.
    assert cloud.busiest <= hard - 128
    assert not [line for line in said if b'"level":"info"' not in line]
