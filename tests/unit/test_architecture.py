"""`docs/architecture.md` and CONTRIBUTING.md lead through files and functions that are where they say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.docs import DOCS, ROOT

PAGE = DOCS / "architecture.md"
PATH = re.compile(r"`((?:provisioner|migrations|tests|docs|config)(?:/[\w.-]+)+)`")
HOP = re.compile(r"^\|.*\| `([\w./-]+\.(?:py|sql))` \| `([\w.]+)` \|$", re.MULTILINE)
HOPS = HOP.findall(PAGE.read_text(encoding="utf-8"))
PAGES = [PAGE, ROOT / "CONTRIBUTING.md"]


def functions(file: Path) -> set[str]:
    """The functions of a module, those of a class behind its name; or the statements and functions of an SQL file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".sql":
        named = re.findall(r"^-- :name (\w+)$", text, re.MULTILINE)
        return {*named, *re.findall(r"^CREATE FUNCTION provisioner\.(\w+)", text, re.MULTILINE)}
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{method.name}" for method in methods}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    """Every file and folder in the documentation exists."""
    paths = PATH.findall(page.read_text(encoding="utf-8"))
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("file", "function"), HOPS)
def test_every_hop_is_where_it_says(file: str, function: str) -> None:
    """One can follow a request from function to function."""
    assert function in functions(ROOT / file)


def test_the_search_finds_the_hops() -> None:
    """The journey has many hops, from the trigger to the last statement."""
    assert len(HOPS) > 20
    assert HOPS[0][1] == "requests_inserted"
    assert {Path(file).suffix for file, _ in HOPS} == {".py", ".sql"}


def test_every_room_is_named() -> None:
    """Each folder of the package is in the table of the rooms."""
    rooms = {f"provisioner/{path.name}" for path in (ROOT / "provisioner").iterdir() if (path / "__init__.py").exists()}
    assert rooms - set(PATH.findall(PAGE.read_text(encoding="utf-8"))) == set()
