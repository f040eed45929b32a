"""Our dependencies are known, and watched for vulnerabilities."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.audit import ask, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).parents[2]
LOCK = CHECKOUT / "requirements.lock"
SOUND = {"name": "sound", "version": "1", "vulns": []}
UNKNOWN = {"name": "unknown", "version": "1", "skip_reason": "not found"}
BROKEN = {"name": "broken", "version": "1", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["2"]}]}


def locked() -> dict[str, str]:
    """Every package of the lock file with its version."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\;]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_bill_of_materials_names_every_locked_package(tmp_path: Path) -> None:
    """`make sbom` lists an installation's packages with version and hash."""
    recipe = (CHECKOUT / "Makefile").read_text(encoding="utf-8").split("\nsbom:")[1].split("\n\n")[0]
    arguments = re.search(r"cyclonedx-py (.*) -o (\S+) (\S+)$", recipe, re.MULTILINE)
    assert arguments
    made = tmp_path / "sbom.json"
    subprocess.run(  # noqa: S603 - our own arguments
        [Path(sys.executable).with_name("cyclonedx-py"), *arguments[1].split(), "-o", made, arguments[3]],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    document = json.loads(made.read_text(encoding="utf-8"))
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "infisical-provisioner"
    assert len(locked()) > 20
    assert {part["name"]: part["version"] for part in document["components"]} == locked()
    assert all(part["externalReferences"][0]["hashes"] for part in document["components"])


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SOUND, SOUND], 0, "x: no vulnerability is known in 2 packages"),
        ([SOUND, UNKNOWN], 0, "x: 1 of 2 packages not audited, nothing is told about them from here"),
        ([SOUND, BROKEN], 1, "x: broken 1 has CVE-2026-1, mended in ['2']"),
    ],
)
def test_a_known_vulnerability_fails_the_check(packages: list[Mapping[str, object]], status: int, said: str) -> None:
    """A vulnerability fails `make check`; a failed query is reported, and fails nothing."""
    assert verdict({"dependencies": packages}, "x") == (status, [said])


def test_without_a_network_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the list of vulnerabilities cannot be reached, one line says so."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "")
    lock = tmp_path / "one.lock"
    lock.write_text(f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    report = ask(str(lock))
    status, (said,) = verdict(report, "one.lock")
    assert status == 0
    assert "not audited" in said
