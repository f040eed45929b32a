"""Search for secrets in everything that a run has left: whole or in parts, plain or encoded."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

PIECE = 12  # characters of a secret that are too many


def forms(secret: str) -> set[bytes]:
    """A secret in its possible encodings: plain, escaped, and encoded from any offset."""
    octets = secret.encode()
    written = {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)}
    written |= {octets.hex(), octets.hex().upper(), secret.encode("utf-16-le").hex()}
    for shift in range(3):
        # The first and the last characters depend on what precedes and follows the secret.
        encoded = base64.b64encode(b"\0" * shift + octets).decode()[4 if shift else 0 : -4]
        written |= {encoded, encoded.replace("+", "-").replace("/", "_")}
    return {form.encode() for form in written} | {secret.encode("utf-16-le")}


def pieces(secret: str) -> set[bytes]:
    """Every piece of every form that is long enough to give something away."""
    found = set()
    for form in forms(secret):
        # Encoded text says as much in more characters.
        size = PIECE if len(form) <= len(secret) + PIECE else PIECE * len(form) // len(secret.encode())
        found |= {form[at : at + size] for at in range(max(1, len(form) - size + 1))}
    return {piece for piece in found if b"\n" not in piece}


def find(secrets: Mapping[str, str], places: Iterable[Path], scratch: Path) -> dict[str, set[str]]:
    """Return which secrets are where: names by file. `scratch` is where the search writes its patterns."""
    owners = {piece: name for name, secret in secrets.items() for piece in pieces(secret)}
    patterns = scratch / "patterns"
    patterns.write_bytes(b"\n".join(owners) + b"\n")
    done = subprocess.run(  # noqa: S603 - our own arguments
        ["grep", "-raoF", "--null", "-f", patterns, *places],  # noqa: S607 - the system's own
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr.decode()  # 1: there is nothing
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        file, _, piece = line.rpartition(b"\0")
        found.setdefault(file.decode(), set()).add(owners.get(piece, f"?{piece!r}"))
    return found
