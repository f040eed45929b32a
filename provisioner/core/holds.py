"""What all workers know together about API keys: which are refused and held back, and who may try one.

A key is known by its fingerprint: salted and cut short, so that it leads nowhere back.
"""

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from provisioner.core.secret import Secret

FINGERPRINT_LENGTH: Final = 16  # hexadecimal digits; enough to tell a fleet's keys apart
# What is held is looked at again after so long, seconds, whatever else happened.
HELD_FOR: Final = 3600.0


def fingerprint(key: Secret, salt: str) -> str:
    """What a key is known by in the database and in logs."""
    digest = hmac.digest(salt.encode(), key.reveal().encode("utf-8", "surrogatepass"), hashlib.sha256)
    return digest.hex()[:FINGERPRINT_LENGTH]


def hold_of(credential: str) -> str:
    """The word for why a request waits: its credential's key was refused."""
    return f"credential:{credential}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Whether a key may be tried.

    `accepted_ago`: it was accepted so many seconds ago, None if not lately. `held`: it was refused, and waits for
    somebody to mend it.
    """

    granted: bool
    accepted_ago: float | None = None
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
    """A key that is held back. `probing`: one request with it may go out now."""

    credential: str
    fingerprint: str
    probing: bool


class Holds(Protocol):
    """The shared knowledge about the keys of one target. Every method raises `DatabaseUnavailable`."""

    async def salt(self) -> str:
        """What fingerprints are salted with, the same for all workers."""

    async def ask(self, credential: str, fingerprint: str, *, confirming: bool) -> Leave:
        """Ask for leave to try a key that nobody here knows; few have it at a time, all workers counted together.

        `confirming`: the request was refused with this key before.
        """

    async def undecided(self, credential: str, fingerprint: str) -> None:
        """The try said nothing about the key."""

    async def accepted(self, credential: str, fingerprint: str) -> bool:
        """The key works; returns whether that released requests that were held."""

    async def suspect(self, credential: str, fingerprint: str) -> None:
        """A key that worked is refused: it has to be tried like an unknown one."""

    async def refused(self, credential: str, fingerprint: str, reason: str) -> tuple[bool, bool]:
        """The key is refused; returns whether it is held now, and whether by this refusal."""

    async def hold_back(self, credential: str) -> int:
        """Take the requests with this credential out of the line; returns how many."""

    async def held(self, fingerprints: Collection[str]) -> Sequence[HeldKey]:
        """The keys that are held. Those of ours whose time has come may be probed from now on."""

    async def release(self, credential: str, fingerprint: str) -> bool:
        """Another key has taken the place of those that were refused; returns whether requests were released."""

    async def trouble(self, reason: str | None) -> None:
        """Say why this worker holds the target, or that it works."""
