"""Statements live in `.sql` files, and each has a name and a reason."""

import re
from importlib.resources import files

import pytest

from provisioner.postgres.queries import statements

FILES = sorted(
    entry.name.removesuffix(".sql")
    for entry in (files("provisioner.postgres") / "sql").iterdir()
    if entry.name.endswith(".sql")
)


def text_of(file: str) -> str:
    """A file as it is written."""
    return (files("provisioner.postgres") / "sql" / f"{file}.sql").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES)
class TestEveryFile:
    """What holds for each file of statements."""

    def test_gives_every_statement_by_its_name(self, file: str) -> None:
        """Each name leads to one bare statement: no comment, no semicolon, nothing of its neighbour."""
        names = re.findall(r"^-- :name (\w+)$", text_of(file), re.MULTILINE)
        found = statements(file)
        assert list(found) == names
        for statement in found.values():
            assert re.match(r"[A-Z]+\b", statement)
            assert "--" not in statement
            assert not statement.rstrip().endswith(";")

    def test_gives_each_statement_its_reason(self, file: str) -> None:
        """Right below its name each statement says what it is for."""
        for _, following in re.findall(r"^-- :name (\w+)\n(.*)$", text_of(file), re.MULTILINE):
            assert re.match(r"-- [A-Z].*", following)

    def test_numbers_its_parameters_without_gaps(self, file: str) -> None:
        """A parameter that a statement lacks would be refused only when it is run."""
        for name, statement in statements(file).items():
            used = {int(number) for number in re.findall(r"\$(\d+)", statement)}
            assert used == set(range(1, len(used) + 1)), name


def test_an_unknown_file_is_an_error() -> None:
    """A misspelt file is found out at once."""
    with pytest.raises(FileNotFoundError):
        statements("nonsense")
