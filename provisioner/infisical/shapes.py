"""Read the JSON that Infisical answers with: connections and error envelopes.

Pure. Lenient, for newer and older servers add or lack fields; strict about what is recorded or acted on.
"""

import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from provisioner.core.model import Connection
from provisioner.infisical.text import clean

# What cannot be the time of a connection would break arithmetic later.
EARLIEST: Final = 2000
LATEST: Final = 9000

_is_uuid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_is_hash = re.compile(r"[!-~]{1,128}").fullmatch
_is_request_id = re.compile(r"[0-9A-Za-z_.-]{1,64}").fullmatch


class Unreadable(ValueError):
    """An answer lacks what is needed; the text says what."""


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
    if not isinstance(id_, str) or not _is_uuid(id_):
        raise Unreadable("the connection has no id")
    return Connection(
        id=id_,
        project_id=project_id if isinstance(project_id, str) else None,
        org_id=org_id if isinstance(org_id, str) and _is_uuid(org_id) else None,
        credentials_hash=hash_ if isinstance(hash_, str) and _is_hash(hash_) else "",
        name=_text(get("name")),
        app=_text(get("app")),
        method=_text(get("method")),
        description=_text(get("description")) or None,
        created_at=_context(get("createdAt")),
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
    message = "; ".join(map(_issue, said)) if isinstance(said, list) else _text(said)
    known = isinstance(req_id, str) and _is_request_id(req_id) and clean(req_id, secret=secret) == req_id
    status = data.get("statusCode")
    named = status if isinstance(status, int) else None
    return Envelope(_text(error), clean(message, secret=secret), req_id if known else None, named)


def _issue(issue: Any) -> str:
    """One issue of a 422: where it is, and what is wrong there."""
    if not isinstance(issue, dict):
        return _text(issue)
    path, message = issue.get("path"), _text(issue.get("message"))
    where = ".".join(str(step) for step in path) if isinstance(path, list) else _text(path)
    return f"{where}: {message}" if where else message


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _context(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if not EARLIEST <= moment.year < LATEST:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
