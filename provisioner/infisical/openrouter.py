"""Ask OpenRouter about a key, through the same transport: no redirect is followed, and no answer quotes the key."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import orjson
from yarl import URL

from provisioner.core.key_check import KeyKind, verdict_of
from provisioner.core.secret import Secret
from provisioner.infisical.transport import AnswerLost, NotSent, Transport, TransportOptions

TIMEOUT: Final = 5.0  # seconds: creates wait for the first answer
CONNECT_TIMEOUT: Final = 2.0  # seconds: where egress is closed, nobody waits for long
LONGEST: Final = 2**16  # bytes; an answer is about one kilobyte


class OpenRouter:
    """`core.ports.KeyChecker` at one address."""

    def __init__(self, url: str, *, proxy: Secret | Callable[[], Secret] | None = None) -> None:
        self._url = URL(url) / "key"
        self._options = TransportOptions(
            base_url=url, timeout=TIMEOUT, connect_timeout=CONNECT_TIMEOUT, proxy=proxy, max_connections=1
        )

    async def ask(self, key: Secret) -> KeyKind:
        """What OpenRouter says of the key; `UNKNOWN` if it cannot be asked just now."""
        headers = {"Authorization": f"Bearer {key.reveal()}"}
        try:
            async with Transport(self._options) as transport:
                answer = await transport.send("GET", self._url, headers, most=LONGEST)
        except (NotSent, AnswerLost, ValueError):  # the last of text that no header can hold
            return KeyKind.UNKNOWN
        data: Any = None
        with suppress(orjson.JSONDecodeError):
            data = orjson.loads(answer.body)
        return verdict_of(answer.status, data)
