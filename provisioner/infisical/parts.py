"""Read the parts that any answer of Infisical, or of what stands before it, has: JSON, errors, headers, words.

Pure. Lenient, for newer and older servers add or lack fields, and headers are advice from outside: what cannot be true
is passed over. Strict about what is recorded or acted on, and about foreign text: it loses what terminals, logs and
PostgreSQL cannot take, and the secret where it is quoted.
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

# Longer than any window or pause that makes sense, in seconds. An epoch in `reset`, milliseconds and jokes are above.
LONGEST_PAUSE: Final = 3600.0
# A limiter that says "now" would be asked again at once, and again.
SHORTEST_PAUSE: Final = 1.0
# One window of the limiter: what is waited when nothing tells how long.
USUAL_PAUSE: Final = 60.0
# A shorter secret is found in ordinary words: it is masked only where it stands alone.
TELLTALE: Final = 8
# A quotation that breaks off shows a secret's beginning: so much of it is not found in anything else. Keys of one
# kind begin alike (`sk-or-v1-`), and ids, which may well share a run of digits with a key, do not begin like one.
BEGINNING: Final = 16
# Longer than a UUID: what shares such a run with a secret is no id.
LONG_RUN: Final = 37
# What JSON, URLs and HTML write otherwise: a quotation in one of these has the parts of a secret between as they are.
_rewritten: Final = re.compile(r"[^0-9A-Za-z._~-]+").split
LONGEST_KIND: Final = 60  # characters of a content type
# More of a foreign text is not even looked at: a message is a sentence, a proxy's error page is not.
GLANCE: Final = 4 * ERROR_MESSAGE_LENGTH
# What cannot be the time of a connection would break arithmetic later.
EARLIEST: Final = 2000
LATEST: Final = 9000

is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_is_hash = re.compile(r"[!-~]{1,128}").fullmatch
_COUNT = re.compile(r"[0-9]{1,9}").fullmatch
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?").fullmatch
_IN_WORDS = re.compile(r"\bin (?P<number>[0-9]{1,6}) ?(?P<unit>second|minute)").search
_is_request_id = re.compile(r"[0-9A-Za-z_.-]{1,64}").fullmatch


class Unreadable(ValueError):
    """An answer lacks what is needed; the text says what."""


class Asked(NamedTuple):
    """What was asked for: the answer has to be about it, where it is given. `key` is the API key that was sent.

    `folder` is the environment and the path in which a rotation is.
    """

    action: Action
    project_id: str | None = None
    name: str = ""
    connection_id: str | None = None
    key: str = ""
    folder: tuple[str, str] | None = None


class Reply(NamedTuple):
    """One answer to what was asked; `headers` are looked up in lower case.

    `now` is the time of receipt in seconds since 1970, `began` when the call was sent on the monotonic clock, and
    `elapsed` the seconds that it took.
    """

    asked: Asked
    status: int
    headers: Mapping[str, str]
    body: bytes
    now: float | None = None
    began: float | None = None
    elapsed: float = 0.0

    @property
    def kind(self) -> str:
        """The kind of content that it says it has, in lower case."""
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
        """What it shows, with what its headers tell besides."""
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
    """An error as Infisical words it: `error` names its kind, `message` is safe to show, `req_id` finds it in logs.

    `status` is the one that the envelope itself names, where it does.
    """

    error: str
    message: str
    req_id: str | None
    status: int | None = None


def read_json(body: bytes) -> Any:
    """The JSON of a body; raises `Unreadable`."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise Unreadable("it is not JSON") from exc


def read_connection(data: Any) -> Connection:
    """A connection as Infisical describes it; raises `Unreadable` without an id. A hash that cannot be one is empty."""
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
    """The connection, if it has all that is recorded of it; raises `Unreadable`."""
    if not connection.credentials_hash:
        raise Unreadable("the connection has no credentialsHash; is this Infisical too old?")
    return connection


def read_envelope(body: bytes, *, secret: str) -> Envelope | None:
    """The error in a body, or None if the body is not an Infisical error. `secret` is kept out of what is returned."""
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
    """One issue of a 422: where it is, and what is wrong there."""
    if not isinstance(issue, dict):
        return text_of(issue)
    path, message = issue.get("path"), text_of(issue.get("message"))
    where = ".".join(str(step) for step in path) if isinstance(path, list) else text_of(path)
    return f"{where}: {message}" if where else message


def text_of(value: Any) -> str:
    """A field that should be text; empty if it is not."""
    return value if isinstance(value, str) else ""


def moment_of(value: Any) -> datetime | None:
    """A field that should be a point in time; None if it is none that can be."""
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
    """What the limiter said of its window; None if it said nothing, or nothing that can be true."""
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
    """Seconds for which nobody should send, after an answer 429.

    The first that makes sense of: `retry-after` as seconds or as a date, `x-ratelimit-reset`, the number in the
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
    """The server's clock minus ours in seconds, from `Date`; `now` is our time of receipt in seconds since 1970."""
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
    # The server's own clock, where it told it, agrees better with the moment that it named.
    present = _epoch(headers.get("date", "")) or now
    if moment is None or present is None or not 0 < moment - present <= LONGEST_PAUSE:
        return None
    return moment - present


@lru_cache(maxsize=16)  # all answers of one second carry the same date
def _epoch(date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def clean(text: str, *, secret: str = "") -> str:
    """Foreign text in one line, at most `ERROR_MESSAGE_LENGTH` characters, in which `secret` is masked.

    The secret itself and a quotation of it that breaks off; never what merely has some characters in common with it,
    such as the id by which people find their project.
    """
    # Control characters, marks that turn the writing around, halves of characters: none of them is printable.
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:GLANCE]).split())
    return shorten(_without(line, secret.strip()) if secret else line)


def content(headers: Mapping[str, str]) -> str:
    """The kind of content that an answer says it has, for people; `headers` are looked up in lower case."""
    return clean(headers.get("content-type", "").partition(";")[0].lower())[:LONGEST_KIND] or "no content type"


def shorten(text: str) -> str:
    """Text that fits a row's error message."""
    return text if len(text) <= ERROR_MESSAGE_LENGTH else f"{text[: ERROR_MESSAGE_LENGTH - 1]}…"


def _without(text: str, secret: str) -> str:
    if not secret:
        return text
    if len(secret) < TELLTALE:
        return re.sub(rf"(?<![0-9A-Za-z]){re.escape(secret)}(?![0-9A-Za-z])", MASK, text)
    kept: list[str] = []
    at = 0
    masked = False
    parts = [part for part in _rewritten(secret) if len(part) >= TELLTALE]
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
    """How many characters from `at` on quote the secret; 0 if it is not quoted there."""
    if text.startswith(secret[:BEGINNING], at):
        begins = 0
    elif at + LONG_RUN <= len(text) and text[at : at + LONG_RUN] in secret:
        begins = secret.index(text[at : at + LONG_RUN])
    else:
        return 0
    alike = zip(text[at:], secret[begins:], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], alike))
