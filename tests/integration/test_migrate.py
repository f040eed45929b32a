"""Bringing a database up to date: safe to run twice and at once, and never on a schema that is not ours."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from provisioner.core.errors import ProvisionerError, SchemaMismatch
from provisioner.postgres.migrations import known_migrations, migrate, pending, require_schema
from provisioner.postgres.pool import Database as Pool
from tests.support import schema
from tests.support.postgres import Database, ask


@pytest.fixture
async def empty(empty_database: Database) -> AsyncIterator[Pool]:
    """Lend a pool on a database without our schema."""
    pool = Pool(empty_database.url)
    yield pool
    await pool.close()


class TestMigrate:
    """Applying outstanding steps."""

    async def test_makes_everything_then_nothing(self, empty_database: Database, empty: Pool) -> None:
        """The first run applies every step in order and says so, the second finds nothing to do."""
        assert list(await migrate(empty_database.url)) == list(known_migrations())
        assert list(await migrate(empty_database.url)) == []
        await require_schema(empty)

    async def test_many_at_once_do_each_step_once(self, empty_database: Database, empty: Pool) -> None:
        """Migrators that start together share the work, and none of them fails."""
        shares = await asyncio.gather(*(migrate(empty_database.url) for _ in range(5)))
        done = sorted((step for share in shares for step in share), key=lambda step: step.version)
        assert done == list(known_migrations())
        await require_schema(empty)

    async def test_a_step_that_fails_leaves_nothing(self, empty_database: Database, empty: Pool) -> None:
        """A step is applied wholly or not at all, so it can be run again once its obstacle is gone."""
        await empty.execute("CREATE SCHEMA provisioner")
        await empty.execute("CREATE TABLE provisioner.waiting (obstacle integer)")
        with pytest.raises(ProvisionerError, match="waiting"):
            await migrate(empty_database.url)
        rows = await empty.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'provisioner'")
        assert [row["tablename"] for row in rows] == ["waiting"]
        await empty.execute("DROP TABLE provisioner.waiting")
        assert list(await migrate(empty_database.url)) == list(known_migrations())

    async def test_needs_no_superuser(self, empty_database: Database, empty: Pool) -> None:
        """A role that may create a schema in the database can migrate it, as on hosted servers."""
        role = f"owner_of_{empty_database.name}"
        await empty.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'open'")
        await empty.execute(f"GRANT CREATE ON DATABASE {empty_database.name} TO {role}")
        address = empty_database.url.split("@")[1]
        try:
            assert await migrate(f"postgresql://{role}:open@{address}")
        finally:
            await empty.execute(f"DROP OWNED BY {role} CASCADE")
            await empty.execute(f"DROP ROLE {role}")


class TestMismatch:
    """Schemas of other versions."""

    async def test_a_changed_step_is_refused(self, database: Database, pool: Pool) -> None:
        """If a step was applied with another text, nothing is done and the step is named."""
        await pool.execute("UPDATE provisioner.migrations SET checksum = 'another' WHERE version = 1")
        for refused in (migrate(database.url), pending(pool), require_schema(pool)):
            with pytest.raises(SchemaMismatch, match=r"step 0001_\w+ was applied from another text"):
                await refused

    async def test_a_newer_schema_is_refused(self, database: Database, pool: Pool) -> None:
        """If there is an unknown step, nothing is done and the message says what to do."""
        await pool.execute(
            "INSERT INTO provisioner.migrations (version, name, checksum) VALUES (9999, 'from_the_future', 'x')"
        )
        for refused in (migrate(database.url), pending(pool), require_schema(pool)):
            with pytest.raises(SchemaMismatch, match=r"9999_from_the_future.*newer.*upgrade"):
                await refused

    async def test_an_empty_database_lacks_everything(self, empty: Pool) -> None:
        """Without our schema every step is outstanding, and the error names the command that helps."""
        assert list(await pending(empty)) == list(known_migrations())
        with pytest.raises(SchemaMismatch, match="provisioner migrate"):
            await require_schema(empty)

    async def test_an_older_schema_lacks_the_rest(self, pool: Pool) -> None:
        """The outstanding steps are named one by one."""
        last = known_migrations()[-1]
        await pool.execute("DELETE FROM provisioner.migrations WHERE version = $1", last.version)
        assert list(await pending(pool)) == [last]
        with pytest.raises(SchemaMismatch, match=str(last)):
            await require_schema(pool)


class TestSnapshot:
    """The schema that reviewers read."""

    def test_is_what_the_migrations_make(self, database: Database) -> None:
        """`migrations/schema.sql` is up to date."""
        if not database.server.version.startswith("18."):
            pytest.skip("the snapshot is made by the programs of PostgreSQL 18")
        made = schema.dump(database.server, database.url)
        assert made == schema.SNAPSHOT.read_text(encoding="utf-8"), f"renew it: {schema.RENEW}"

    def test_does_not_depend_on_the_day(self, database: Database) -> None:
        """The partitions of the attempt log, which come and go, are not in it."""
        before = schema.dump(database.server, database.url)
        ask(
            database.server,
            "CREATE TABLE provisioner.attempts_20990101 PARTITION OF provisioner.attempts"
            " FOR VALUES FROM ('2099-01-01Z') TO ('2099-01-02Z')",
            database.url,
        )
        assert schema.dump(database.server, database.url) == before
        assert "attempts_2" not in before
