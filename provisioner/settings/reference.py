"""The settings for people to read: the reference that is made from the types, and what is in force."""

from pathlib import Path
from typing import Final

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from provisioner.core.secret import MASK, Secret
from provisioner.settings.layers import DEFAULT_URL
from provisioner.settings.shape import dotted, field_of, is_secret, paths
from provisioner.settings.values import RateLimit

UNSET: Final = "\N{EN DASH}"  # what people see where nothing is set


def settings_table() -> str:
    """Return the reference of all settings as a Markdown table."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for path in paths():
        info = field_of(path)
        if info is not None:
            secret = " (secret)" if is_secret(info) else ""
            rows.append(f"| `{dotted(path)}` | {_default(info)} | {info.description}{secret} |")
    return "\n".join(rows) + "\n"


def shown(value: object) -> str | int | float | bool | None:
    """Return a value as a program may see it: secrets masked, unset as nothing."""
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, RateLimit | Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"no setting is a {type(value).__name__}")


def displayed(value: object) -> str:
    """Return a value as people read it: `true`, a dash, a mask."""
    plain = shown(value)
    if plain is None:
        return UNSET
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def _default(info: FieldInfo) -> str:
    # A target's URL is the one value that has to be given, for every target but the one that is always there.
    if info.default is PydanticUndefined:
        return f"`{DEFAULT_URL}` for `default`"
    return UNSET if info.default is None else f"`{displayed(info.default)}`"
