"""Everything that the seed decides: ids, secrets, and which create meets which fault.

Standard library only, because the command line reads `FAULTS` for its help.
"""

import hashlib
from collections.abc import Mapping
from random import Random
from string import ascii_letters, digits
from uuid import UUID

__all__ = ["FAULTS", "ROTATION_FAULTS", "Faults", "Seeds", "check_shares", "parse_faults"]

FAULTS: dict[str, str] = {
    "cut-before-commit": "the connection is cut and nothing is inserted",
    "cut-after-commit": "the row is inserted, then the connection is cut without an answer",
    "late-commit": "the connection is cut at once and the row is inserted a little later",
    "error-before-commit": "500 `Create`, nothing is inserted",
    "error-after-commit": "500 `InternalServerError`, yet the row is inserted",
    "html-502": "a proxy answers 502 with a page of HTML",
    "html-503": "a proxy answers 503 with a page of HTML",
    "slow": "the create takes a second longer",
    "token-expired": "403 `TokenError`, and that access token stays dead",
    "openrouter-429": "OpenRouter throttles the check of the key: 401 at once, without a retry",
    "openrouter-down": "OpenRouter cannot be reached: 401 after the retries",
}
"""Every fault of a create by name, with its effect."""
ROTATION_FAULTS: dict[str, str] = {
    **{
        name: text.replace("the row", "the rotation")
        for name, text in FAULTS.items()
        if not name.startswith("openrouter-")
    },
    "key-refused": "OpenRouter makes no key: 400 `Failed to create OpenRouter API key`",
    "key-then-error": "OpenRouter makes the key, then 500 `Create`: the key stays behind",
    "key-then-cut": "OpenRouter makes the key, then the connection is cut: the key stays behind",
}
"""Every fault of a rotation's create."""


def check_shares(shares: Mapping[str, object], known: Mapping[str, str] = FAULTS) -> dict[str, float]:
    """Return the shares as numbers. Raises `ValueError` saying what is wrong with them."""
    checked: dict[str, float] = {}
    for name, share in shares.items():
        if name not in known:
            raise ValueError(f"unknown fault {name!r}; known are {', '.join(known)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"the share of {name} must be a number from 0 to 1, not {share!r}")
        checked[name] = float(share)
    total = sum(checked.values())
    if total > 1 + 1e-9:
        raise ValueError(f"the shares add up to {total:g}, which is more than 1")
    return checked


def parse_faults(text: str, known: Mapping[str, str] = FAULTS) -> dict[str, float]:
    """Parse `NAME=SHARE,…`, such as `cut-after-commit=0.02,html-502=0.01`. Raises `ValueError`."""
    shares: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, equals, share = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not NAME=SHARE, such as html-502=0.01")
        try:
            shares[name.strip()] = float(share)
        except ValueError:
            raise ValueError(f"the share of {name.strip()} must be a number from 0 to 1, not {share!r}") from None
    return check_shares(shares, known)


def _stream(seed: int, purpose: str) -> Random:
    """Return the random numbers for one purpose; the purposes do not disturb each other."""
    return Random(f"{seed}:{purpose}")  # noqa: S311 - repeatable on purpose, and nothing here is secret


class Faults:
    """Decides which creates meet which fault: determined by seed, shares, and the order of the creates.

    One draw belongs to one create that passed token check and rate limit. `peek` shows the draw of the next such
    create, and `advance` uses it up; a create that was refused earlier leaves it to the next one.
    """

    def __init__(self, seed: int, shares: Mapping[str, float], purpose: str = "faults") -> None:
        self._purpose = purpose
        self.struck: dict[str, int] = {}
        self.shares = shares
        self.reseed(seed)

    def share(self, shares: Mapping[str, float]) -> None:
        """Use these shares from now on; the sequence of draws continues."""
        self.shares = shares

    def reseed(self, seed: int) -> None:
        """Start the sequence of this seed."""
        self._random = _stream(seed, self._purpose)
        self._draw = self._random.random()

    def peek(self) -> str | None:
        """Return the next create's fault, if any."""
        edge = 0.0
        for name, share in self.shares.items():
            edge += share
            if self._draw < edge:
                return name
        return None

    def advance(self) -> None:
        """Use up the draw that `peek` showed."""
        self._draw = self._random.random()

    def strike(self, name: str) -> None:
        """Count a fault that took effect."""
        self.struck[name] = self.struck.get(name, 0) + 1


class Seeds:
    """All ids and secrets of the simulator."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ids, self._requests, self._nonces, self._jitter = (
            _stream(seed, purpose) for purpose in ("ids", "requests", "nonces", "jitter")
        )

    def named_uuid(self, name: str) -> str:
        """Return the id that belongs to a name, such as the organization's."""
        return str(UUID(int=_stream(self._seed, name).getrandbits(128), version=4))

    def named_secret(self, name: str) -> str:
        """Return the secret that belongs to a name: 64 hexadecimal digits."""
        return hashlib.sha256(f"{self._seed}:{name}".encode()).hexdigest()

    def uuid(self) -> str:
        """Return the next id."""
        return str(UUID(int=self._ids.getrandbits(128), version=4))

    def request_id(self) -> str:
        """Return the next `reqId`."""
        return "req-" + "".join(self._requests.choices(ascii_letters + digits, k=14))

    def ciphertext_hash(self) -> str:
        """Return the hash of a new encryption: always different, whatever was encrypted."""
        return hashlib.sha256(self._nonces.randbytes(28)).hexdigest()

    def jitter(self) -> float:
        """Return a number from 0 to 1."""
        return self._jitter.random()
