"""Certificates for tests, made by the openssl program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = shutil.which("openssl")
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate and its key, in PEM."""

    cert: Path
    key: Path


def authority(directory: Path, name: str) -> Certificate:
    """Make an authority."""
    return _made(directory, name, "-x509", "-days", "2", "-subj", f"/CN={name}")


def issued(directory: Path, name: str, by: Certificate, *, days: int = 2, common: str = "localhost") -> Certificate:
    """Let an authority certify a name; with -1 day the certificate has expired."""
    request = _made(directory, name, "-subj", f"/CN={common}", "-addext", f"subjectAltName=DNS:{common}")
    signed = directory / f"{name}.pem"
    arguments: list[str | Path] = [
        "x509",
        "-req",
        "-in",
        request.cert,
        "-CA",
        by.cert,
        "-CAkey",
        by.key,
        "-CAcreateserial",
    ]
    _openssl(*arguments, "-CAcreateserial", "-days", str(days), "-copy_extensions", "copy", "-out", signed)
    return Certificate(cert=signed, key=request.key)


def _made(directory: Path, name: str, *more: str) -> Certificate:
    made = Certificate(cert=directory / f"{name}.crt", key=directory / f"{name}.key")
    _openssl("req", *KEY, "-keyout", made.key, "-out", made.cert, *more)
    return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run([str(PROGRAM), *arguments], check=True, capture_output=True)  # noqa: S603 - our own arguments
