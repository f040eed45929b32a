"""What a value of a setting may be. Each check returns the value or raises `ValueError` that says what is wrong."""

from collections.abc import Callable, Mapping
from datetime import datetime
from math import isfinite
from typing import TypeVar, cast

from provisioner.sandbox.simulator.validation import UUID

__all__ = [
    "any_text",
    "boolean",
    "choice",
    "integer",
    "list_of",
    "mapping",
    "moment",
    "number",
    "optional",
    "text",
    "uuid",
]

T = TypeVar("T")
Check = Callable[[object], T]


def number(*, least: float | None = None, above: float | None = None) -> Check[float]:
    """Return the check of a finite number within bounds."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"must be a number, not {value!r}")
        if least is not None and value < least:
            raise ValueError(f"must be at least {least:g}, not {value!r}")
        if above is not None and value <= above:
            raise ValueError(f"must be more than {above:g}, not {value!r}")
        return float(value)

    return check


def integer(*, least: int | None = None) -> Check[int]:
    """Return the check of a whole number."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number, not {value!r}")  # noqa: TRY004 - one kind of error for callers
        if least is not None and value < least:
            raise ValueError(f"must be at least {least}, not {value!r}")
        return value

    return check


def choice(*choices: object) -> Check[str]:
    """Return the check of one word out of a few."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"must be one of {', '.join(map(str, choices))}, not {value!r}")
        return value

    return check


def boolean(value: object) -> bool:
    """Check a truth value."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")  # noqa: TRY004 - one kind of error for callers
    return value


def text(value: object) -> str:
    """Check a text that says something. The message does not repeat it: it may be a secret."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def any_text(value: object) -> str:
    """Check a text, which may be empty. The message does not repeat it: it may be a secret."""
    if not isinstance(value, str):
        raise ValueError("must be a text")  # noqa: TRY004 - one kind of error for callers
    return value


def uuid(value: object) -> str:
    """Check a UUID and write it in lower case."""
    if not isinstance(value, str) or not UUID.match(value):
        raise ValueError(f"must be a UUID, not {value!r}")
    return value.lower()


def moment(value: object) -> float:
    """Check a time in ISO 8601 with a zone; return seconds since 1970."""
    try:
        parsed = datetime.fromisoformat(cast("str", value))
    except (TypeError, ValueError):
        raise ValueError(f"must be a time such as 2026-11-23T17:02:28.690Z, not {value!r}") from None
    if parsed.tzinfo is None:
        raise ValueError(f"must name its time zone, such as Z: {value!r}")
    return parsed.timestamp()


def mapping(value: object) -> Mapping[str, object]:
    """Check a JSON object."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must be an object, not {value!r}")  # noqa: TRY004 - one kind of error for callers
    return value


def optional(check: Check[T]) -> Check[T | None]:
    """Return the check that lets null pass as well."""
    return lambda value: None if value is None else check(value)


def list_of(check: Check[T]) -> Check[list[T]]:
    """Return the check of a list of such values."""

    def check_all(value: object) -> list[T]:
        if not isinstance(value, list | tuple | set | frozenset):
            raise ValueError(f"must be a list, not {value!r}")  # noqa: TRY004 - one kind of error for callers
        return [check(item) for item in value]

    return check_all
