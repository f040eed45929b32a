"""Commands in messages can be copied and run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.cli.terminal.output import program


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script in an environment below a folder."""
    script = tmp_path / "my place" / "bin" / "provisioner"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\nprintf started\n")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("where", ["beside", "below", "elsewhere", "on the path"])
def test_the_program_is_named_as_it_can_be_called(
    script: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """Relative below the present folder, by its bare name where the path finds it, and else absolute."""
    folder = {"beside": tmp_path, "below": script.parent.parent}.get(where, Path("/usr"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", f"{script.parent if where == 'on the path' else '/nowhere'}:/usr/bin:/bin")
    word = program()
    assert subprocess.check_output(["/bin/sh", "-c", word], cwd=folder, text=True) == "started"  # noqa: S603  # our own
    assert (
        word
        == {
            "beside": "'my place/bin/provisioner'",
            "below": "bin/provisioner",
            "elsewhere": f"'{script}'",
            "on the path": "provisioner",
        }[where]
    )


def test_a_module_is_named_with_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who runs the module may have no script."""
    monkeypatch.setattr(sys, "argv", [str(Path(__file__).parents[2] / "provisioner" / "__main__.py")])
    assert program() == f"{sys.executable} -m provisioner"
