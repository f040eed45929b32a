"""Helpers for tests of rotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provisioner.sandbox.simulator import Options
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from tests.support.postgres import Database

ROUTE = "/api/v2/secret-rotations/open-router-api-key"
CREATE = f"POST {ROUTE}"
QUICK = {
    "PROVISIONER_TARGETS__DEFAULT__WRITE_LIMIT": "none",
    "PROVISIONER_TARGETS__DEFAULT__READ_LIMIT": "none",
    "PROVISIONER_RETRY__BASE": "0.1",
    "PROVISIONER_RETRY__CAP": "0.5",
}


def fleet(database: Database, *, projects: int = 1, **options: Any) -> Fleet:
    """A worker with both lines, and a server without a limiter."""
    chosen = Options(mode="self-hosted", projects=projects, upstream_pace=0.01, **options)
    return Fleet(database.url, chosen, settings=QUICK)


async def ask(it: Fleet[Any], project: int = 0, **columns: object) -> int:
    """Ask for a rotation in a project; returns its id."""
    (request,) = await it.insert_rotations([it.simulator.projects[project]], **columns)
    return request


async def connect(it: Fleet[Any], project: int = 0, credential: str = "default") -> int:
    """Ask for the connection of a project; returns its id."""
    (request,) = await it.insert([it.simulator.projects[project]], credential=credential)
    return request
