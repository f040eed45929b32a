"""Respect the rate limit of logins, which all workers behind one address share."""

import asyncio
from collections.abc import Mapping

from yarl import URL

from provisioner.core.errors import DatabaseUnavailable, DatabaseUnusable
from provisioner.core.ports import Permits
from provisioner.infisical.parts import read_envelope, read_rate, read_retry_after
from provisioner.infisical.transport import LONGEST_ANSWER, Answer, AnswerLost, NotSent, Transport


class MeteredLogins(Transport):
    """A transport for an identity: logins wait for a permit, other requests do not."""

    def __init__(self, transport: Transport, permits: Permits) -> None:  # its connections belong to the other transport
        self._transport = transport
        self._permits = permits

    async def close(self) -> None:
        """Do nothing: the connections belong to the other transport."""

    async def send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        most: int = LONGEST_ANSWER,
    ) -> Answer:
        """Send one request and read its whole answer. Raises `NotSent` or `AnswerLost`."""
        if not url.path.endswith("/login"):
            return await self._transport.send(method, url, headers, body, most=most)
        await self._wait()
        answer: Answer | None = None
        try:
            answer = await self._transport.send(method, url, headers, body, most=most)
        except AnswerLost:
            self._permits.learn(None, metered=False, throttled_for=None)
            raise
        except NotSent:
            self._permits.give_back(1)  # else the next try would wait for an answer to this one
            raise
        finally:
            if answer is not None:
                self._learn(answer)
            await self._share()
        return answer

    async def _wait(self) -> None:
        """Wait for a permit. If the database is unavailable, log in without one: a single login does no harm."""
        while True:
            try:
                granted = await self._permits.acquire(1)
            except (DatabaseUnavailable, DatabaseUnusable):
                return
            if granted.permits:
                return
            await asyncio.sleep(granted.wait)

    def _learn(self, answer: Answer) -> None:
        pause = None
        if answer.status == 429:
            envelope = read_envelope(answer.body, secret="")
            pause = read_retry_after(answer.headers, envelope.message if envelope else "", None)
        self._permits.learn(read_rate(answer.headers), metered=answer.status < 500, throttled_for=pause)

    async def _share(self) -> None:
        try:
            await self._permits.share()
        except (DatabaseUnavailable, DatabaseUnusable):
            return  # it is shared with the next permit
