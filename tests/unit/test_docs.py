"""The pages in `docs/` are complete, and every link in them leads somewhere."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from provisioner.core import alerts
from provisioner.core.model import ErrorCode
from tests.support.docs import DOCS, PARTS, ROOT, pages, renewed

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("config/**/*.md")])
LINK = re.compile(r"\[[^\]\n]+\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@cache
def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    }


def broken(page: Path) -> Iterator[str]:
    """The links of a page into this repository that lead nowhere."""
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in anchors(found):
            yield f"{link}: {found.name} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """No reader is sent to a file or a heading that is not there."""
    assert list(broken(page)) == []


def test_every_page_is_in_the_index() -> None:
    """Every page is to be found from `docs/README.md`, and that from the README."""
    index = set(LINK.findall(prose(DOCS / "README.md")))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= index
    assert "docs/README.md" in LINK.findall(prose(ROOT / "README.md"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_is_made_from_the_code_is_up_to_date(page: Path) -> None:
    """No setting, command, option or metric is missing from its page, and none is described wrongly."""
    assert renewed(page) == page.read_text(encoding="utf-8"), "renew it with `python -m tests.support.docs`"


def test_every_part_has_its_place() -> None:
    """Each part that is made from the code is on a page."""
    text = "".join(page.read_text(encoding="utf-8") for page in pages())
    assert [name for name in PARTS if f"<!-- generated: {name} by" not in text] == []


def test_every_citation_of_the_api_leads_to_a_section() -> None:
    """Every section of `docs/infisical-api.md` that a comment cites exists."""
    sections = set(re.findall(r"^## (\d+)\. ", (DOCS / "infisical-api.md").read_text(encoding="utf-8"), re.MULTILINE))
    cited = {
        section
        for folder in ("provisioner", "tests", "migrations")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in {".py", ".sql"}
        for section in re.findall(r"infisical-api\.md` §(\d+)", path.read_text(encoding="utf-8"))
    }
    assert cited
    assert cited <= sections


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_has_a_section(code: ErrorCode) -> None:
    """Whoever meets an error code finds what happened, how it is recognized and what to do."""
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {code}$(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    assert section
    for part in ("**What happened.**", "**How it is recognized.**", "**What to do.**"):
        assert part in section[1]
    assert f"retry --error {code}" in section[1]


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_is_in_the_table(code: ErrorCode) -> None:
    """`docs/requests.md` says in one line what each error code means and what to do."""
    text = (DOCS / "requests.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{code}` \| [^|]+ \| [^|]+ \|$", text, re.MULTILINE)


def test_no_section_is_about_a_code_that_is_not() -> None:
    """No documented error code is obsolete."""
    sections = re.findall(r"^### (\w+)$", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(sections) == set(ErrorCode)


def sentences() -> list[str]:
    """Return the messages of `status` as patterns: inserted values may be anything."""
    tree = ast.parse(Path(alerts.__file__).read_text(encoding="utf-8"))
    return [
        "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"[^|\n]{1,20}?" for part in node.values
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr) and len(node.values) > 1
    ]


@pytest.mark.parametrize("sentence", sentences())
def test_everything_that_status_may_say_is_explained(sentence: str) -> None:
    """Each alert and each incident is in a table of `docs/errors.md`, word for word."""
    assert re.search(rf"^\| {sentence} \|", (DOCS / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_search_for_sentences_finds_them() -> None:
    """The patterns come from the code: three concerns and three incidents at least."""
    assert len(sentences()) >= 6
