"""Every id and secret of the simulator, repeatable by its seed."""

import hashlib
from random import Random
from string import ascii_letters, digits
from uuid import UUID

__all__ = ["Seeds"]

ALPHANUMERICS = ascii_letters + digits


class Seeds:
    """One stream of randomness for each purpose, so that none disturbs the order of another."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ids = self._stream("ids")
        self._requests = self._stream("requests")
        self._nonces = self._stream("nonces")
        self._jitter = self._stream("jitter")

    def _stream(self, purpose: str) -> Random:
        return Random(f"{self._seed}:{purpose}")  # noqa: S311 - repeatable on purpose, and nothing here is secret

    def named_uuid(self, name: str) -> str:
        """Return the one id of this name, such as the organization's."""
        return str(UUID(int=self._stream(name).getrandbits(128), version=4))

    def named_secret(self, name: str) -> str:
        """Return the one secret of this name: 64 hexadecimal digits."""
        return hashlib.sha256(f"{self._seed}:{name}".encode()).hexdigest()

    def uuid(self) -> str:
        """Return the next id."""
        return str(UUID(int=self._ids.getrandbits(128), version=4))

    def request_id(self) -> str:
        """Return the next `reqId`."""
        return "req-" + "".join(self._requests.choices(ALPHANUMERICS, k=14))

    def ciphertext_hash(self) -> str:
        """Return the hash of a fresh encryption: never the same twice, whatever was encrypted."""
        return hashlib.sha256(self._nonces.randbytes(28)).hexdigest()

    def jitter(self) -> float:
        """Return a number from 0 to 1."""
        return self._jitter.random()
