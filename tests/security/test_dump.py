"""Somebody who has the whole database can do nothing with it, and a box is useless outside its own row."""

from __future__ import annotations

import base64
import binascii
import subprocess
from typing import TYPE_CHECKING

import pytest
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from provisioner.core.secret import Secret
from provisioner.credentials.sealing import SealingPair, add_to_file
from provisioner.postgres.pool import Database as Pool
from provisioner.postgres.sealing import PublicKey, publish
from provisioner.sandbox.simulator import Options
from tests.security.searching import find
from tests.support.builders import project
from tests.support.fleet import Fleet
from tests.support.sessions import connected, insert

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import Database

KEY = "sk-or-v1-of-one-project-4711"
SIZE = 32  # bytes of a key


def dumped(database: Database) -> str:
    """The whole database as pg_dump writes it."""
    program = database.server.psql.with_name("pg_dump")
    done = subprocess.run([program, database.url], env={}, capture_output=True, text=True, check=True)  # noqa: S603 - our own arguments
    return done.stdout


def candidates(dump: str) -> Iterator[bytes]:
    """Everything in a dump that is as long as a key: in hex, in base64, or any piece of it."""
    for word in set(dump.replace("\\\\x", " ").replace(":", " ").split()):
        for decode in (bytes.fromhex, base64.b64decode):
            try:
                octets = decode(word)
            except (ValueError, binascii.Error):
                continue
            yield from (octets[at : at + SIZE] for at in range(len(octets) - SIZE + 1))


def opens(box: str, key: bytes) -> bool:
    """Whether these bytes are the private key of a box."""
    try:
        SealedBox(PrivateKey(key)).decrypt(base64.b64decode(box.split(":")[2]))
    except CryptoError:
        return False
    return True


@pytest.fixture
async def pair(database: Database, tmp_path: Path) -> SealingPair:
    """Lend a key pair whose public half the database has, and whose private half is in a file."""
    made = SealingPair.generate()
    add_to_file(tmp_path / "sealing.keys", made)
    pool = Pool(database.url)
    await publish(pool, PublicKey(key_id=made.key.key_id, public=made.key.public))
    await pool.close()
    return made


async def test_a_stolen_dump_opens_no_box(database: Database, pair: SealingPair, tmp_path: Path) -> None:
    """Nothing in the database opens a sealed key, and the key is not beside it."""
    box = pair.key.seal(Secret(KEY), project_id=project(1), name="openrouter")
    async with connected(database.url) as session:
        await insert(session, credential=box)
    dump = dumped(database)
    assert box in dump
    tried = {*candidates(dump)}
    assert pair.key.public in tried  # so the search does check the contents
    assert not any(opens(box, key) for key in tried)
    assert opens(box, base64.b64decode(pair.private.reveal()))
    (tmp_path / "dump").write_text(dump)
    secrets = {"api key": KEY, "private key": pair.private.reveal()}
    assert find(secrets, [tmp_path / "dump"], tmp_path) == {}


async def test_a_box_opens_nothing_in_another_project(database: Database, pair: SealingPair, tmp_path: Path) -> None:
    """A sealed key that is copied into another project's row, under the same name, makes no connection."""
    settings = {"PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "sealing.keys")}
    async with Fleet(database.url, Options(mode="self-hosted", projects=2), settings=settings) as fleet:
        owner, thief = fleet.simulator.projects
        box = pair.key.seal(Secret(KEY), project_id=owner, name="openrouter")
        for one in (owner, thief):
            await insert(fleet.session, project_id=one, credential=box)
        await fleet.start()
        await fleet.done()
        rows = await fleet.session.fetch(
            "SELECT project_id::text, status, error_code FROM provisioner.connection_requests ORDER BY id"
        )
        assert [tuple(row) for row in rows] == [
            (owner, "succeeded", None),
            (thief, "failed", "credential_unreadable"),
        ]
        assert [create["projectId"] for create in fleet.simulator.state()["creates"]] == [owner]
