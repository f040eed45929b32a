"""The examples of `docs/other-languages.md` work: a worker opens what they have sealed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import provisioner, query
from tests.support.infisical import simulated

if TYPE_CHECKING:
    from tests.support.postgres import Database

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "other-languages.md"
# Where `.ci/run` puts the examples' dependencies, which the repository does not contain.
NODE_MODULES = CHECKOUT / ".tools" / "node_modules"
JAR = Path("/usr/share/java/jna.jar")
PROJECT = "8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11"
KEY = 'sk-or-v1-"recognisable"-\\4711'


def example(language: str, beginning: str) -> str:
    """The page's example in that language that begins so."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if block.startswith(beginning))
    return str(found)


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """The output of an example's program; the API key is its standard input."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(  # noqa: S603 - our own arguments
        command, cwd=cwd, env={**kept, **environ}, input=KEY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def generated(database: Database, keys: dict[str, str]) -> tuple[str, str]:
    """Make a key pair; returns what `sealing_key()` says."""
    assert provisioner("keys", "generate", database=database, more=keys).returncode == 0
    key_id, public_key = query(database, "SELECT key_id, public_key FROM provisioner.sealing_key()").split("|")
    return key_id, public_key


def ask(database: Database, box: str) -> None:
    """Insert a row with that credential."""
    query(
        database, f"INSERT INTO provisioner.connection_requests (project_id, credential) VALUES ('{PROJECT}', '{box}')"
    )


def opened(database: Database, keys: dict[str, str]) -> str:
    """Have a worker do the requests; returns how they ended."""
    with simulated("--mode", "self-hosted", "--any-project") as infisical:
        provisioner("run", "--drain", "--listen", "off", database=database, more={**infisical.variables, **keys})
        made = [connection["projectId"] for connection in infisical.state()["connections"]]
    row = query(database, "SELECT status, error_message FROM provisioner.connection_requests")
    return f"{row} {made}"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Where this host keeps its sealing keys."""
    return {"PROVISIONER_SEALING__KEY_FILE": str(tmp_path / "sealing.keys")}


def test_python(database: Database, tmp_path: Path, keys: dict[str, str]) -> None:
    """The Python example inserts a request whose key a worker opens."""
    generated(database, keys)
    (tmp_path / "request.py").write_text(example("python", "import"))
    run(sys.executable, "request.py", PROJECT, cwd=tmp_path, PROVISIONER_DATABASE_URL=database.url)
    assert opened(database, keys) == f"succeeded| ['{PROJECT}']"


def test_python_tells_that_a_row_existed(database: Database, tmp_path: Path, keys: dict[str, str]) -> None:
    """The Python example says that the connection was requested earlier, and that its new key is not used."""
    generated(database, keys)
    ask(database, "default")
    (tmp_path / "request.py").write_text(example("python", "import"))
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(  # noqa: S603 - our own arguments
        [sys.executable, "request.py", PROJECT],
        cwd=tmp_path,
        env={**kept, "PROVISIONER_DATABASE_URL": database.url},
        input=KEY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"openrouter in project {PROJECT} was requested earlier; its row keeps the key that it has\n"
    assert query(database, "SELECT credential FROM provisioner.connection_requests") == "default"


def test_node(database: Database, tmp_path: Path, keys: dict[str, str]) -> None:
    """A worker opens a box that the Node example makes."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node on this machine")
    if not (NODE_MODULES / "libsodium-wrappers").exists():
        pytest.skip(f"libsodium-wrappers is not in {NODE_MODULES}; .ci/run puts it there where npm can be used")
    key_id, public_key = generated(database, keys)
    (tmp_path / "seal.mjs").write_text(example("js", "// seal.mjs"))
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    (tmp_path / "try.mjs").write_text(
        'import { readFileSync } from "node:fs";\nimport { seal } from "./seal.mjs";\n'
        "const [keyId, publicKey, projectId] = process.argv.slice(2);\n"
        'console.log(await seal({ keyId, publicKey, projectId, apiKey: readFileSync(0, "utf8") }));\n'
    )
    ask(database, run(node, "try.mjs", key_id, public_key, PROJECT, cwd=tmp_path))
    assert opened(database, keys) == f"succeeded| ['{PROJECT}']"


def test_java(database: Database, tmp_path: Path, keys: dict[str, str]) -> None:
    """A worker opens a box that the Java example makes, and the whole example compiles."""
    java, javac = shutil.which("java"), shutil.which("javac")
    if java is None or javac is None or not JAR.exists():
        pytest.skip(f"there is no JDK, or no {JAR} (Debian: libjna-java) on this machine")
    key_id, public_key = generated(database, keys)
    (tmp_path / "Seal.java").write_text(example("java", "// Seal.java"))
    (tmp_path / "Request.java").write_text(example("java", "// Request.java"))
    (tmp_path / "Try.java").write_text(
        "public final class Try {\n  public static void main(String[] a) throws Exception {\n"
        "    String key = new String(System.in.readAllBytes());\n"
        '    System.out.println(Seal.seal(a[0], a[1], key, a[2], "openrouter"));\n  }\n}\n'
    )
    path = f"{JAR}:."
    run(javac, "-cp", path, "Seal.java", "Request.java", "Try.java", cwd=tmp_path)
    ask(database, run(java, "-cp", path, "Try", key_id, public_key, PROJECT, cwd=tmp_path))
    assert opened(database, keys) == f"succeeded| ['{PROJECT}']"
