"""Logs: one event per line, for people on a terminal and as JSON elsewhere.

Events are past-tense constants with fields. Secrets belong in neither; if one gets there anyway, the last step before
writing removes it. Messages that libraries log through the standard library take the same path, from warnings up.

The renderers are structlog's. The writer and the bridge are ours, because structlog's `WriteLogger` raises when its
stream is closed, and a `StreamHandler` with `ProcessorFormatter` then prints a traceback, and loses messages with
mismatched arguments.
"""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, TextIO

import orjson

# structlog imports Rich if it is installed, for tracebacks that are not shown here: 30 ms of a worker's start.
_WITHOUT_RICH: Final = "rich" not in sys.modules
if _WITHOUT_RICH:
    sys.modules["rich"] = None  # type: ignore[assignment]  # Python's way to block an import
import structlog  # noqa: E402 - see above
from structlog.typing import EventDict, Processor, WrappedLogger  # noqa: E402 - it imports all of it

if _WITHOUT_RICH:
    del sys.modules["rich"]

from provisioner.core.text import LINES, printable, printable_json  # noqa: E402 - the last one

REDACTED: Final = "[redacted]"
DEPTH: Final = 6  # levels of nesting that are shown; deeper ones are only indicated

Format = Literal["auto", "console", "json"]

# Words in a field's or a variable's name that mark its value as a secret.
_NAMES: Final = (
    r"(?:(?:api|private|access)[-_]?key|token|secret|passwd|password|passphrase|authorization|jwt|cookie|bearer)"
)
_SECRET_KEY: Final = re.compile(_NAMES, re.IGNORECASE)
# Every pattern below needs one of these; most texts, such as names and ids, have none.
_MAY_HOLD_SECRET: Final = re.compile(r"[:=]|sk-|eyJ|[Bb][Ee][Aa][Rr][Ee][Rr]|[Bb][Aa][Ss][Ii][Cc]")
# `Invalid token: expired`, `jwt: 10.0.0.1:443 refused`: a sentence about a secret, continued by a plain word, a status
# or an address, that tells what to fix. A password's name is followed by the password.
_SENTENCE: Final = re.compile(
    r"(?i:access token|token|secret|jwt|cookie): "
    r"(?:[A-Za-z]?[a-z]{1,14}[.:!?]?|[A-Z]{3,16}[.:]?|[1-5][0-9]{2}|(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?)"
)
_HOLDS_SECRET: Final = (
    # The password of a URL, up to the last @ of the word, because it may contain one itself.
    (re.compile(r"([a-z][a-z0-9+.-]{0,20}://[^\s:/?#@]*):\S{1,4096}@", re.IGNORECASE), rf"\1:{REDACTED}@"),
    (re.compile(r"\b(bearer)\s+[^\s\"',;]+", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"\b(authorization\W{1,4})(basic)\s+[^\s\"',;]+", re.IGNORECASE), rf"\1\2 {REDACTED}"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{6,}"), REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), REDACTED),
    (re.compile(r"\b(sealed:[A-Za-z0-9_-]{1,64}:)[A-Za-z0-9+/]{16,}={0,2}"), rf"\1{REDACTED}"),
    # `api_key='…'`, `"clientSecret": "…"`, `?token=…`: a secret's name with its value.
    (
        re.compile(
            rf"""({_NAMES}\w{{0,20}}["']?\s{{0,3}}[:=]\s{{0,3}})"""
            r"""("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&)}\]"']+)""",
            re.IGNORECASE,
        ),
        lambda found: found[0] if _SENTENCE.fullmatch(found[0]) else f"{found[1]}{REDACTED}",
    ),
)


def configure_logging(level: str = "info", format: Format = "auto", stream: TextIO | None = None) -> None:  # noqa: A002  # the name of the setting
    """Send all logs from this level up to the stream, by default standard error.

    A logger that is bound keeps the level of that time; below that level, its methods do nothing.
    """
    out = sys.stderr if stream is None else stream
    terminal = out.isatty()
    console = format == "console" or (format == "auto" and terminal)
    colours = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _tell_exception(traceback_too=level == "debug"),
            redact_event,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([_clean_event] if console else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _LineWriter(out),
        # Loggers are looked up each time, so that configuring again, as tests do, takes effect.
        cache_logger_on_first_use=False,
    )
    _route_standard_library()


def redact_event(logger: WrappedLogger, method: str, event: EventDict) -> MutableMapping[str, Any]:  # noqa: ARG001  # a processor's interface
    """Replace whatever looks secret in an event: the last line of defence, not the first."""
    return {key: _redact_field(key, value, DEPTH) for key, value in event.items()}


def _clean_event(logger: WrappedLogger, method: str, event: EventDict) -> MutableMapping[str, Any]:  # noqa: ARG001  # a processor's interface
    """Remove what a terminal would obey; a traceback keeps its lines."""
    return {
        # Other values are shown by their `repr`, which contains only printable characters.
        key: printable(value, kept=LINES if key == "exception" else "") if isinstance(value, str) else value
        for key, value in event.items()
    }


def redact_text(text: str) -> str:
    """Replace secrets that can be recognised by their form or by a name beside them."""
    if _MAY_HOLD_SECRET.search(text) is None:
        return text
    for pattern, replacement in _HOLDS_SECRET:
        text = pattern.sub(replacement, text)
    return text


@lru_cache(maxsize=1024)
def _looks_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _redact_field(key: object, value: object, depth: int) -> object:
    # Numbers and booleans beside a secret's name are counts and times, such as `token_expires_in`.
    if value is None or isinstance(value, bool | int | float):
        return value
    if _looks_secret(str(key)):
        return REDACTED
    return _redact(value, depth)


def _redact(value: object, depth: int) -> object:
    """Return the value as plain data without secrets; other objects become text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth == 0:
            return "…"
        if isinstance(value, Mapping):
            return {redact_text(_text(key)): _redact_field(key, item, depth - 1) for key, item in value.items()}
        return [_redact(item, depth - 1) for item in value]
    return redact_text(_text(value))


def _text(value: object) -> str:
    """Return a value's text, in the usual form for programs if there is one."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    if isinstance(value, BaseException):
        return _one_line(value)
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # whatever a foreign __str__ raises, the event matters more
        return f"<{type(value).__name__}>"


def _tell_exception(*, traceback_too: bool) -> Processor:
    """Put an exception into one line, and its traceback beside it if wanted."""

    def tell(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG001  # a processor's interface
        error = _exception(event.pop("exc_info", None))
        if error is not None:
            # An `error` that the caller gave is a code for programs, and stays.
            event["cause" if "error" in event else "error"] = _one_line(error)
            if traceback_too:
                event["exception"] = "".join(traceback.format_exception(error))
        return event

    return tell


def _exception(given: object) -> BaseException | None:
    """Find the exception in what callers pass as `exc_info`: itself, a triple, or True for the current one."""
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        given = given[1]
        return given if isinstance(given, BaseException) else None
    return sys.exception() if given else None


def _one_line(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        text = "; ".join(_one_line(inner) for inner in error.exceptions)
    else:
        try:
            text = " ".join(str(error).split())
        except Exception:  # noqa: BLE001  # see `_text`
            text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _dumps(event: EventDict, **_: object) -> str:
    """Return the event as one line of JSON, with the common fields first."""
    document = {**{key: event[key] for key in ("timestamp", "level", "event") if key in event}, **event}
    try:
        return printable_json(orjson.dumps(document, default=_text).decode())
    except TypeError:
        # orjson rejects lone surrogates and very large numbers; the line is written anyway.
        return json.dumps(document, default=_text)


class _LineWriter:
    """Writes lines; a log that cannot be written stops no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # the pipe is broken, or the file is closed
            return

    debug = info = warning = error = critical = exception = log = msg


class _Bridge(logging.Handler):
    """Passes records of the standard library to the same pipeline."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's message, with its logger's name."""
        try:
            event = record.getMessage()
        except Exception:  # noqa: BLE001  # a wrong format string in a library is no reason to lose the message
            event = str(record.msg)
        # The event is one line; a library's message need not be.
        structlog.get_logger().log(
            max(logging.DEBUG, min(record.levelno // 10 * 10, logging.CRITICAL)),
            " ".join(event.split()),
            logger=record.name,
            exc_info=record.exc_info,
        )


def _route_standard_library() -> None:
    """Log libraries' warnings and errors, and Python's own warnings, like ours."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
