"""The house keeps its shape: small modules, small functions, arrows that point down, SQL in its own rooms."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import provisioner

PACKAGE = Path(provisioner.__file__).parent
CHECKOUT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Signs, not goals: beyond them a module asks which two rooms it is, and a function which two steps.
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
SPEAKS_SQL = re.compile(
    r"\b(SELECT\s|INSERT INTO\s|UPDATE\s+\w+\s+SET\s|DELETE FROM\s|CREATE (TABLE|DATABASE|ROLE)\s|LISTEN\s|NOTIFY\s)"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def named(path: Path) -> str:
    """A module as the failure shows it."""
    return str(path.relative_to(CHECKOUT))


def parsed(path: Path) -> ast.Module:
    """A module's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


def docstring(node: Definition | ast.Module) -> ast.AST | None:
    """The node of a definition's docstring."""
    first = node.body[0] if node.body else None
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first.value if isinstance(first, ast.Expr) and is_text and isinstance(ast.get_docstring(node), str) else None


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    """The public definitions: neither private nor local to a function."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Every string of a module that is not a docstring."""
    documented = [node for node in ast.walk(tree) if isinstance(node, Definition | ast.Module)]
    docstrings = {id(docstring(node)) for node in documented}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_modules_stay_small() -> None:
    """No module grows past four hundred lines."""
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert MODULES
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_functions_stay_small() -> None:
    """No function grows past sixty lines, its docstring included."""
    lengths = {
        f"{named(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in MODULES
        for node in ast.walk(parsed(path))
        if isinstance(node, Function)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_everything_public_says_what_it_is_for() -> None:
    """Each module, public class and public function has a docstring."""
    silent = [named(path) for path in MODULES if not ast.get_docstring(parsed(path))]
    silent += [
        f"{named(path)}:{node.name}"
        for path in MODULES
        for node in public(parsed(path).body)
        if not ast.get_docstring(node)
    ]
    assert silent == []


def test_sql_stays_in_its_rooms() -> None:
    """Only the PostgreSQL rooms hold statements; the rest asks them."""
    # It sorts a file by the standard library's SQLite, and asks PostgreSQL nothing.
    sorter = PACKAGE / "cli" / "bulk" / "sorted_lines.py"
    # It makes the embedded database in PostgreSQL's single-user mode, before there is a server to ask.
    maker = PACKAGE / "embedded" / "supervisor.py"
    outside = [path for path in MODULES if PACKAGE / "postgres" not in path.parents and path not in {sorter, maker}]
    spoken = [
        f"{named(path)}:{node.lineno}"
        for path in outside
        for node in texts(parsed(path))
        if SPEAKS_SQL.search(str(node.value))
    ]
    assert spoken == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('def f():\n    """SELECT 1 in a docstring."""\n', False),
        ('x = "SELECT 1"\n', True),
        ('x = f"DELETE FROM {table}"\n', True),
        ('x = "select one of them"\n', False),
    ],
)
def test_sql_is_recognised(text: str, found: bool) -> None:
    """The search finds statements in strings, and takes no docstring for one."""
    assert any(SPEAKS_SQL.search(str(node.value)) for node in texts(ast.parse(text))) is found


def test_arrows_point_down() -> None:
    """The import contracts of `pyproject.toml` hold."""
    done = subprocess.run(  # noqa: S603 - our own tool and arguments
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["ports.py", "background_ports.py"])
def test_ports_are_protocols_only(file: str) -> None:
    """The worker's needs are protocols; the values they exchange are defined elsewhere."""
    body = parsed(PACKAGE / "core" / file).body
    others = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | ast.Expr)]
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    assert others == []
    assert classes
    assert [node.name for node in classes if [ast.unparse(base) for base in node.bases] != ["Protocol"]] == []


def test_nothing_is_cast_to_a_class_of_ours() -> None:
    """An implementation behind a port is passed by the builder, and never guessed by the user."""
    nodes = [node for path in MODULES for node in ast.walk(parsed(path))]
    ours = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    cast = {
        ast.unparse(node.args[0]).strip("'\"")
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"cast", "typing.cast"}
    }
    assert cast
    assert not cast & ours
