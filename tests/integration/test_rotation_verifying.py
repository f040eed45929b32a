"""Rotations that were changed in Infisical are found, reported, and corrected."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp

from provisioner.postgres.search import read_request
from provisioner.sandbox.audit import audit_rotations
from provisioner.sandbox.simulator import Options
from tests.support.cli import provisioner, query
from tests.support.fleet import Fleet
from tests.support.rotations import QUICK, ROUTE, ask, connect, fleet
from tests.support.sessions import opened
from tests.support.ways import daemon

if TYPE_CHECKING:
    from tests.support.postgres import Database

DIFFERENCES = {"renamed", "described otherwise", "rescheduled", "other spending", "another secret", "switched off"}


async def tamper(it: Fleet[Any], method: str, path: str, body: Any = None, **query_: str) -> None:
    """Do something to a rotation behind the provisioner's back."""
    headers = {"Authorization": f"Bearer {it.simulator.token()}"}
    url = f"{it.simulator.url}{ROUTE}/{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=body, params=query_, headers=headers),
    ):
        pass


async def verify(it: Fleet, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the command beside the workers; returns its exit status and output."""
    done = await asyncio.to_thread(provisioner, "verify", "--json", *options, more=it.environment())
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


async def test_what_was_changed_is_found_and_put_in_line(database: Database) -> None:
    """Each difference is named; a missing rotation is made again, others are sent, and Infisical's retries stay."""
    async with fleet(database, projects=3) as it:
        ids = []
        for project in range(3):
            await connect(it, project)
            ids.append(await ask(it, project, description="for chat", spend_limit=10))
        await it.start()
        changed, gone, failing = [str((await it.becomes(each, "succeeded"))["rotation_id"]) for each in ids]
        status, said = await verify(it)
        assert (status, said["compared"], said["rotations"], said["projects"]) == (0, 6, 3, 3)
        was = it.simulator.state()["rotations"][0]["parameters"]
        await tamper(
            it,
            "PATCH",
            changed,
            {
                "name": "other",
                "description": "x",
                "rotationInterval": 99,
                "parameters": was | {"limit": 99},
                "secretsMapping": {"apiKey": "OTHER"},
                "isAutoRotationEnabled": False,
            },
        )
        await tamper(it, "DELETE", gone, deleteSecrets="true", revokeGeneratedCredentials="true")
        it.simulator.configure(openRouter="down")
        await tamper(it, "POST", f"{failing}/rotate-secrets", {})
        it.simulator.configure(openRouter="ok")
        status, said = await verify(it)
        found = {each["id"]: set(each["differences"]) for each in said["differences"]}
        assert (status, found) == (1, {ids[0]: DIFFERENCES, ids[1]: {"gone"}, ids[2]: {"failing"}})
        assert {each["rotation_id"] for each in said["differences"]} == {changed, gone, failing}
        status, said = await verify(it, "--repair")
        repaired = {ids[0]: "repairing", ids[1]: "repairing", ids[2]: "failing"}
        assert (status, said["repaired"]) == (3, {str(id_): outcome for id_, outcome in repaired.items()})
        await it.until("SELECT count(*) FROM provisioner.rotation_requests WHERE status = 'succeeded'", 3)
        await tamper(it, "POST", f"{failing}/rotate-secrets", {})
        status, said = await verify(it, str(ids[0]), str(ids[1]), str(ids[2]))
        assert (status, said["differences"], said["compared"]) == (0, [], 3)
        rows = [await it.row(each) for each in ids[:2]]
        places = {str(each["rotation_id"]) for each in rows}
        state = it.simulator.state()
        assert not audit_rotations(rows, state | {"rotations": [r for r in state["rotations"] if r["id"] in places]})


async def test_what_was_adopted_is_left_as_it_is(database: Database) -> None:
    """Its creator chose schedule and spending: only a changed name or a failing key is reported."""
    async with fleet(database) as it:
        await connect(it)
        await it.start()
        await it.becomes(await ask(it, interval_days=5), "succeeded")
        await it.session.execute("DELETE FROM provisioner.rotation_requests")
        request = await ask(it, on_conflict="adopt", interval_days=9, spend_limit=3)
        adopted = await it.becomes(request, "succeeded")
        assert (await verify(it))[0] == 0
        await tamper(it, "PATCH", str(adopted["rotation_id"]), {"name": "other"})
        status, said = await verify(it, "--repair")
        assert (status, said["repaired"]) == (3, {str(request): "adopted"})


async def test_the_daemon_verifies_rotations_too(database: Database) -> None:
    """A round of their line finds what differs; the view, the counts and the notices have it like a connection's."""
    async with Fleet(database.url, Options(mode="self-hosted", projects=1), settings=QUICK, way=daemon) as it:
        await connect(it)
        request = await ask(it)
        await it.start()
        made = await it.becomes(request, "succeeded")
        await it.session.execute(
            "UPDATE provisioner.rotation_requests SET finished_at = finished_at - interval '1 minute'"
        )
        await tamper(it, "PATCH", str(made["rotation_id"]), {"rotationInterval": 99})
        await it.stop()
        await it.start(PROVISIONER_VERIFY__EVERY="1d")
        await it.until("SELECT count(*) FROM provisioner.verify_rounds WHERE finished_at IS NOT NULL", 2)
        await it.stop()
        drift = "SELECT id, drift FROM provisioner.rotation_status WHERE drift IS NOT NULL"
        assert query(database, drift) == f"{request}|rescheduled"
        assert query(database, "SELECT target, drift FROM provisioner.drifts") == "default/rotations|rescheduled"
        verified = (
            "r.id, r.verified_at = v.started_at FROM provisioner.rotation_status AS r, provisioner.verify_rounds AS v"
        )
        assert query(database, f"SELECT {verified} WHERE v.target = 'default/rotations'") == f"{request}|t"
        async with opened(database) as ours:
            story = await read_request(ours, request)
        assert story is not None
        assert (story.drift, story.verified_at is not None) == ("rescheduled", True)
        told = provisioner("status", database=database)
        assert told.returncode == 1
        assert "1 rotation is not as recorded in Infisical" in " ".join(told.stdout.split())
