"""The result of a check by `doctor`."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One precondition: whether it holds, what was found, and how to fix it if it does not."""

    name: str
    verdict: Verdict
    said: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.said}; {self.remedy}" if self.remedy else self.said


def ok(name: str, said: str) -> Check:
    """Return a check that passed."""
    return Check(name=name, verdict="ok", said=said)


def warning(name: str, said: str, remedy: str) -> Check:
    """Return a check that found something suboptimal or temporary."""
    return Check(name=name, verdict="warning", said=said, remedy=remedy)


def problem(name: str, said: str, remedy: str = "") -> Check:
    """Return a check that found a problem; `remedy` may be part of `said` already."""
    return Check(name=name, verdict="problem", said=said, remedy=remedy)
