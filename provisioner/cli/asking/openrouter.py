"""Check the keys of requests with OpenRouter before anything is created: named credentials and sealed keys.

Each key is checked once, however many requests use it. It is only a hint: if OpenRouter cannot be reached, or there are
more keys than can be checked in a moment, the workers find out.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from provisioner.core.errors import CredentialUnavailable, CredentialUnknown, CredentialUnreadable
from provisioner.core.key_check import REASONS, KeyKind
from provisioner.intake.rows import SEALED

if TYPE_CHECKING:
    from provisioner.core.model import Request
    from provisioner.core.ports import KeyChecker
    from provisioner.core.secret import Secret

AT_ONCE: Final = 8  # queries in flight
PATIENCE: Final = 30.0  # seconds for all of them: somebody waits at a terminal
MOST: Final = 5_000  # sealed keys that are opened; each box is different, even for the same key


class Opens(Protocol):
    """The part of a vault that is needed here."""

    async def open(self, request: "Request") -> "Secret":
        """Return the API key for a request; raises as the vaults do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysAsked:
    """Problems of credentials, by the value in the row: `missing` are not available here, `refused` are invalid."""

    missing: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


async def ask_about_keys(
    vault: Opens, asker: "KeyChecker | None", requests: "Iterable[Request]", shown: "Mapping[str, Secret] | None" = None
) -> KeysAsked:
    """Check the keys of these requests; `shown` are keys that no vault has, by credential."""
    keys, missing, boxes = dict(shown or {}), dict[str, str](), 0
    for request in requests:
        credential = request.credential
        if credential in keys or credential in missing:
            continue
        if credential.startswith(SEALED):
            boxes += 1
            if boxes > MOST:
                continue
        try:
            keys[credential] = await vault.open(request)
        except (CredentialUnknown, CredentialUnreadable, CredentialUnavailable) as error:
            missing[credential] = str(error)
    kinds = await _asked(asker, set(keys.values())) if asker is not None else {}
    refused = {credential: REASONS[kind] for credential, key in keys.items() if (kind := kinds.get(key)) in REASONS}
    return KeysAsked(missing=missing, refused=refused)


async def _asked(asker: "KeyChecker", keys: "set[Secret]") -> "Mapping[Secret, KeyKind]":
    kinds: dict[Secret, KeyKind] = {}
    left = iter(keys)

    async def work() -> None:
        for key in left:
            kinds[key] = await asker.ask(key)
            if kinds[key] is KeyKind.UNKNOWN:
                return  # it cannot be reached, or limits the rate

    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(keys))):
                group.create_task(work())
    except TimeoutError:
        pass
    return kinds
