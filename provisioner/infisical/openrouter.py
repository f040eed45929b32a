"""Ask OpenRouter about a key, over the same transport: redirects are not followed, and answers never quote the key."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import orjson
from yarl import URL

from provisioner.core.key_check import KeyKind, verdict_of
from provisioner.core.secret import Secret
from provisioner.infisical.transport import AnswerLost, NotSent, Transport, TransportOptions

TIMEOUT: Final = 5.0  # seconds: creates wait for the first answer
CONNECT_TIMEOUT: Final = 2.0  # seconds: short, for hosts whose egress is closed
LONGEST: Final = 2**16  # bytes; an answer is about one kilobyte


class OpenRouter:
    """`core.ports.KeyChecker` at one address."""

    def __init__(self, url: str, *, proxy: Secret | Callable[[], Secret] | None = None) -> None:
        self._url = URL(url) / "key"
        self._options = TransportOptions(
            base_url=url, timeout=TIMEOUT, connect_timeout=CONNECT_TIMEOUT, proxy=proxy, max_connections=1
        )

    async def ask(self, key: Secret) -> KeyKind:
        """Return the kind of a key; `UNKNOWN` if it cannot be determined now."""
        headers = {"Authorization": f"Bearer {key.reveal()}"}
        try:
            async with Transport(self._options) as transport:
                answer = await transport.send("GET", self._url, headers, most=LONGEST)
        except (NotSent, AnswerLost, ValueError):  # the last for text that no header can contain
            return KeyKind.UNKNOWN
        data: Any = None
        with suppress(orjson.JSONDecodeError):
            data = orjson.loads(answer.body)
        return verdict_of(answer.status, data)
