"""Counts of what the fault tests did, printed at the end of the run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

KEY: Final = "faults"
TOLD: Final = "_faults_told"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was killed, cut and lost, and how many requests were checked afterwards."""
    # This function is a hook of two conftest files, for only the upper one is loaded where tests run in parallel.
    if getattr(terminalreporter, TOLD, False):
        return
    setattr(terminalreporter, TOLD, True)
    total: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "teardown":
                for key, value in report.user_properties:
                    if key == KEY and isinstance(value, dict):
                        total.update(value)
    if total:
        terminalreporter.section("what was done to the workers")
        terminalreporter.line(", ".join(f"{count} {what}" for what, count in sorted(total.items())))
