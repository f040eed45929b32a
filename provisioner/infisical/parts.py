"""Read what all answers have in common: JSON, errors, headers, foreign text.

Pure. Reading is lenient where servers of other versions add or lack fields, and ignores headers that cannot be true. It
is strict about everything that is recorded or acted on, and about foreign text: characters that terminals, logs or
PostgreSQL cannot handle are removed, and quoted secrets are masked.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import takewhile
from typing import Any, Final, NamedTuple

import orjson

from provisioner.core.model import ERROR_MESSAGE_LENGTH, Action, Connection, Observation, Proof, RateHeaders, Result
from provisioner.core.secret import MASK
from provisioner.core.skew import HALF_SECOND

# The longest plausible window or pause, in seconds. An epoch in `reset`, or milliseconds, would be longer.
LONGEST_PAUSE: Final = 3600.0
# The shortest pause after "now", in seconds, so that the limiter is not asked again and again.
SHORTEST_PAUSE: Final = 1.0
# One window of the limiter, in seconds: the pause when the answer names none.
USUAL_PAUSE: Final = 60.0
# A secret shorter than this occurs in ordinary words, so it is masked only as a separate word.
MIN_SECRET: Final = 8
# A truncated quotation shows the beginning of a secret. Nothing else contains this many of its first characters: keys
# of one kind share a prefix (`sk-or-v1-`), and ids, which may share a run of digits with a key, do not have that
# prefix.
BEGINNING: Final = 16
# Longer than a UUID: text that shares a run of this length with a secret is not an id.
LONG_RUN: Final = 37
# Characters that JSON, URLs and HTML escape: between them, a quoted secret is unchanged.
_rewritten: Final = re.compile(r"[^0-9A-Za-z._~-]+").split
LONGEST_KIND: Final = 60  # characters of a content type
# Longer foreign text is not examined at all: messages are sentences, unlike a proxy's error page.
LONGEST_EXAMINED: Final = 4 * ERROR_MESSAGE_LENGTH
# An earlier year cannot be a connection's creation time, and would break arithmetic later.
EARLIEST: Final = 2000
LATEST: Final = 9000

is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_is_hash = re.compile(r"[!-~]{1,128}").fullmatch
_COUNT = re.compile(r"[0-9]{1,9}").fullmatch
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?").fullmatch
_IN_WORDS = re.compile(r"\bin (?P<number>[0-9]{1,6}) ?(?P<unit>second|minute)").search
_is_request_id = re.compile(r"[0-9A-Za-z_.-]{1,64}").fullmatch


class Unreadable(ValueError):
    """An answer lacks something that is needed; the message says what."""


class Expected(NamedTuple):
    """What was asked for, which the answer has to match. `key` is the API key that was sent.

    `folder` is the environment and the path of a rotation.
    """

    action: Action
    project_id: str | None = None
    name: str = ""
    connection_id: str | None = None
    key: str = ""
    folder: tuple[str, str] | None = None


class Reply(NamedTuple):
    """One answer and what it answers; look headers up in lower case.

    `now` is the time of receipt in seconds since 1970, `began` the monotonic time of sending, and `elapsed` the
    duration in seconds.
    """

    asked: Expected
    status: int
    headers: Mapping[str, str]
    body: bytes
    now: float | None = None
    began: float | None = None
    elapsed: float = 0.0

    @property
    def is_success(self) -> bool:
        """Whether the status says so."""
        return 200 <= self.status < 300

    @property
    def kind(self) -> str:
        """The declared content type, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def shows(
        self,
        result: Result,
        message: str = "",
        *,
        connection: Connection | None = None,
        metered: bool = True,
        req_id: str | None = None,
        retry_after: float | None = None,
        proof: Proof = Proof.NONE,
    ) -> Observation:
        """Return an observation, including what the headers say."""
        return Observation(
            result=result,
            proof=proof,
            connection=connection,
            status=self.status,
            req_id=req_id,
            message=message,
            retry_after=retry_after,
            rate=read_rate(self.headers),
            metered=metered,
            skew=read_skew(self.headers, self.now),
            began=self.began,
            elapsed=self.elapsed,
        )


class Envelope(NamedTuple):
    """An error in Infisical's form: `error` is its kind, `message` is safe to show, `req_id` is for its logs.

    `status` is the status in the envelope itself, if it has one.
    """

    error: str
    message: str
    req_id: str | None
    status: int | None = None


def read_json(body: bytes) -> Any:
    """Parse the JSON of a body. Raises `Unreadable`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise Unreadable("it is not JSON") from exc


def read_connection(data: Any) -> Connection:
    """Read a connection as Infisical describes it. Raises `Unreadable` without an id. An invalid hash becomes empty."""
    if not isinstance(data, dict):
        raise Unreadable("it holds no connection")
    get = data.get
    id_, hash_, org_id, project_id = get("id"), get("credentialsHash"), get("orgId"), get("projectId")
    if not isinstance(id_, str) or not is_uuid(id_):
        raise Unreadable("the connection has no id")
    return Connection(
        id=id_,
        project_id=project_id if isinstance(project_id, str) else None,
        org_id=org_id if isinstance(org_id, str) and is_uuid(org_id) else None,
        credentials_hash=hash_ if isinstance(hash_, str) and _is_hash(hash_) else "",
        name=text_of(get("name")),
        app=text_of(get("app")),
        method=text_of(get("method")),
        description=text_of(get("description")) or None,
        created_at=moment_of(get("createdAt")),
    )


def recordable(connection: Connection) -> Connection:
    """Return the connection if it has everything that gets recorded. Raises `Unreadable`."""
    if not connection.credentials_hash:
        raise Unreadable("the connection has no credentialsHash; is this Infisical too old?")
    return connection


def read_envelope(body: bytes, *, secret: str) -> Envelope | None:
    """Return the error in a body; None if the body is not an Infisical error. `secret` is masked in the result."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict):
        return None
    error, req_id, said = data.get("error"), data.get("reqId"), data.get("message")
    if not isinstance(error, str) and not isinstance(req_id, str):
        return None
    message = "; ".join(map(_issue, said)) if isinstance(said, list) else text_of(said)
    known = isinstance(req_id, str) and _is_request_id(req_id) and clean(req_id, secret=secret) == req_id
    status = data.get("statusCode")
    named = status if isinstance(status, int) else None
    return Envelope(text_of(error), clean(message, secret=secret), req_id if known else None, named)


def _issue(issue: Any) -> str:
    """Describe one issue of a 422: its place, and what is wrong there."""
    if not isinstance(issue, dict):
        return text_of(issue)
    path, message = issue.get("path"), text_of(issue.get("message"))
    where = ".".join(str(step) for step in path) if isinstance(path, list) else text_of(path)
    return f"{where}: {message}" if where else message


def text_of(value: Any) -> str:
    """Return a field that should be text; empty if it is not."""
    return value if isinstance(value, str) else ""


def moment_of(value: Any) -> datetime | None:
    """Return a field that should be a point in time; None if it is not a possible one."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if not EARLIEST <= moment.year < LATEST:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_rate(headers: Mapping[str, str]) -> RateHeaders | None:
    """Return what the headers say about the limiter's window; None if nothing, or nothing that can be true."""
    limit = headers.get("x-ratelimit-limit")
    if limit is None:
        return None
    remaining = headers.get("x-ratelimit-remaining")
    reset = _seconds(headers.get("x-ratelimit-reset"))
    if remaining is None or reset is None or not _COUNT(limit) or not _COUNT(remaining):
        return None
    rate = RateHeaders(limit=int(limit), remaining=int(remaining), reset=reset)
    return rate if 0 < rate.limit >= rate.remaining else None


def read_retry_after(headers: Mapping[str, str], message: str, now: float | None) -> float:
    """Return the seconds for which nothing should be sent after a 429.

    The first plausible value counts: `retry-after` as seconds or as a date, `x-ratelimit-reset`, the number in the
    message, one window. `now` is in seconds since 1970.
    """
    asked = headers.get("retry-after")
    for pause in (_seconds(asked), _until(asked, headers, now), _seconds(headers.get("x-ratelimit-reset"))):
        if pause is not None:
            return max(pause, SHORTEST_PAUSE)
    if words := _IN_WORDS(message):
        pause = int(words["number"]) * (60.0 if words["unit"] == "minute" else 1.0)
        if pause <= LONGEST_PAUSE:
            return max(pause, SHORTEST_PAUSE)
    return USUAL_PAUSE


def read_skew(headers: Mapping[str, str], now: float | None) -> float | None:
    """Return the server's clock minus ours in seconds, from `Date`; `now` is our time of receipt since 1970."""
    date = headers.get("date")
    if date is None or now is None:
        return None
    theirs = _epoch(date)
    return None if theirs is None else theirs + HALF_SECOND - now


def _seconds(text: str | None) -> float | None:
    if text is None or not _SECONDS(text):
        return None
    seconds = float(text)
    return seconds if seconds <= LONGEST_PAUSE else None


def _until(text: str | None, headers: Mapping[str, str], now: float | None) -> float | None:
    moment = _epoch(text) if text else None
    # If the server sent its own time, that fits the moment it names better than our clock.
    present = _epoch(headers.get("date", "")) or now
    if moment is None or present is None or not 0 < moment - present <= LONGEST_PAUSE:
        return None
    return moment - present


@lru_cache(maxsize=16)  # all answers of one second have the same date
def _epoch(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def clean(text: str, *, secret: str = "") -> str:
    """Make foreign text one line of at most `ERROR_MESSAGE_LENGTH` characters, with `secret` masked.

    The whole secret and truncated quotations of it are masked, but not text that merely shares some characters with it,
    such as the id by which people find their project.
    """
    # Control characters, bidirectional marks and lone surrogates are not printable.
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:LONGEST_EXAMINED]).split())
    return shorten(_without(line, secret.strip()) if secret else line)


def content(headers: Mapping[str, str]) -> str:
    """Return the declared content type, for people; look headers up in lower case."""
    return clean(headers.get("content-type", "").partition(";")[0].lower())[:LONGEST_KIND] or "no content type"


def shorten(text: str) -> str:
    """Shorten text to the length of a row's error message."""
    return text if len(text) <= ERROR_MESSAGE_LENGTH else f"{text[: ERROR_MESSAGE_LENGTH - 1]}…"


def _without(text: str, secret: str) -> str:
    if not secret:
        return text
    if len(secret) < MIN_SECRET:
        return re.sub(rf"(?<![0-9A-Za-z]){re.escape(secret)}(?![0-9A-Za-z])", MASK, text)
    kept: list[str] = []
    at = 0
    masked = False
    parts = [part for part in _rewritten(secret) if len(part) >= MIN_SECRET]
    while at < len(text):
        if run := _quoted(text, at, secret) or max(
            (len(part) for part in parts if text.startswith(part, at)), default=0
        ):
            if not masked:
                kept.append(MASK)
            at += run
        else:
            kept.append(text[at])
            at += 1
        masked = bool(run)
    return "".join(kept)


def _quoted(text: str, at: int, secret: str) -> int:
    """Return how many characters from `at` on quote the secret; 0 if none do."""
    if text.startswith(secret[:BEGINNING], at):
        begins = 0
    elif at + LONG_RUN <= len(text) and text[at : at + LONG_RUN] in secret:
        begins = secret.index(text[at : at + LONG_RUN])
    else:
        return 0
    alike = zip(text[at:], secret[begins:], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], alike))
