"""Bulk files are split into lines, and problems are reported."""

import io
from pathlib import Path
from uuid import UUID

import pytest

from provisioner.core.secret import Secret
from provisioner.intake.checked import SHOWN, CheckedFile, check_file
from provisioner.intake.errors import FileUnusable, Problem
from provisioner.intake.reading import LONGEST, Format, Record, read
from provisioner.intake.rows import NOT_UTF_8

ONE = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
TWO = "00000000-0000-4000-8000-000000000002"
KEY = "sk-or-v1-planted4711"


def boxed(api_key: Secret, *, project_id: str, name: str) -> str:
    """A substitute for sealing, which reading a file does not depend on."""
    return f"sealed:k1:{len(api_key.reveal()):076d}{len(project_id) + len(name):04d}"


def taken_apart(content: bytes | str, name: str = "x.csv", form: Format | None = None) -> list[Record | Problem]:
    """Read a file of this content and name."""
    octets = content.encode() if isinstance(content, str) else content
    return list(read(io.BufferedReader(io.BytesIO(octets)), name=name, form=form))


def checked(content: str, **options: str) -> CheckedFile:
    """Check a CSV file of this content."""
    return check_file(io.BufferedReader(io.BytesIO(content.encode())), name="x.csv", seal=boxed, **options)  # type: ignore[arg-type]  # batch alone


def record(line: int, **values: object) -> Record:
    """Return the values of a line."""
    return Record(line=line, values=values)


class TestCsv:
    """CSV with a header."""

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    def test_reads_what_spreadsheets_write(self, delimiter: str, end: str, mark: str) -> None:
        """Delimiters, line ends and a byte order mark make no difference."""
        lines = [["project_id", "name"], [ONE, "a"], [TWO, "b"]]
        text = mark + "".join(delimiter.join(cells) + end for cells in lines)
        assert taken_apart(text) == [record(2, project_id=ONE, name="a"), record(3, project_id=TWO, name="b")]

    def test_numbers_lines_as_an_editor_does(self) -> None:
        """Empty lines and line breaks within quotes count, so that the number leads to the line."""
        text = f'\n\nproject_id,description\n\n{ONE},"two\nlines"\n,,\n  \n{TWO},"say ""hi"", please"\n'.replace(
            ",,", ","
        )
        assert taken_apart(text) == [
            record(5, project_id=ONE, description="two\nlines"),
            record(9, project_id=TWO, description='say "hi", please'),
        ]

    def test_an_empty_cell_is_left_out(self) -> None:
        """An empty cell gets the table's default; spaces around a value do not count."""
        assert taken_apart(f"Project_ID , name,batch\n {ONE} ,,  b \n") == [record(2, project_id=ONE, batch="b")]

    def test_a_row_of_another_length_is_a_problem(self) -> None:
        """A delimiter that was not quoted is noticed, and the next line is read all the same."""
        problem, good = taken_apart(f"project_id,name\n{ONE},a,b\n{TWO},c\n")
        assert str(problem).startswith("line 2: has 3 cells, the header has 2;")
        assert good == record(3, project_id=TWO, name="c")

    def test_a_stray_quote_is_a_problem(self) -> None:
        """Text after a closing quote is named by its line, and the next line is read all the same."""
        problem, good = taken_apart(f'project_id,name\n"{ONE}"x,a\n{TWO},c\n')
        assert str(problem).startswith("line 2: is not CSV: ")
        assert good == record(3, project_id=TWO, name="c")

    def test_a_quote_that_is_never_closed_is_a_problem(self) -> None:
        """The line is named where the quote was opened, not the end of the file."""
        (problem,) = taken_apart(f'project_id,name\n{ONE},"a\n{TWO},c\n')
        assert str(problem).startswith("line 2: is not CSV: ")

    @pytest.mark.parametrize(
        ("header", "said"),
        [
            ("", "has no header"),
            (f"{ONE},a", "has no header: the first line must name the columns, such as project_id,name"),
            ("project_id,nmae", "'nmae' is no column; did you mean name?"),
            ("project_id,status", "'status' is filled in by provisioner; leave it out"),
            ("name,batch", "without the column project_id"),
            ("project_id,name,name", "names name twice"),
            ("name,api_key", "without the column project_id"),
            ('project_id,"na', "is not CSV"),
        ],
    )
    def test_an_unusable_header_says_how_to_fix_it(self, header: str, said: str) -> None:
        """Without a header that is understood nothing is guessed."""
        with pytest.raises(FileUnusable, match=said.replace("?", r"\?")):
            taken_apart(header + (f"\n{ONE},{KEY}\n" if header else ""))


class TestJsonLines:
    """One JSON object a line."""

    def test_reads_objects(self) -> None:
        """Null is as good as left out; empty lines do not count."""
        text = f'{{"project_id": "{ONE}", "priority": 3, "batch": null}}\n\n{{"project_id": "{TWO}"}}'
        assert taken_apart(text, "x.jsonl") == [record(1, project_id=ONE, priority=3), record(3, project_id=TWO)]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (b'{"project_id": ', "line 1: is not JSON, from character 15 on"),
            (b'"text"', "line 1: is not a JSON object"),
            (b'{"name": "caf\xe9"}', "line 1: is not UTF-8 text"),
        ],
    )
    def test_a_bad_line_is_a_problem(self, line: bytes, said: str) -> None:
        """The other lines are read all the same."""
        problem, good = taken_apart(line + f'\n{{"project_id": "{ONE}"}}'.encode(), "x.jsonl")
        assert str(problem).startswith(said)
        assert good == record(2, project_id=ONE)

    def test_an_array_says_how_to_turn_it_into_lines(self) -> None:
        """A JSON array is a common mistake with a known remedy."""
        with pytest.raises(FileUnusable, match=r"jq -c '\.\[\]'"):
            taken_apart("[{}]", "x.json")


class TestFiles:
    """Recognition of file formats."""

    @pytest.mark.parametrize("name", ["-", "x.txt", "x.jsonl", "X.NDJSON"])
    def test_json_lines_are_known_by_name_or_beginning(self, name: str) -> None:
        """Standard input has no name, so its beginning decides."""
        assert taken_apart(f'\ufeff \n{{"project_id": "{ONE}"}}', name) == [record(2, project_id=ONE)]

    def test_a_named_format_wins(self) -> None:
        """An explicit format overrides the suffix."""
        assert taken_apart(f"project_id\n{ONE}", "x.jsonl", Format.CSV) == [record(2, project_id=ONE)]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("project_id\n".encode("utf-16-le"), "UTF-16"),
            (b"PK\x03\x04rest", "export it as CSV"),
            (b"\x1f\x8brest", "unpack it first"),
        ],
    )
    def test_foreign_files_are_named(self, content: bytes, said: str) -> None:
        """A spreadsheet, an archive or another encoding is recognised and reported."""
        with pytest.raises(FileUnusable, match=said):
            taken_apart(content)

    def test_a_line_without_an_end_is_refused(self) -> None:
        """A file that is not a list of lines does not fill the memory."""
        with pytest.raises(FileUnusable, match="line 1 is longer than"):
            taken_apart("project_id" + " " * LONGEST)


class TestChecking:
    """A whole file is checked before any of it is loaded."""

    def test_keeps_what_passed_in_order(self) -> None:
        """Good rows come back as they are loaded, with their lines; the default batch fills gaps only."""
        text = f"project_id,batch,not_before\n{ONE.upper()},,2030-01-31T08:00:00+01:00\nx,,\n{TWO},own,\n"
        with checked(text, batch="all") as found:
            rows = list(found.rows())
        assert (found.lines, found.good, found.bad) == (3, 2, 1)
        assert [(row[0], row[2], row[8]) for row in rows] == [(2, ONE, "all"), (4, TWO, "own")]
        assert [str(row[10]) for row in rows] == ["2030-01-31 07:00:00+00:00", "None"]
        assert [problem.line for problem in found.problems] == [3]

    def test_tells_of_the_first_problems_only(self) -> None:
        """A file with problems throughout is counted, not copied to the screen."""
        with checked("project_id\n" + "x\n" * 500) as found:
            assert found.bad == 500
            assert len(found.problems) == SHOWN

    def test_text_that_is_no_utf_8_is_named_by_line_and_column(self, tmp_path: Path) -> None:
        """One letter in another encoding is found where it is."""
        path = tmp_path / "x.csv"
        path.write_bytes(f"project_id,description\n{ONE},caf".encode() + b"\xe9\n")
        with path.open("rb") as stream, check_file(stream, name="x.csv", seal=boxed) as found:
            assert [str(problem) for problem in found.problems] == [f"line 2, description: {NOT_UTF_8}"]

    def test_large_files_go_to_the_disk_and_come_back(self) -> None:
        """A file of many megabytes comes back whole."""
        text = "x" * 250
        with checked("project_id,description\n" + f"{ONE},{text}\n" * 30_000) as found:
            assert sum(row[2] == str(UUID(ONE)) and row[4] == text for row in found.rows()) == 30_000
