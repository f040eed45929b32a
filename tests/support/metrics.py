"""The part of `docs/metrics.md` that is made from the code; `python -m tests.support.metrics` renews it."""

import re
from pathlib import Path

from provisioner.observe.catalogue import metrics_table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
_TABLE = re.compile(r"(<!-- metrics: [^\n]*-->\n)(.*?)(<!-- end of metrics -->)", re.DOTALL)


def renewed(text: str) -> str:
    """The document with the table as the code has it."""
    return _TABLE.sub(lambda part: f"{part[1]}\n{metrics_table()}\n{part[3]}", text)


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
