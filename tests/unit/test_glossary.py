"""One word, one meaning: words that the glossary replaced are not used any more."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
# The pages hold all of help, settings, metrics, log events and error codes: other tests compare them with the code.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Of Infisical's own words, membership is one.
THEIRS = ROOT / "docs" / "infisical-api.md"

REPLACED = re.compile(
    r"\b(custody|witness|keeper|membership|glances?|setbacks?|troubles|dead letters?|held back"
    r"|credential_held|target_held|target_works|whoever|mend(s|ed|ing)?|so many)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"^\| \*\*(.+?)\*\*(?:, \*\*.+?\*\*)* \| (.+) \|$", re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if page != THEIRS], ids=lambda page: page.name)
def test_no_other_word_is_used(page: Path) -> None:
    """No page says a word that the glossary has another one for."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
    assert [f"{number}: {line}" for number, line in lines if REPLACED.search(line)] == []


def test_each_word_has_a_sentence() -> None:
    """Each word is explained once, in a sentence."""
    words = _WORD.findall(GLOSSARY.read_text(encoding="utf-8"))
    assert len(words) > 40
    assert len({word for word, _ in words}) == len(words)
    assert [word for word, meaning in words if not meaning.endswith(".")] == []
