"""What a check of `doctor` says."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One precondition: whether it holds, what was seen, and how to fix it if it does not."""

    name: str
    verdict: Verdict
    said: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.said}; {self.remedy}" if self.remedy else self.said


def ok(name: str, said: str) -> Check:
    """What is as it should be."""
    return Check(name=name, verdict="ok", said=said)


def warning(name: str, said: str, remedy: str) -> Check:
    """What works, but not as well as it could, or not for long."""
    return Check(name=name, verdict="warning", said=said, remedy=remedy)


def problem(name: str, said: str, remedy: str = "") -> Check:
    """What stands in the way; `remedy` may be part of what was said already."""
    return Check(name=name, verdict="problem", said=said, remedy=remedy)
