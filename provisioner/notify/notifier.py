"""Send notices from a worker; requests never wait for them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog

from provisioner.core.background_ports import Outbox, Receiver
from provisioner.core.errors import ProvisionerError, is_outage
from provisioner.core.notices import is_given_up, pause_after

log = structlog.stdlib.get_logger()

# Seconds between two checks for notices by the fleet: one worker checks, at the cost of a small statement for the rest.
EVERY: Final = 10.0
# A worker that was idle for this many seconds checks less often, because problems show when there is work.
RESTED: Final = 30.0
SELDOM: Final = 300.0
# After a failure, wait this many seconds at first, and at most.
FIRST_PAUSE: Final = 10.0
LAST_PAUSE: Final = 300.0
# When a run ends, the last notices may take this many seconds.
SIGN_OFF_TIMEOUT: Final = 15.0


class Notifier:
    """Checks for new notices, and delivers them. `heard` counts how deliveries end: sent, failed, given_up.

    `rested` returns whether there has been nothing to do for a number of seconds.
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
        """Send notices until cancelled."""
        pause = 0.0
        while True:
            try:
                if await self._outbox.collect():
                    await self._send()
                pause = 0.0
            except ProvisionerError as error:
                pause = min(max(2 * pause, FIRST_PAUSE), LAST_PAUSE)
                if not is_outage(error):
                    log.warning("upkeep_failed", duty="notices", error=str(error), again_in=pause)
            await asyncio.sleep(max(pause, self._every))
            for _ in range(round(SELDOM / self._every)):
                if pause or not self._rested(RESTED):
                    break
                await asyncio.sleep(self._every)

    async def finish(self) -> None:
        """Send the last notices after everything is done, within a few seconds."""
        with suppress(TimeoutError, ProvisionerError):
            async with asyncio.timeout(SIGN_OFF_TIMEOUT):
                await self._outbox.collect(last=True)
                await self._send()

    async def _send(self) -> None:
        """Send what is due; stop after a failure, so that a receiver that hangs delays this only once."""
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
