"""Look for known vulnerabilities in locked requirements: `python -m tests.support.audit FILE…`.

Exits 1 when one is known. A machine that cannot reach the list of vulnerabilities says so in a line and goes on: lack
of a network is no defect of ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

TIME = 120.0  # seconds for one file; a network that swallows packets would hold everybody up for longer


def verdict(report: dict[str, Any] | None, name: str) -> tuple[int, Sequence[str]]:
    """The exit status and what to say of one file; `report` is pip-audit's, None when there is none."""
    if report is None:
        return 0, [f"{name}: not audited, the list of known vulnerabilities cannot be reached from here"]
    packages = report["dependencies"]
    known = [
        f"{name}: {package['name']} {package['version']} has {found['id']}, mended in {found['fix_versions'] or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    unknown = sum("skip_reason" in package for package in packages)
    if unknown:
        known.append(f"{name}: {unknown} of {len(packages)} packages not audited, nothing is told about them from here")
    if not known:
        known.append(f"{name}: no vulnerability is known in {len(packages)} packages")
    return int(any(package.get("vulns") for package in packages)), known


def ask(name: str) -> dict[str, Any] | None:
    """The findings of pip-audit for a file."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [*command, "--format", "json", "--timeout", "10", "-r", name],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIME,
        )
        report: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return report


def main(names: Sequence[str]) -> int:
    """Audit each file and say what came of it; returns the exit status."""
    worst = 0
    for name in names:
        status, said = verdict(ask(name), name)
        print("\n".join(said))  # noqa: T201 - this is the answer
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
