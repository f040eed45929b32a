"""Seal API keys for the workers, and open sealed keys.

A box is a libsodium sealed box: anyone with the public key can make one, and only the private key opens it. It contains
the key, and the project and name that the key is for, so a box that is copied into another row is refused there.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from provisioner.core.errors import CredentialUnreadable, ProvisionerError
from provisioner.core.key_text import NoKey, key_in
from provisioner.core.model import Request
from provisioner.core.secret import Secret

PREFIX: Final = "sealed:"
WIPED: Final = "wiped"
PRIVATE_MODE: Final = 0o600
_OTHERS: Final = 0o077
_OTHERS_BUT_GROUP: Final = 0o037  # the group may read


class KeyFileUnusable(ProvisionerError):
    """The file of sealing keys cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingKey:
    """The public half, which seals."""

    key_id: str
    public: bytes

    @classmethod
    def of(cls, public: bytes) -> "SealingKey":
        """Return the key with the id that is derived from it."""
        return cls(key_id=f"k{hashlib.sha256(public).hexdigest()[:12]}", public=public)

    def seal(self, api_key: Secret, *, project_id: str, name: str) -> str:
        """Seal a key for one connection in one project; returns the value of a row's `credential`."""
        content = {"apiKey": api_key.reveal(), "projectId": project_id, "name": name}
        box = SealedBox(PublicKey(self.public)).encrypt(orjson.dumps(content))
        return f"{PREFIX}{self.key_id}:{base64.b64encode(box).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingPair:
    """Both halves. `line` is their representation in the key file."""

    key: SealingKey
    private: Secret

    @classmethod
    def generate(cls) -> "SealingPair":
        """Make a new pair."""
        private = PrivateKey.generate()
        return cls(
            key=SealingKey.of(bytes(private.public_key)), private=Secret(base64.b64encode(bytes(private)).decode())
        )

    @property
    def line(self) -> str:
        """The pair as a line of the key file: its id and the private key."""
        return f"{self.key.key_id} {self.private.reveal()}"


def add_to_file(path: Path, pair: SealingPair) -> None:
    """Add a pair to the key file, which only its owner can read. Raises `KeyFileUnusable`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_MODE)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            _require_private(path, os.fstat(file.fileno()))
            file.write(f"{pair.line}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise KeyFileUnusable(f"the sealing keys cannot be written to {path}: {error.strerror}") from error


def read_file(path: Path) -> Mapping[str, PrivateKey]:
    """Return the file's private keys by id; none if there is no file. Raises `KeyFileUnusable`."""
    try:
        with path.open(encoding="ascii") as file:
            _require_private(path, os.fstat(file.fileno()))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileUnusable(f"the sealing keys in {path} cannot be read: {error}") from error
    return dict(_read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip())


def _read_line(path: Path, number: int, line: str) -> tuple[str, PrivateKey]:
    key_id, _, text = line.strip().partition(" ")
    try:
        return key_id, PrivateKey(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError, TypeError, CryptoError):
        raise KeyFileUnusable(
            f"line {number} of {path} is not a sealing key; the format is `<key id> <base64>`"
        ) from None


def is_private(mode: int, *, owner: int, reader: int) -> bool:
    """Whether only its reader can see a file; `owner` and `reader` are user ids.

    Service managers and clusters own a secret as root and give the service access through its group. PostgreSQL allows
    the same for the key of its certificate.
    """
    return not mode & (_OTHERS_BUT_GROUP if owner == 0 != reader else _OTHERS)


def _require_private(path: Path, found: os.stat_result) -> None:
    if not is_private(found.st_mode, owner=found.st_uid, reader=os.geteuid()):
        raise KeyFileUnusable(f"other users can read the sealing keys in {path}; run `chmod 600 {path}`")


def _wiped(day: str) -> str:
    when = f"on {day}, some time after the request had failed" if day else "when the request had ended"
    return f"the sealed key was wiped {when}; give the row a new one and retry it"


class BoxOpener:
    """Opens sealed credentials with all keys of the key file; an unknown key id makes it read the file again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: Mapping[str, PrivateKey] = {}
        self._stamp: tuple[int, int] | None = None

    def open(self, request: Request) -> Secret:
        """Return the API key in the request's box. Raises `CredentialUnreadable`."""
        key_id, _, text = request.credential.removeprefix(PREFIX).partition(":")
        day, _, left = text.rpartition(":")
        if left == WIPED:
            raise CredentialUnreadable(_wiped(day))
        try:
            content = orjson.loads(SealedBox(self._key(key_id)).decrypt(base64.b64decode(text, validate=True)))
            key, project_id, name = content["apiKey"], content["projectId"], content["name"]
        except (binascii.Error, CryptoError, ValueError, KeyError, TypeError):
            raise CredentialUnreadable(f"the box that key {key_id} sealed is damaged; seal the API key again") from None
        if not isinstance(key, str) or not key.strip():
            raise CredentialUnreadable("the box contains no API key; seal the key again")
        try:
            secret = key_in(key)
        except NoKey as flaw:
            raise CredentialUnreadable(f"the sealed text {flaw}; seal only the API key") from None
        if (str(project_id).lower(), name) != (request.project_id.lower(), request.name):
            raise CredentialUnreadable("the box was sealed for another project or name; seal the API key for this one")
        return secret

    def _key(self, key_id: str) -> PrivateKey:
        if key_id not in self._keys:
            self._read()
        try:
            return self._keys[key_id]
        except KeyError:
            raise CredentialUnreadable(
                f"this worker has no private key {key_id}; put it into {self._path} (sealing.key_file)"
            ) from None

    def _read(self) -> None:
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            self._keys, self._stamp = read_file(self._path), stamp
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
        except (KeyFileUnusable, OSError) as error:
            raise CredentialUnreadable(str(error)) from error
