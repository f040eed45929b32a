"""The part of a worker that tells others: beside its requests, which never wait for it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from provisioner.core.errors import DatabaseUnavailable, ProvisionerError, StatementRefused
from provisioner.core.notices import is_given_up, pause_after
from provisioner.core.ports_beside import Outbox, Receiver

log = structlog.stdlib.get_logger()

# The fleet looks every so many seconds, by whichever worker comes first; one small statement for each of the others.
EVERY: Final = 10.0
# A worker that has had nothing to do for so long looks more seldom: what needs a person shows at work.
RESTED: Final = 30.0
SELDOM: Final = 300.0
# What failed is left alone for so long at first, seconds, and for so long at last.
FIRST_PAUSE: Final = 10.0
LAST_PAUSE: Final = 300.0
# What is left to tell when a run ends may take so many seconds.
SIGN_OFF_TIMEOUT: Final = 15.0


class Notifier:
    """Looks for what is to be told, and tells it. `heard` counts how deliveries end: sent, failed, given_up.

    `rested`: whether there has been nothing to do for so many seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        receiver: Receiver,
        *,
        heard: Callable[[str], None],
        every: float = EVERY,
        rested: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self._outbox = outbox
        self._receiver = receiver
        self._heard = heard
        self._every = every
        self._rested = rested

    async def run(self) -> None:
        """Tell until cancelled."""
        pause = 0.0
        while True:
            try:
                if await self._outbox.collect():
                    await self._send()
                pause = 0.0
            except ProvisionerError as error:
                pause = min(max(2 * pause, FIRST_PAUSE), LAST_PAUSE)
                if not isinstance(error, DatabaseUnavailable) or isinstance(error, StatementRefused):
                    log.warning("upkeep_failed", duty="notices", error=str(error), again_in=pause)
            await asyncio.sleep(max(pause, self._every))
            for _ in range(round(SELDOM / self._every)):
                if pause or not self._rested(RESTED):
                    break
                await asyncio.sleep(self._every)

    async def finish(self) -> None:
        """Tell what is left to tell when everything is done, if that takes no longer than some seconds."""
        with suppress(TimeoutError, ProvisionerError):
            async with asyncio.timeout(SIGN_OFF_TIMEOUT):
                await self._outbox.collect(last=True)
                await self._send()

    async def _send(self) -> None:
        """Send what is due; after a failure not more: who does not answer once keeps nobody waiting ten times."""
        while (delivery := await self._outbox.take()) is not None:
            event = delivery.notice.event.value
            if not (reason := await self._receiver.deliver(delivery)):
                await self._outbox.sent(delivery)
                self._heard("sent")
                log.info("notice_sent", notice=delivery.id, about=event, tries=delivery.tries)
                continue
            if is_given_up(delivery.age):
                await self._outbox.failed(delivery, reason=reason, pause=None)
                self._heard("given_up")
                log.error("notice_given_up", notice=delivery.id, about=event, reason=reason, tries=delivery.tries)
                return
            pause = pause_after(delivery.tries)
            await self._outbox.failed(delivery, reason=reason, pause=pause)
            self._heard("failed")
            log.warning(
                "notice_failed", notice=delivery.id, about=event, reason=reason, tries=delivery.tries, again_in=pause
            )
            return
