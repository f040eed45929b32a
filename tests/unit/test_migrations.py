"""The schema's steps: numbered, forward only, and never changed once they are out."""

from dataclasses import replace
from itertools import pairwise

import pytest

from provisioner.core.errors import SchemaMismatch
from provisioner.postgres.migrations import Migration, known_migrations, outstanding

FIRST = Migration(version=1, name="first", sql="SELECT 1")
SECOND = Migration(version=2, name="second", sql="SELECT 2")


def applied(*steps: Migration) -> list[tuple[int, str, str]]:
    """The ledger's rows for these steps."""
    return [(step.version, step.name, step.checksum) for step in steps]


class TestKnown:
    """The steps that this version brings."""

    def test_are_numbered_from_one_without_gaps(self) -> None:
        """Their order is certain, and no step was forgotten."""
        assert [step.version for step in known_migrations()] == list(range(1, len(known_migrations()) + 1))

    def test_contain_no_transaction_of_their_own(self) -> None:
        """Each step is one transaction with its entry in the ledger: nothing in it may end that early."""
        for step in known_migrations():
            words = {line.strip().rstrip(";").upper() for line in step.sql.splitlines()}
            assert not words & {"COMMIT", "ROLLBACK", "BEGIN TRANSACTION", "START TRANSACTION"}
            assert "CONCURRENTLY" not in step.sql

    def test_take_no_other_file_for_a_step(self) -> None:
        """The generated schema beside them is not a step."""
        assert all(step.name != "schema" for step in known_migrations())


class TestOutstanding:
    """Which steps are outstanding."""

    def test_is_everything_at_first_and_nothing_in_the_end(self) -> None:
        """Steps are done in order, each once."""
        known = [FIRST, SECOND]
        assert outstanding(known, []) == known
        assert outstanding(known, applied(FIRST)) == [SECOND]
        assert outstanding(known, applied(FIRST, SECOND)) == []

    def test_refuses_a_newer_schema(self) -> None:
        """An old program does not touch a newer schema, and says what to do."""
        with pytest.raises(SchemaMismatch, match=r"0002_second.*newer.*upgrade"):
            outstanding([FIRST], applied(FIRST, SECOND))

    def test_refuses_a_step_that_was_changed(self) -> None:
        """A step that was applied with a different text is named."""
        with pytest.raises(SchemaMismatch, match="0001_first"):
            outstanding([FIRST, SECOND], applied(replace(FIRST, sql="SELECT 3")))

    def test_every_change_of_the_text_changes_the_checksum(self) -> None:
        """A single space is another text."""
        texts = ["SELECT 1", "SELECT  1", "select 1", ""]
        checksums = [replace(FIRST, sql=text).checksum for text in texts]
        assert all(one != other for one, other in pairwise(sorted(checksums)))

    def test_a_step_is_called_by_its_number_and_name(self) -> None:
        """Messages name the file."""
        assert str(FIRST) == "0001_first"
