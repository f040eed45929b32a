"""Text that must not be shown: API keys, tokens, passwords.

A secret is read in one way, `reveal()`, and never by accident: not by printing, formatting, logging, pickling or
serialising an object that contains it.
"""

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

MASK: Final = "••••"  # what people see instead of a secret


class Secret:
    """Text that is never shown by accident; empty text is false."""

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    def reveal(self) -> str:
        """Return the text itself, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(_octets(self._text), _octets(other._text))

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled: its text would leave the process readable")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> "CoreSchema":
        """Make this a field type of pydantic: it accepts text or a Secret, and serialises to the mask."""
        from pydantic_core import core_schema  # noqa: PLC0415  # only pydantic calls this

        wrapped = core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strict=True))
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), wrapped],
            custom_error_type="secret_type",
            custom_error_message="must be text",
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )


def _octets(text: str) -> bytes:
    # An environment variable that is not UTF-8 arrives with lone surrogates, and must be comparable too.
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretLocation:
    """The address of a secret: a project, an environment (its slug), a folder, and a name."""

    project: str
    environment: str
    path: str
    name: str

    def __str__(self) -> str:
        """Return the address in a form for people."""
        return f"secret {self.name} in project {self.project}, environment {self.environment}, path {self.path}"
