"""Stop a process as its operators expect: cleanly on the first signal, at once on the second."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.stdlib.get_logger()


@contextmanager
def stopping_on_signals(*stops: Callable[[], None]) -> Iterator[None]:
    """Stop cleanly on SIGTERM and SIGINT; exit at once on the second, for nothing is lost then either."""
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

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
