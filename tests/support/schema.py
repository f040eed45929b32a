"""What the migrations make, for reviewers to read as a diff. `python -m tests.support.schema` renews it."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

from provisioner.postgres.migrations import migrate
from provisioner.sandbox.postgres import PostgresServer

SNAPSHOT = Path(__file__).parents[2] / "migrations" / "schema.sql"
RENEW = "python -m tests.support.schema"
HEADER = f"-- What the migrations make, for reading and for diffs; nobody runs it. Renewed by `{RENEW}`.\n"

# An object of pg_dump's output, up to the heading of the next one.
_HEADING = re.compile(r"^--\n-- (?:Name|PostgreSQL).*\n--\n", re.MULTILINE)
# Partitions come and go with the days.
_DATED = re.compile(r"\battempts_\d{8}(?!\d)")
_NOISE = re.compile(r"^(?:SET .*|SELECT pg_catalog\.set_config.*|\\(?:un)?restrict .*|--.*)\n", re.MULTILINE)


def dump(server: PostgresServer, url: str) -> str:
    """The schema of a migrated database, without what differs from one machine or day to the next."""
    arguments = ["--schema-only", "--schema=provisioner", "--no-owner", f"--dbname={url}"]
    done = subprocess.run(  # noqa: S603 - the server's own program
        [server.psql.with_name("pg_dump"), *arguments], env={}, capture_output=True, text=True, check=True
    )
    objects = [_tidy(part) for part in _HEADING.split(done.stdout)]
    return HEADER + "".join(f"\n{part}\n" for part in objects if part and not _DATED.search(part))


def _tidy(part: str) -> str:
    lines = _NOISE.sub("", part).splitlines()
    return "\n".join(line for line in lines if line.strip())


def main() -> None:
    """Migrate a database of a private server and write down what came of it."""
    with PostgresServer() as server:
        asyncio.run(migrate(server.url()))
        SNAPSHOT.write_text(dump(server, server.url()), encoding="utf-8")


if __name__ == "__main__":
    main()
