"""Interpret what OpenRouter itself says about a key: whether it is a management key.

This is checked before a create is spent on the key. Pure. A gateway's answer, or one we do not understand, is
`UNKNOWN`.
"""

from enum import StrEnum
from typing import Any, Final


class KeyKind(StrEnum):
    """The kind of a key; `UNKNOWN` while it could not be determined."""

    MANAGEMENT = "management"
    INFERENCE = "inference"
    NO_KEY = "no_key"
    UNKNOWN = "unknown"


REASONS: Final = {
    KeyKind.INFERENCE: "OpenRouter says that this is an inference key: a management (provisioning) key is needed",
    KeyKind.NO_KEY: "OpenRouter does not know this key: it is mistyped, deleted or expired",
}
_KINDS: Final = ("is_management_key", "is_provisioning_key")  # the second is the older name


def verdict_of(status: int, data: Any) -> KeyKind:
    """Interpret an answer of `GET /key`; `data` is its JSON, or None if it has none."""
    if not isinstance(data, dict):
        return KeyKind.UNKNOWN
    if status == 401 and isinstance(data.get("error"), dict):
        return KeyKind.NO_KEY
    about = data.get("data")
    if status != 200 or not isinstance(about, dict):
        return KeyKind.UNKNOWN
    said = [about[kind] for kind in _KINDS if isinstance(about.get(kind), bool)]
    if not said:
        return KeyKind.UNKNOWN
    return KeyKind.MANAGEMENT if any(said) else KeyKind.INFERENCE
