"""The columns `rotation_…` of a bulk file: with any of them a line also requests a rotation.

The rules equal the table's own constraints, so that a bad line is found with its number. Pure.
"""

from re import compile as pattern
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, PlainValidator, StringConstraints

from provisioner.core.description import LONGEST, units

PREFIX: Final = "rotation_"
_NUMBER: Final = pattern(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
_TRUTH: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_LONGEST_INTERVAL: Final = 3650  # days
_SLUG: Final = r"^[a-z0-9]+(-[a-z0-9]+)*$"

RULES: Final = {
    "rotation_name": "must be 1 to 64 lower-case letters, digits and single hyphens between them",
    "rotation_environment": "must be the slug of an environment, such as prod",
    "rotation_secret_path": "must be the path of a folder, such as / or /apps/billing",
    "rotation_secret_name": "must be a secret's name of 1 to 200 characters, without spaces, colons and slashes",
    "rotation_interval_days": f"must be a whole number of days from 1 to {_LONGEST_INTERVAL}",
    "rotation_rotate_at": "must be a time of day in UTC, such as 03:30",
    "rotation_key_name": "must be 1 to 200 characters; {project_name}, {project_id} and {environment} are filled in",
    "rotation_spend_limit": "must be a number of credits, at least 0.000001",
    "rotation_limit_reset": "must be daily, weekly or monthly",
    "rotation_include_byok": "must be true or false",
    "rotation_description": "must be text of at most 255 characters, an emoji counted as two",
    "rotation_on_conflict": "must be fail or adopt",
}


def _days(given: object) -> int:
    text = given.strip() if isinstance(given, str) else given
    number = _credits(text)
    if number != int(number) or not 1 <= number <= _LONGEST_INTERVAL:
        raise ValueError
    return int(number)


def _credits(given: object) -> float:
    if isinstance(given, str) and _NUMBER.fullmatch(given.strip()):
        return float(given)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError  # noqa: TRY004 - pydantic collects ValueError
    return float(given)


def _limit(given: object) -> float:
    number = _credits(given)
    if not 10**-6 <= number < 10**9:
        raise ValueError
    return number


def _truth(given: object) -> bool:
    found = given if isinstance(given, bool) else _TRUTH.get(str(given).strip().lower())
    if not isinstance(found, bool):
        raise ValueError  # noqa: TRY004 - pydantic collects ValueError
    return found


def _fitting(text: str) -> str:
    if units(text) > LONGEST or "\0" in text:
        raise ValueError
    return text


def _printable(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError
    return text


class RotationColumns(BaseModel):
    """The rotation that a line requests; a missing column gets the table's default."""

    rotation_name: Annotated[str, StringConstraints(max_length=64, pattern=_SLUG)] | None = None
    rotation_environment: Annotated[str, StringConstraints(max_length=64, pattern=_SLUG)] | None = None
    rotation_secret_path: Annotated[str, StringConstraints(max_length=500, pattern=r"^/([^/\s]+/)*[^/\s]*$")] | None = (
        None
    )
    rotation_secret_name: (
        Annotated[str, StringConstraints(pattern=r"^[^:/\s]{1,200}$"), AfterValidator(_printable)] | None
    ) = None
    rotation_interval_days: Annotated[int, PlainValidator(_days)] | None = None
    rotation_rotate_at: Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] | None = None
    rotation_key_name: Annotated[str, StringConstraints(max_length=200), AfterValidator(_printable)] | None = None
    rotation_spend_limit: Annotated[float, PlainValidator(_limit)] | None = None
    rotation_limit_reset: Literal["daily", "weekly", "monthly"] | None = None
    rotation_include_byok: Annotated[bool, PlainValidator(_truth)] | None = None
    rotation_description: Annotated[str, AfterValidator(_fitting)] | None = None
    rotation_on_conflict: Literal["fail", "adopt"] | None = None


ROTATION_COLUMNS: Final = tuple(RotationColumns.model_fields)
# The columns of a file of rotations, and what each is called in a file of connections.
_SHARED: Final = ("target", "project_id", "priority", "batch", "project_name", "not_before")
OF_ROTATIONS: Final = {
    **{column: column for column in _SHARED},
    "connection": "name",
    **{column.removeprefix(PREFIX): column for column in ROTATION_COLUMNS},
}
CALLED: Final = {column: name for name, column in OF_ROTATIONS.items()}
