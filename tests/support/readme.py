"""The parts of the README that are made from the code; `python -m tests.support.readme` renews them."""

import re
from pathlib import Path

from provisioner.settings.reference import settings_table

README = Path(__file__).resolve().parents[2] / "README.md"
_SETTINGS = re.compile(r"(<!-- settings: [^\n]*-->\n)(.*?)(<!-- end of settings -->)", re.DOTALL)
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def renewed(text: str) -> str:
    """The README with the settings' table as the code has it."""
    return _SETTINGS.sub(lambda part: f"{part[1]}\n{settings_table().strip()}\n\n{part[3]}", text)


def commands(text: str) -> list[str]:
    """The commands that the README tells its readers to type, in order: what follows `$ ` in console blocks."""
    return [
        command.strip()
        for block in _BLOCK.findall(text)
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)
        if command.strip()
    ]


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
