"""What tests of rotations ask for and wait for, with a worker that has both lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provisioner.sandbox.simulator import Options
from tests.support import eventually
from tests.support.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Mapping

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


async def ask(it: Fleet, project: int = 0, **columns: object) -> int:
    """Ask for a rotation in a project; returns its id."""
    values = {"project_id": it.simulator.projects[project], **columns}
    names = ", ".join(values)
    places = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    sql = f"INSERT INTO provisioner.rotation_requests ({names}) VALUES ({places}) RETURNING id"
    return int(await it.session.fetchval(sql, *values.values()))


async def connect(it: Fleet, project: int = 0, credential: str = "default") -> int:
    """Ask for the connection of a project."""
    sql = "INSERT INTO provisioner.connection_requests (project_id, credential) VALUES ($1, $2) RETURNING id"
    return int(await it.session.fetchval(sql, it.simulator.projects[project], credential))


async def row(it: Fleet, request: int) -> Mapping[str, Any]:
    """A rotation's row."""
    found = await it.session.fetchrow("SELECT * FROM provisioner.rotation_requests WHERE id = $1", request)
    assert found is not None
    return dict(found)


async def one(it: Fleet, sql: str, *arguments: object) -> tuple[object, ...]:
    """The only row of an answer."""
    (found,) = await it.session.fetch(sql, *arguments)
    return tuple(found)


async def comes_to(it: Fleet, expected: object, sql: str) -> None:
    """Wait until the database says so."""

    async def look() -> bool:
        found = await it.session.fetchval(sql)
        assert found == expected, found
        return True

    said: bool = await eventually(look)
    assert said


async def becomes(it: Fleet, request: int, status: str, *, within: float = 15.0) -> Mapping[str, Any]:
    """Wait until a rotation has this status."""

    async def look() -> Mapping[str, Any]:
        found = await row(it, request)
        assert found["status"] == status, found
        return found

    found: Mapping[str, Any] = await eventually(look, within=within)
    return found
