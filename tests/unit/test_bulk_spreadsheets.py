"""Bulk files as spreadsheets and scripts write them: read as they are meant, or refused with a hint."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from provisioner.core.formulas import escaped, unescaped
from provisioner.intake.checked import check_file
from provisioner.intake.errors import FileUnusable, Problem
from provisioner.intake.reading import Record, read
from provisioner.intake.rows import COLUMNS, Row, check
from provisioner.reports.document import Heading
from provisioner.reports.forms import Form, begin

if TYPE_CHECKING:
    from provisioner.core.secret import Secret


ONE = "7b6c9d8e-1f2a-4b3c-8d4e-5f6a7b8c9d0e"
TWO = "00000000-0000-4000-8000-000000000002"


def sealed(api_key: Secret, *, project_id: str, name: str) -> str:
    """A substitute for sealing, which reading a file does not depend on."""
    return f"sealed:k1:{len(api_key.reveal()):076d}{len(project_id) + len(name):04d}"


def taken_apart(content: bytes | str, name: str = "x.csv") -> list[Record | Problem]:
    """Read a file of this content and name."""
    octets = content.encode() if isinstance(content, str) else content
    return list(read(io.BufferedReader(io.BytesIO(octets)), name=name))


def values(content: bytes | str, name: str = "x.csv") -> list[dict[str, object]]:
    """Return the values of a file's lines, all of them valid."""
    found = taken_apart(content, name)
    assert all(isinstance(each, Record) for each in found), found
    return [each.values for each in found if isinstance(each, Record)]


def problems(content: bytes | str, name: str = "x.csv") -> list[str]:
    """Return everything that is wrong with the lines of a file."""
    octets = content.encode() if isinstance(content, str) else content
    with check_file(io.BufferedReader(io.BytesIO(octets)), name=name, seal=sealed) as checked:
        return [str(problem) for problem in checked.problems]


class TestHeaders:
    """A header is understood however people write it."""

    @pytest.mark.parametrize(
        "written",
        [
            *("project_id", "Project ID", "project-id", "PROJECT_ID", "projectId", "Project\u00a0ID", "Project.Id"),
            *(
                "\u201cProject ID\u201d",
                "\N{LEFT SINGLE QUOTATION MARK}project id",
                " project  id ",
                "\ufeffproject_id",
            ),
        ],
    )
    def test_a_name_is_known_in_its_usual_ways(self, written: str) -> None:
        """Case, spaces, hyphens, non-breaking spaces and typographic quotes make no other column of it."""
        assert values(f"{written},name\n{ONE},a\n") == [{"project_id": ONE, "name": "a"}]
        assert values(json.dumps({written: ONE}) + "\n", "x.jsonl") == [{"project_id": ONE}]

    def test_a_projects_name_has_a_column(self) -> None:
        """The project's name for people is loaded too."""
        assert values(f"Project ID,Project name\n{ONE},Cash Desk\n") == [
            {"project_id": ONE, "project_name": "Cash Desk"}
        ]

    def test_two_ways_to_write_one_name_are_one_too_many(self) -> None:
        """A duplicate column is named in our spelling."""
        with pytest.raises(FileUnusable, match="names project_id twice"):
            taken_apart(f"project_id,Project ID\n{ONE},{TWO}\n")

    @pytest.mark.parametrize("end", ["", ",", ",,,"])
    @pytest.mark.parametrize("filling", ["", ",", ", ,\u00a0"])
    def test_empty_columns_are_passed_over(self, end: str, filling: str) -> None:
        """A spreadsheet adds columns in which nothing is, to the header or to some lines."""
        assert values(f"project_id,name{end}\n{ONE},a{filling}\n,,\n,,,,\n{TWO},b\n") == [
            {"project_id": ONE, "name": "a"},
            {"project_id": TWO, "name": "b"},
        ]

    def test_a_column_without_a_name_holds_nothing(self) -> None:
        """Values in a column without a name are not dropped silently."""
        assert values(f"project_id,,name\n{ONE},,a\n") == [{"project_id": ONE, "name": "a"}]
        (problem,) = problems(f"project_id,,name\n{ONE},x,a\n")
        assert problem == "line 2: has a value in column 2, which has no name; name the column or empty it"

    @pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_excels_own_first_line_names_the_delimiter(self, first: str, end: str) -> None:
        """`sep=;` is for spreadsheets, and counts as a line."""
        text = f"{first}{end}project_id;description{end}{ONE};a, b{end}x;{end}"
        record, bad = taken_apart(text)
        assert record == Record(line=3, values={"project_id": ONE, "description": "a, b"})
        assert bad.line == 4

    def test_the_columns_of_an_export_are_passed_over(self) -> None:
        """The output of `export` can be edited and submitted: its result columns are ignored."""
        header = "id,target,project_id,name,created_at,state,attempts,connection_id"
        assert values(f"{header}\n7,default,{ONE},a,2030-01-01T00:00:00+00:00,succeeded,1,{TWO}\n") == [
            {"target": "default", "project_id": ONE, "name": "a"}
        ]
        line = {"id": 7, "project_id": ONE, "created_at": "2030", "state": "failed", "adopted": False}
        assert values(json.dumps(line), "x.jsonl") == [{"project_id": ONE}]


class TestEncodings:
    """Text in the encodings that spreadsheets write."""

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    def test_unicode_with_a_mark_is_read(self, encoding: str) -> None:
        """Excel's "Unicode text" is UTF-16 with tabs between the cells."""
        mark = "\ufeff" if encoding[-3:] in {"-le", "-be"} else ""
        text = f"{mark}Project ID\tDescription\r\n{ONE}\tgr\u00fc\u00df\u00ad\U0001f511\r\n"
        assert values(text.encode(encoding), "x.txt") == [
            {"project_id": ONE, "description": "gr\u00fc\u00df\u00ad\U0001f511"}
        ]

    def test_json_lines_with_a_mark_are_told_from_a_table(self) -> None:
        """Output that PowerShell redirects is UTF-16, whatever it contains."""
        assert values(f'{{"project_id": "{ONE}"}}\r\n'.encode("utf-16"), "x.txt") == [{"project_id": ONE}]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("project_id\n".encode("utf-16-le"), "is UTF-16 text without a byte order mark"),
            ("project_id\n".encode("utf-32"), "is UTF-32 text"),
            (b"\n<!DOCTYPE html>\n<title>requests</title>", "is a page, not a list"),
            (b"\xff\xfep\0r\0o\0j\0e\0c\0t\0_\0i\0d\0\n\0x", "is cut off"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, content: bytes, said: str) -> None:
        """An encoding without a mark is not guessed."""
        with pytest.raises(FileUnusable, match=said):
            taken_apart(content)

    @pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
    def test_an_older_encoding_gets_a_hint(self, name: str) -> None:
        """Text that looks like Windows-1252 is reported, with two ways to fix it."""
        text = {
            "x.csv": f"project_id,description\n{ONE},caf\u00e9\n",
            "x.jsonl": f'{{"description": "caf\u00e9", "project_id": "{ONE}"}}\n',
        }
        (problem,) = problems(text[name].encode("windows-1252"), name)
        assert "is not UTF-8 text; save the file as UTF-8 (in Excel: CSV UTF-8)" in problem
        assert "iconv -f WINDOWS-1252 -t UTF-8" in problem


class TestQuotes:
    """An unclosed quotation mark swallows lines, and all of them are reported."""

    def test_lines_that_a_quote_swallows_are_counted(self) -> None:
        """To the end of the file: the problem names the lines, and each counts as left out."""
        text = f'project_id,name\n{ONE},a\n{TWO},"b\n' + "".join(f"{UUID(int=n)},c\n" for n in range(4))
        with check_file(io.BufferedReader(io.BytesIO(text.encode())), name="x.csv", seal=sealed) as checked:
            (problem,) = checked.problems
            assert str(problem).startswith("line 3: is not CSV: ")
            assert "lines 3 to 7 belong to it" in str(problem)
            assert (checked.lines, checked.good, checked.bad) == (6, 1, 5)

    def test_a_quote_that_the_next_one_closes_is_noticed(self) -> None:
        """Two open quotes make a valid cell of several lines, but lines that look like requests are not part of one."""
        text = f'project_id,description\n{ONE},"a\n{TWO},b\n{TWO},"\n{TWO},z\n'
        first, good = taken_apart(text)
        assert str(first).startswith("line 2: a quoted cell contains what look like lines of the file (2 to 4)")
        assert good == Record(line=5, values={"project_id": TWO, "description": "z"})

    def test_line_breaks_in_a_text_are_no_lines(self) -> None:
        """A description of several lines is one cell."""
        assert values(f'project_id,description\n{ONE},"a\r\nb\n\nc, ""d"""\n') == [
            {"project_id": ONE, "description": 'a\r\nb\n\nc, "d"'}
        ]

    def test_a_gigantic_cell_is_a_problem_of_its_line(self) -> None:
        """A million characters are no description, and the next line is read."""
        text = f"project_id,description\n{ONE},{'x' * 1_000_000}\n{TWO},b\n"
        assert problems(text) == [
            "line 2: is not CSV: a cell is longer than 131072 characters; is a quotation mark missing?"
        ]


class TestJson:
    """JSON Lines keep what other programs lose."""

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (f'{{"project_id": "{ONE}", "project_id": "{TWO}"}}', "line 1: names project_id twice; keep one of them"),
            (f'{{"project_id": "{ONE}", "Project ID": "{TWO}"}}', "line 1: names project_id twice; keep one of them"),
            (f'{{"project_id": "{ONE}", "name": {{"a": 1, "a": 2}}}}', "line 1: names a twice; keep one of them"),
            (f'{{"project_id": "{ONE}", "name": [{{"a": 1, "a": 1}}]}}', "line 1: names a twice; keep one of them"),
            ('{"sk-or-v1-x": 1, "sk-or-v1-x": 2}', "line 1: names what looks like an API key twice; keep one of them"),
        ],
    )
    def test_a_doubled_key_is_refused(self, line: str, said: str) -> None:
        """Which of the two was meant is not guessed, at any depth."""
        assert problems(line, "x.jsonl") == [said]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ('{"priority": NaN}', "is not JSON"),
            ('{"priority": Infinity}', "is not JSON"),
            ('{"priority": -Infinity}', "is not JSON"),
            (
                '{"description": "\\ud800"}',
                "line 1, description: contains half of a character (\\ud800), which cannot be stored",
            ),
            ('{"\\ud800": 1}', "contains half of a character"),
            ('{"description": "a\nb"}', "is not JSON"),
            ("{'project_id': 1}", "is not JSON"),
            ("[" * 100_000, "is a JSON array"),
            ('{"a": ' + "[" * 100_000, "is nested too deeply"),
            ('{"a": 1} {"b": 2}', "is not JSON"),
            ('{"a": 1},', "is not JSON"),
        ],
    )
    def test_what_is_no_json_is_named(self, line: str, said: str) -> None:
        """Words that only some programs take for numbers, and lone surrogates, are reported with their line."""
        try:
            found = problems(line, "x.jsonl")
        except FileUnusable as error:
            found = [str(error)]
        assert said in found[0]

    @pytest.mark.parametrize(
        "text", ['[\n{"project_id": "x"}\n]', '\n [{"project_id": "x"}]', '{\n  "project_id": "x"\n}']
    )
    def test_json_over_several_lines_gets_a_hint(self, text: str) -> None:
        """An array, or an object formatted for people, is reported with the command that converts it."""
        with pytest.raises(FileUnusable, match="jq -c"):
            taken_apart(text, "x.json")

    @pytest.mark.parametrize("line", [{"batch": ""}, {"batch": "  "}, {"description": ""}, {"batch": None}])
    def test_an_empty_text_is_left_out(self, line: dict[str, object]) -> None:
        """Empty text and null say nothing, as an empty cell does."""
        assert values(json.dumps({"project_id": ONE, **line}), "x.jsonl") == [{"project_id": ONE}]


class TestNumbers:
    """A priority is a whole number, in both formats alike."""

    @pytest.mark.parametrize("given", [5, 5.0, "5", "5.0", "+5", " 5 ", "05"])
    def test_whole_numbers_are_taken(self, given: object) -> None:
        """As a number or as text, with an empty fraction as spreadsheets write it."""
        row = check(1, {"project_id": ONE, "priority": given})
        assert isinstance(row, Row)
        assert row.priority == 5

    @pytest.mark.parametrize(
        "given",
        [
            True,
            False,
            5.5,
            "5.5",
            "1E+02",
            "1e2",
            "1_0",
            "1,000",
            "\u0665",
            "",
            "0x10",
            [5],
            1e300,
            10**400,
            float("nan"),
            "9" * 5000,
        ],
    )
    def test_what_is_no_whole_number_is_refused(self, given: object) -> None:
        """A boolean is not a number, nor is a long number that a spreadsheet rounded."""
        found = check(1, {"project_id": ONE, "priority": given})
        assert not isinstance(found, Row)
        assert str(found[0]).startswith("line 1, priority: must be a whole number from -32767 to 32767")

    @pytest.mark.parametrize("line", ['{"priority": true}', '{"priority": 1e999}', '{"priority": ' + "9" * 5000 + "}"])
    def test_json_numbers_out_of_reach_are_refused(self, line: str) -> None:
        """Whatever a number is, the line is named."""
        (problem,) = problems(line.replace("{", f'{{"project_id": "{ONE}", '), "x.jsonl")
        assert problem.startswith("line 1, priority: must be a whole number")
        assert len(problem) < 200


@pytest.mark.parametrize(
    "written",
    [
        ONE.upper(),
        f"{{{ONE}}}",
        f"{{{ONE.upper()}}}",
        f"urn:uuid:{ONE}",
        ONE.replace("-", ""),
        f"\u00a0{ONE}\u200b",
        f"\u200e{ONE}",
    ],
)
def test_a_project_is_known_in_its_usual_ways(written: str) -> None:
    """Braces, upper case, a URN, invisible characters from a copied page: it is the same project."""
    (line,) = values(f"project_id\n{written}\n")
    row = check(1, line)
    assert isinstance(row, Row)
    assert str(row.project_id) == ONE


@pytest.mark.parametrize("given", ["", "x" * 201, "a\nb", "a\x1b[0m", "a\x85b", "a\0b", 5, True, ["a"], "\ud800"])
def test_a_projects_name_is_bounded(given: object) -> None:
    """One line of text without control characters, or the line is named."""
    found = check(3, {"project_id": ONE, "project_name": given})
    assert not isinstance(found, Row)
    assert (found[0].line, found[0].column) == (3, "project_name")


def test_a_projects_name_may_be_in_any_language() -> None:
    """Letters of any script and emoji are text."""
    row = check(1, {"project_id": ONE, "project_name": "\u4f1a\u8a08 \U0001f4b0"})
    assert isinstance(row, Row)
    assert row.project_name == "\u4f1a\u8a08 \U0001f4b0"


class TestFormulas:
    """Text that a spreadsheet would run as a formula is written escaped, and read back unchanged."""

    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "'=1", "''@x"])
    def test_what_begins_like_a_formula_gets_an_apostrophe(self, text: str) -> None:
        """The apostrophe tells a spreadsheet that this is text."""
        assert escaped(text) == f"'{text}"

    @pytest.mark.parametrize("text", ["", "a=1", "'", "'a", "it's", "1-2"])
    def test_other_text_stays(self, text: str) -> None:
        """Other descriptions are not changed."""
        assert escaped(text) == text
        assert unescaped(text) == text

    @given(st.text() | st.text("'=+-@\t\r\n a", max_size=6))
    def test_it_comes_back_unchanged(self, text: str) -> None:
        """Whatever a text is, reading undoes what writing did."""
        assert unescaped(escaped(text)) == text
        assert not escaped(text).startswith(("=", "+", "-", "@", "\t", "\r"))

    def test_a_cell_is_read_as_it_was_meant(self) -> None:
        """In CSV the apostrophe is taken off; in JSON Lines, which no spreadsheet opens, it is part of the text."""
        assert values(f"project_id,description\n{ONE},'=1+1\n") == [{"project_id": ONE, "description": "=1+1"}]
        assert values(json.dumps({"project_id": ONE, "description": "'=1"}), "x.jsonl")[0]["description"] == "'=1"


LETTERS = (
    st.characters(codec="utf-8", exclude_characters="\0")
    | st.sampled_from(",;\t\r\n'\"=+-@ a\u00e9\u2028\x85\U0001f511")
    | st.characters(codec="utf-8", exclude_characters="\0")
)
TEXTS = st.text(LETTERS, max_size=12)
ROWS = st.fixed_dictionaries(
    {
        "project_id": st.uuids().map(str),
        "description": st.none() | TEXTS,
        "batch": st.none() | TEXTS.map(lambda text: f"={text}="),
        "project_name": st.none() | TEXTS.map(lambda text: "-" + "".join(filter(str.isprintable, text)) + "."),
        "priority": st.integers(-32767, 32767),
        "on_conflict": st.sampled_from(["fail", "adopt", "replace"]),
        "not_before": st.none() | st.datetimes(timezones=st.just(UTC)),
        "state": st.just("failed"),
        "adopted": st.booleans(),
        "created_at": st.just(datetime(2030, 1, 1, tzinfo=UTC)),
        "error_message": st.none() | TEXTS,
        "id": st.integers(1, 2**63 - 1),
    }
)


@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from([Form.CSV, Form.JSONL]), st.booleans())
def test_any_export_comes_back(rows: list[dict[str, object]], form: Form, bom: bool) -> None:
    """Whatever is in the table, a file that was exported asks for the same, character by character."""
    stream = io.StringIO()
    columns = sorted(rows[0])
    writer = begin(form, stream, columns, heading=Heading(title="", made_at=datetime(2030, 1, 1, tzinfo=UTC)), bom=bom)
    for row in rows:
        writer.write([row[column] for column in columns])
    asked = values(stream.getvalue(), f"x.{form}")
    for row, back in zip(rows, asked, strict=True):
        wanted = {name: value for name, value in row.items() if name in COLUMNS and value not in {None, ""}}
        found = {**back, "priority": int(str(back["priority"]))}
        if "not_before" in found:
            found["not_before"] = datetime.fromisoformat(str(found["not_before"]))
        assert found == wanted


def test_columns_are_those_of_the_table() -> None:
    """The order in which rows are loaded."""
    assert (
        *("target", "project_id", "name", "description", "credential", "on_conflict", "priority", "batch"),
        *("project_name", "not_before"),
        *("rotation_name", "rotation_environment", "rotation_secret_path", "rotation_secret_name"),
        *("rotation_interval_days", "rotation_rotate_at", "rotation_key_name", "rotation_spend_limit"),
        *("rotation_limit_reset", "rotation_include_byok", "rotation_description", "rotation_on_conflict"),
    ) == COLUMNS


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_delimiters_are_found_in_the_header(mark: str) -> None:
    """Whatever a program puts between the cells."""
    assert values(f"project_id{mark}name{mark}description\n{ONE}{mark}a{mark}b, c\n".replace("b, c", "b c")) == [
        {"project_id": ONE, "name": "a", "description": "b c"}
    ]


def test_the_id_of_a_project_is_not_taken_for_a_requests() -> None:
    """A list of projects by id gets a hint about the right column."""
    with pytest.raises(FileUnusable, match=r"column id, .* if it is the project's UUID, call the column project_id"):
        taken_apart(f"id,name\n{ONE},a\n")
