"""Parse one line of JSON Lines, more strictly than usual: nothing is guessed or silently lost."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from provisioner.intake.errors import Problem
from provisioner.intake.header import OTHER_KIND, column_of, is_export
from provisioner.intake.rows import COLUMNS, HALF, NOT_UTF_8, RESULTS, halves, shown_name

_DIGITS: Final = 40  # digits of a number; a longer one exceeds every column's range and is slow to read
_NO_LINE: Final = re.compile(r"\s*(\[|\{\s*$)")


class _Refused(ValueError):
    """Valid for some programs, but not for us."""


def is_one_document(line: str) -> bool:
    """Whether a file that begins with this line is a single JSON document instead of JSON Lines."""
    return _NO_LINE.match(line) is not None


def parse(number: int, text: str, *, rotations: bool = False) -> dict[str, object] | Problem:
    """Return a line's values by column, or what is wrong with it."""
    try:
        named = _parsed(text, rotations=rotations)
    except UnicodeEncodeError:
        return Problem(line=number, problem=NOT_UTF_8)
    except json.JSONDecodeError as error:
        return Problem(line=number, problem=f"is not JSON, from character {error.pos + 1} on")
    except RecursionError:
        return Problem(line=number, problem="is nested too deeply; a line must be a flat JSON object")
    except _Refused as error:
        return Problem(line=number, problem=str(error))
    for name, value in named.items():
        if found := halves(name) or (halves(value) if isinstance(value, str) else ""):
            return Problem(line=number, column=_column_in(name), problem=HALF.format(ascii(found)[1:-1]))
    passed_over = RESULTS if is_export(named) else frozenset[str]()
    return {name: value for name, value in named.items() if name not in passed_over}


def _parsed(text: str, *, rotations: bool) -> dict[str, Any]:
    text.encode()  # raises for lone surrogates
    given = _DECODER.decode(text)
    if not isinstance(given, dict):
        raise _Refused('is not a JSON object, such as {"project_id": "…", "name": "…"}')
    named = _object([(column_of(name, rotations=rotations), value) for name, value in given.items()])
    if is_export(named) and not rotations and "rotation_id" in named:
        raise _Refused(OTHER_KIND)
    return named


def _column_in(name: str) -> str | None:
    """Return the name if it is a known column's; the contents of others are unknown."""
    return name if name in COLUMNS else None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"names {shown_name(twice)} twice; keep one of them")
    return made


def _constant(word: str) -> NoReturn:
    raise _Refused(f"is not JSON: {word} is not a JSON number")


def _integer(digits: str) -> float | int:
    return int(digits) if len(digits) <= _DIGITS else float("inf")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer)
