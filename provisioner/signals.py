"""Stop a process the way operators expect: cleanly on the first signal, at once on the second."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.stdlib.get_logger()


@contextmanager
def stopping_on_signals(*stops: Callable[[], None]) -> Iterator[None]:
    """Stop cleanly on SIGTERM, SIGINT and SIGHUP; exit at once on the second signal, which loses nothing either.

    A hang-up that was ignored when the process began (nohup) stays ignored.
    """
    loop = asyncio.get_running_loop()
    told = False

    def handle(number: signal.Signals) -> None:
        nonlocal told
        if told:
            log.warning("stopped_at_once", signal=number.name)
            os._exit(128 + number)
        told = True
        log.info("stop_requested", signal=number.name)
        for stop in stops:
            stop()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
