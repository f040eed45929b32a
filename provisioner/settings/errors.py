"""Errors in the settings: one line that names the setting and how to fix it."""

from collections.abc import Iterable
from typing import Final

from provisioner.core.errors import ProvisionerError
from provisioner.core.text import printable

SHOWN: Final = 10  # problems that are listed


class SettingsError(ProvisionerError):
    """The settings are unusable; the message names what to fix. Exit status 2 on the command line."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(dict.fromkeys(map(printable, problems)))
        more = len(self.problems) - SHOWN
        told = [*self.problems[:SHOWN], *([f"and {more:,} more"] if more > 0 else [])]
        super().__init__("; ".join(told))


def listing(words: Iterable[str]) -> str:
    """Join words as in a sentence: `a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
