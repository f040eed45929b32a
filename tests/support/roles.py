"""Database roles for tests: made on the shared server under names of their own, and gone afterwards."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.support.cli import provisioner, query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Database

PASSWORD = "planted-4711"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The same database as four roles see it."""

    requester: Database
    other: Database
    reader: Database
    worker: Database


def name_of(database: Database) -> str:
    """The role of a database's address."""
    found = re.search(r"//([^:]+):", database.url)
    assert found
    return found[1]


def seen_by(database: Database, role: str) -> Database:
    """The same database with the address that this role has."""
    return replace(database, url=re.sub(r"//[^@]+@", f"//{role}:{PASSWORD}@", database.url))


@contextmanager
def roles(database: Database, *names: str) -> Iterator[list[Database]]:
    """Make roles that may log in and nothing else, and lend the database as each sees it."""
    made = [f"{database.name}_{name}" for name in names]
    query(database, "".join(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}';" for role in made))
    try:
        yield [seen_by(database, role) for role in made]
    finally:
        query(database, "".join(f"DROP OWNED BY {role}; DROP ROLE {role};" for role in made))


@contextmanager
def granted(database: Database) -> Iterator[Cast]:
    """Two requesters, a reader and a worker, with what `provisioner grant` gives them."""
    with roles(database, "requester", "other", "reader", "worker") as made:
        cast = Cast(requester=made[0], other=made[1], reader=made[2], worker=made[3])
        options = ("--requester", "--requester", "--reader", "--worker")
        arguments = [word for option, one in zip(options, made, strict=True) for word in (option, name_of(one))]
        done = provisioner("grant", *arguments, database=database)
        assert done.returncode == 0, done.stderr
        yield cast
