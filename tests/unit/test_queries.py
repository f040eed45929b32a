"""Statements live in `.sql` files, and each has a name and a reason."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from provisioner.postgres.access import NARROWED
from provisioner.postgres.queries import CONNECTIONS, ROTATIONS, Words, statements

FILES = sorted(
    entry.name.removesuffix(".sql")
    for entry in (files("provisioner.postgres") / "sql").iterdir()
    if entry.name.endswith(".sql")
)


def text_of(file: str) -> str:
    """A file as it is written."""
    return (files("provisioner.postgres") / "sql" / f"{file}.sql").read_text(encoding="utf-8")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("words", [CONNECTIONS, ROTATIONS], ids=lambda words: words.only)
@pytest.mark.parametrize("file", FILES)
class TestEveryFile:
    """Rules for each file of statements, each kind of request and each role."""

    def test_gives_every_statement_by_its_name(self, file: str, words: Words, own: bool) -> None:
        """Each name leads to one bare statement: no comment, no semicolon, nothing of its neighbour."""
        names = re.findall(r"^-- :name (\w+)$", text_of(file), re.MULTILINE)
        found = statements(file, words, own=own)
        assert list(found) == names
        for statement in found.values():
            assert re.match(r"[A-Z]+\b", statement)
            assert "--" not in statement
            assert not statement.rstrip().endswith(";")

    def test_numbers_its_parameters_without_gaps(self, file: str, words: Words, own: bool) -> None:
        """A parameter that a statement lacks would be refused only when it is run."""
        for name, statement in statements(file, words, own=own).items():
            used = {int(number) for number in re.findall(r"\$(\d+)", statement)}
            assert used == set(range(1, len(used) + 1)), name


@pytest.mark.parametrize("file", FILES)
def test_every_statement_has_its_reason(file: str) -> None:
    """Each statement and each part has its purpose right below its name."""
    for following in re.findall(r"^-- :(?:name|part) \w+\n(.*)$", text_of(file), re.MULTILINE):
        assert re.match(r"-- [A-Z].*", following)


@pytest.mark.parametrize("file", FILES)
def test_what_is_narrowed_has_a_view_for_that(file: str) -> None:
    """A role that only sees its own requests reads `own_…` of each table that has such a view."""
    listed = {CONNECTIONS.listed, ROTATIONS.listed}
    for table in re.findall(r"provisioner\.\{own\}(\w+|\{listed\})", text_of(file)):
        assert (listed if table == "{listed}" else {table}) <= set(NARROWED)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT $1 FROM provisioner.{requsts};", "{requsts}"),
        ("SELECT\n-- :only conections\n1\n-- :all\n;", "conections"),
    ],
)
def test_a_misspelt_mark_is_an_error(text: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An unknown word or kind is detected when the file is read."""
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "odd.sql").write_text(f"-- :name odd\n-- Odd.\n{text}\n")
    monkeypatch.setattr("provisioner.postgres.queries.files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=said):
        statements("odd")


def test_what_differs_is_as_a_kind_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Words, lines for one kind alone, parts, and the views of one's own."""
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "mixed.sql").write_text(
        "-- :part where\n-- Whose.\nWHERE q.{made} = $1 AND '{{x}}' <> '{line}'\n\n"
        "-- :name mixed\n-- Mixed.\nSELECT\n    -- :only connections\n    q.credential\n    -- :only rotations\n"
        "    q.environment\n    -- :all\nFROM provisioner.{own}{listed} AS q\n{where};\n"
    )
    monkeypatch.setattr("provisioner.postgres.queries.files", lambda _: tmp_path)
    assert " ".join(statements("mixed")["mixed"].split()) == (
        "SELECT q.credential FROM provisioner.listed_requests AS q WHERE q.connection_id = $1 AND '{x}' <> ''"
    )
    assert " ".join(statements("mixed", ROTATIONS, own=True)["mixed"].split()) == (
        "SELECT q.environment FROM provisioner.own_listed_rotations AS q"
        " WHERE q.rotation_id = $1 AND '{x}' <> '/rotations'"
    )


def test_an_unknown_file_is_an_error() -> None:
    """A misspelt file is found out at once."""
    with pytest.raises(FileNotFoundError):
        statements("nonsense")
