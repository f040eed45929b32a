"""What can be wrong with a bulk file, in words that say how to fix it."""

from dataclasses import dataclass

from provisioner.core.errors import ProvisionerError


class FileUnusable(ProvisionerError):
    """The file cannot be read as a list of requests; nothing was loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with one line, counted from 1; `column` is None if no single column is at fault.

    `lines` is how many lines are lost: more than one if a quotation mark swallowed the following ones.
    """

    line: int
    lines: int = 1
    column: str | None = None
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}{f', {self.column}' if self.column else ''}: {self.problem}"
