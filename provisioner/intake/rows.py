"""The rules for a line, which are those of the table, checked before anything is sent.

They equal the database's own rules (`provisioner.broken_rule`), so that all bad lines are found at once, with their
numbers. Pure: no files, no clock.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from re import IGNORECASE, compile as pattern
from typing import Annotated, Any, Final, Literal, Protocol
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, StringConstraints, ValidationError

from provisioner.core.description import LONGEST, units
from provisioner.core.key_text import NoKey, key_in
from provisioner.core.secret import Secret
from provisioner.intake.errors import Problem
from provisioner.intake.rotation import OF_ROTATIONS, PREFIX, ROTATION_COLUMNS, RULES, RotationColumns

SEALED: Final = "sealed:"
API_KEY: Final = "api_key"
_SEALED: Final = pattern(r"sealed:[A-Za-z0-9_-]{1,64}:[A-Za-z0-9+/]+={0,2}")
_EMPTIED: Final = pattern(r"sealed:[A-Za-z0-9_-]{1,64}")
_CREDENTIAL: Final = pattern(r"(?!sk-)[a-z0-9][a-z0-9_-]{0,39}", IGNORECASE)
# The database negates priorities, and the smallest number of its type has no opposite.
_PRIORITY: Final = 32767
_LONGEST_KEY: Final = 1000
# Python and JSON accept more notations; spreadsheets write 5.0 for 5, and 1E+05 for a rounded number.
_WHOLE: Final = pattern(r"([+-]?[0-9]{1,9})(?:\.0{1,9})?")
_CONTROL: Final = pattern(r"[\x00-\x1f\x7f-\x9f]")
_HALF: Final = pattern("[\ud800-\udfff]")
NOT_UTF_8: Final = (
    "is not UTF-8 text; save the file as UTF-8 (in Excel: CSV UTF-8), or run "
    "`iconv -f WINDOWS-1252 -t UTF-8 FILE` if it came from an older program"
)
HALF: Final = "contains half of a character ({}), which cannot be stored; write the whole character"
_SHOWN: Final = 60  # characters of a wrong value that are shown

_RULES: Final = {
    "target": "must be the name of a configured target: 1 to 63 lower-case letters, digits and hyphens",
    "project_id": "must be the UUID of the Infisical project",
    "name": "must be 1 to 64 lower-case letters, digits and single hyphens between them",
    "description": "must be text of at most 255 characters, an emoji counted as two",
    "credential": "must be the name of a configured credential (1 to 40 letters, digits, hyphens, underscores) or "
    "sealed:<key id>:<base64>; a readable API key is never stored",
    "on_conflict": "must be fail, adopt or replace",
    "priority": f"must be a whole number from -{_PRIORITY} to {_PRIORITY}; larger goes first",
    "batch": "must be 1 to 200 characters",
    "project_name": "must be one line of 1 to 200 characters, as people call the project",
    API_KEY: f"must be an API key of 1 to {_LONGEST_KEY} printable ASCII characters without spaces, and the column "
    "credential left out",
    "not_before": (
        "must be a point in time with its offset, such as 2030-01-31T08:00:00+01:00 or 2030-01-31T07:00:00Z,"
        " before the year 9999"
    ),
    **RULES,
}
# Columns of the table, or of an export, that requesters do not set.
RESULTS: Final = frozenset(
    {
        "id",
        "state",
        "next_attempt_at",
        "key_fingerprint",
        "requested_by",
        "created_at",
        "status",
        "connection_id",
        "org_id",
        "credentials_hash",
        "adopted",
        "attempts",
        "error_code",
        "error_message",
        "finished_at",
        "kind",
        "rotation_id",
        "waits_for",
        "key_issued",
        "left_behind",
    }
)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError
    return text


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError
    return text


def _whole_number(given: object) -> int:
    if isinstance(given, str) and (found := _WHOLE.fullmatch(given.strip())):
        return int(found[1])
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= _PRIORITY:
        raise ValueError  # pydantic collects ValueError
    if given != int(given):
        raise ValueError
    return int(given)


def _credential(text: str) -> str:
    is_box = _SEALED.fullmatch(text) and 80 <= len(text) <= 5000
    if not is_box and not _CREDENTIAL.fullmatch(text):
        raise ValueError
    return text


# The table's own bounds: beyond them, a time cannot be shown in every time zone.
_FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
_TOO_LATE: Final = datetime(9999, 1, 1, tzinfo=UTC)


def _context(given: object) -> datetime:
    if not isinstance(given, str):
        raise ValueError  # noqa: TRY004  # pydantic collects ValueError
    moment = datetime.fromisoformat(given)
    if moment.tzinfo is None:
        raise ValueError
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise ValueError from None
    if not _FIRST <= moment < _TOO_LATE:
        raise ValueError
    return moment


def _api_key(given: object) -> Secret:
    if not isinstance(given, str):
        raise ValueError  # noqa: TRY004  # pydantic collects ValueError
    key = key_in(given)
    if len(key.reveal()) > _LONGEST_KEY:
        raise NoKey(f"is longer than {_LONGEST_KEY} characters")
    return key


def _fitting(text: str) -> str:
    if units(text) > LONGEST:
        raise ValueError
    return text


Stored = AfterValidator(_storable)


class Seal(Protocol):
    """Seals an API key so that only the workers can open it."""

    def __call__(self, api_key: Secret, *, project_id: str, name: str) -> str:
        """Return the value of the column credential for a key."""


class Row(RotationColumns):
    """The request in one line; a missing column gets the table's default."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    target: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "default"
    project_id: UUID
    name: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")] = "openrouter"
    description: Annotated[str, StringConstraints(max_length=LONGEST), Stored, AfterValidator(_fitting)] | None = None
    credential: Annotated[str, AfterValidator(_credential)] = "default"
    on_conflict: Literal["fail", "adopt", "replace"] = "fail"
    priority: Annotated[int, PlainValidator(_whole_number), Field(ge=-_PRIORITY, le=_PRIORITY)] = 0
    batch: Annotated[str, StringConstraints(min_length=1, max_length=200), Stored] | None = None
    project_name: Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line)] | None = (
        None
    )
    not_before: Annotated[datetime, PlainValidator(_context)] | None = None
    api_key: Annotated[Secret, PlainValidator(_api_key)] | None = None

    def sealed(self, seal: Seal) -> "Row":
        """Return the row in its stored form, with a readable key sealed."""
        if self.api_key is None:
            return self
        box = seal(self.api_key, project_id=str(self.project_id), name=self.name)
        return self.model_copy(update={"credential": box, "api_key": None})

    def columns(self) -> tuple[object, ...]:
        """Return the values in the order of `COLUMNS`."""
        return tuple(self.__dict__[name] for name in COLUMNS)


# This order is used everywhere: the columns of a connection, then those of a rotation.
SIMPLE: Final = tuple(name for name in Row.model_fields if name != API_KEY and not name.startswith(PREFIX))
COLUMNS: Final = (*SIMPLE, *ROTATION_COLUMNS)
BATCH_RULE: Final = _RULES["batch"]


def is_batch(text: str) -> bool:
    """Whether this is a valid batch label."""
    return 1 <= len(text) <= 200 and text.isprintable() and text == text.strip()


def check(line: int, values: Mapping[str, object]) -> Row | Sequence[Problem]:
    """Return the row that a line contains, or everything that is wrong with it."""
    if values.get(API_KEY) is not None and values.get("credential") is not None:
        return [Problem(line=line, column=API_KEY, problem=_RULES[API_KEY])]
    try:
        return Row.model_validate(values)
    except ValidationError as error:
        # pydantic's own messages are for programmers, and would contain the value.
        return [_problem(line, problem, values) for problem in error.errors(include_url=False)]


def unknown_column(name: str, *, rotations: bool = False) -> str:
    """Describe an unknown column in a file of connections, or of `rotations`."""
    if name in RESULTS:
        return f"{name!r} is filled in by provisioner; leave it out"
    if rotations:
        return f"{_shown(name)} is no column of rotations; there are {', '.join(OF_ROTATIONS)}"
    close = get_close_matches(name.lower(), (*COLUMNS, API_KEY), n=1)
    shown = _shown(name)
    if close:
        return f"{shown} is no column; did you mean {close[0]}?"
    return f"{shown} is no column; there are {', '.join(SIMPLE)}, {API_KEY}, and those of rotations (rotation_…)"


def shown_name(name: str) -> str:
    """Return a column name for a message, in our spelling, or in a harmless form."""
    return name if name in {*COLUMNS, API_KEY} or (name.isidentifier() and "sk-" not in name.lower()) else _shown(name)


def halves(text: str) -> str:
    """Return the first lone surrogate in a text: JSON can contain one, and no database stores it."""
    found = _HALF.search(text)
    return found[0] if found else ""


def _problem(line: int, problem: Any, values: Mapping[str, object]) -> Problem:
    column = str(problem["loc"][0])
    flaw = problem.get("ctx", {}).get("error")
    match problem["type"]:
        case _ if isinstance(flaw, NoKey):
            said = f"{flaw}: it {_RULES[column]}"
        case "extra_forbidden":
            return Problem(line=line, problem=unknown_column(column))
        case "missing":
            said = "is required: the UUID of the Infisical project"
        case "string_unicode":
            said = NOT_UTF_8
        case _:
            said = _RULES[column] + _given(column, values[column])
    return Problem(line=line, column=column, problem=said)


def _given(column: str, value: object) -> str:
    if column == "credential" and isinstance(value, str) and _EMPTIED.fullmatch(value):
        return (
            "; this one is from an export, which leaves the sealed key out: leave the column empty, or give the key "
            "again in the column api_key"
        )
    if column in {"credential", API_KEY}:
        return ""
    if column == "description" and isinstance(value, str):
        return f" (given: {units(value)} characters)" if "\0" not in value else " (given: text with a NUL)"
    return f" (given: {_shown(value)})"


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) > 10**_SHOWN:
        return f"a number of more than {_SHOWN} digits"  # Python refuses to print very long numbers
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    if "sk-" in text.lower():
        return "what looks like an API key"  # columns can be mixed up
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
