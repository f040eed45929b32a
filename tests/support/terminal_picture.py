"""The picture of the terminal in the README: `python -m tests.support.terminal_picture`.

It is one moment of a real `provisioner onboard` on a terminal, in a home of its own, with a simulated Infisical that
loses answers.
"""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

BIN = Path(sys.executable).parent
PROVISIONER = BIN / "provisioner"
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "onboard.svg"
COMMAND = ["provisioner", "onboard", "--from-infisical", "--yes"]
WIDTH, HEIGHT = 100, 30
MOMENT = "6[0-9] %"  # of the progress bar
SIMULATED = ["--projects=500", "--write-limit=250", "--window=6", "--pool=0", "--latency=0.2", "--faults=html-502=0.02"]
REDRAWN = re.compile(r"\r?(?:\x1b\[2K\x1b\[1A)+\x1b\[2K")  # what precedes each frame of the progress
CLEAN = re.compile(r"\x1b\[\?25[lh]|\r")
# Rich's own frame asks a server of somebody else for its font; this one takes what the reader has.
FORMAT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, Menlo, Consolas, monospace; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def _onboard(environment: dict[str, str]) -> str:
    """What `onboard` wrote to its terminal, escape sequences and all."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(PROVISIONER, COMMAND, environment)  # noqa: S606  # our own
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    written = bytearray()
    try:
        while read := os.read(terminal, 65536):
            written += read
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.waitpid(child, 0)
    return written.decode()


def frame(written: str) -> str:
    """What stood on the screen at the moment of the picture: what was there for good, and the first frame that late."""
    lasting, *frames = REDRAWN.split(written)
    kept = lasting.rsplit("\n", 2)[0]  # the first frame follows it without an erasure
    chosen = next(one for one in frames if re.search(MOMENT, one))
    return CLEAN.sub("", f"$ {' '.join(COMMAND)}\n{kept}\n{chosen}")


def main() -> None:
    """Run it and draw it."""
    plain = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    simulator = subprocess.Popen([PROVISIONER, "simulate", *SIMULATED], stdout=subprocess.PIPE, env=plain)  # noqa: S603
    assert simulator.stdout
    try:
        told = json.loads(simulator.stdout.readline())
        with tempfile.TemporaryDirectory() as home:
            Path(home).chmod(0o755)  # root's server runs as another account
            written = _onboard(
                plain
                | {
                    "HOME": home,
                    "XDG_DATA_HOME": f"{home}/.local/share",
                    "TERM": "xterm-256color",
                    "INFISICAL_HOST": told["url"],
                    "INFISICAL_UNIVERSAL_AUTH_CLIENT_ID": told["clientId"],
                    "INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET": told["clientSecret"],
                    "OPENROUTER_PROVISIONING_KEY": "sk-or-v1-picture-mode-200",
                }
            )
            shown = frame(written).replace(home, "/home/ann").replace(told["url"], "https://infisical.example.com")
    finally:
        simulator.terminate()
        simulator.wait()
    screen = Console(record=True, width=WIDTH, file=io.StringIO())
    screen.print(Text.from_ansi(shown))
    drawn = screen.export_svg(title="provisioner onboard", code_format=FORMAT)
    PICTURE.write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n")


if __name__ == "__main__":
    main()
