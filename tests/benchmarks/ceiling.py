"""What a bare loop around the API reaches: the same bodies by aiohttp on uvloop, no database; prints a line of JSON."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import aiohttp
import orjson
import uvloop

PATH = "/api/v1/app-connections/open-router"
KEY = "sk-or-v1-" + "0" * 64
PROJECT = "7b0e5d6a-1111-4222-8333-444455556666"


def body(number: int) -> bytes:
    """What a worker sends for a request of the benchmarks."""
    return orjson.dumps(
        {
            "name": f"bench-{number:08}",
            "method": "api-key",
            "credentials": {"apiKey": KEY},
            "projectId": PROJECT,
            "description": "made by a benchmark",
        }
    )


async def loop(base: str, requests: int, in_flight: int) -> dict[str, float]:
    """Send so many creates, so many at a time, after a warm-up that opens the connections."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer bench"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(base, connector=connector, headers=headers) as session:

        async def send(number: int) -> None:
            async with session.post(PATH, data=body(number)) as said:
                if not orjson.loads(await said.read())["appConnection"]["credentialsHash"]:
                    raise AssertionError

        await asyncio.gather(*(send(-1 - number) for number in range(in_flight)))
        numbers = iter(range(requests))

        async def lane() -> None:
            for number in numbers:
                await send(number)

        began, busy = time.perf_counter(), time.process_time()
        await asyncio.gather(*(lane() for _ in range(in_flight)))
        return {"rate": requests / (time.perf_counter() - began), "cpu": time.process_time() - busy}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("requests", type=int)
    parser.add_argument("in_flight", type=int)
    chosen = parser.parse_args()
    measured = uvloop.run(loop(chosen.base, chosen.requests, chosen.in_flight))
    sys.stdout.write(orjson.dumps(measured).decode() + "\n")
