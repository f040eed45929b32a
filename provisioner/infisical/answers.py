"""Turn an answer of Infisical into an observation.

Pure: no clock, no I/O, and never an exception, whatever the answer is. Read by status, then by `error`, then by how
`message` begins. What an answer means and what it proves are two things: a gateway's page may say clearly that the
address is wrong, and may have come after the create went through. Only the promised answer proves that a connection was
made, and only Infisical's own refusal that none was. A doubt costs a look-up; a wrong guess would cost a connection
made twice or lost.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from provisioner.core.doubt import APP
from provisioner.core.model import Action, Connection, Observation, Proof, Result
from provisioner.infisical.headers import read_rate, read_skew
from provisioner.infisical.refusals import FOREIGN, UNEXPLAINED, read_refusal
from provisioner.infisical.shapes import Unreadable, read_connection, read_json, recordable
from provisioner.infisical.text import clean, shorten
from provisioner.infisical.verdict import Asked, Verdict


def read_answer(
    asked: Asked,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    began: float | None = None,
    elapsed: float = 0.0,
) -> Observation:
    """What an answer shows.

    `headers` are looked up in lower case. The observation holds no part of the key that was sent. `now` is the time of
    receipt in seconds since 1970, `began` when it was sent on the monotonic clock, and `elapsed` the seconds that the
    call took. See `is_unexplained` for a 401 that does
    not say whether it is about the token or the key.
    """
    if 200 <= status < 300:
        verdict = _read_success(asked, status, headers, body)
    else:
        verdict = read_refusal(asked, status, headers, body, now)
    return _observe(verdict, status, headers, now, began=began, elapsed=elapsed)


def read_list(
    asked: Asked,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float | None = None,
    elapsed: float = 0.0,
) -> tuple[Observation, tuple[Connection, ...]]:
    """What the list of a project's connections shows, and the connections if it is `FOUND`."""
    connections: tuple[Connection, ...] = ()
    if 200 <= status < 300:
        try:
            connections = _connections(read_json(body), asked.project_id)
            verdict = Verdict(Result.FOUND)
        except Unreadable as exc:
            verdict = _not_understood(asked, status, headers, exc)
    else:
        verdict = read_refusal(asked, status, headers, body, now)
    return _observe(verdict, status, headers, now, elapsed=elapsed), connections


def is_unexplained(observation: Observation) -> bool:
    """Whether this is a 401 that may be about the token as well as about the key: one cheap call settles it."""
    return observation.result is Result.TOKEN_TROUBLE and observation.message.startswith((UNEXPLAINED, FOREIGN))


def _observe(
    verdict: Verdict,
    status: int,
    headers: Mapping[str, str],
    now: float | None,
    *,
    began: float | None = None,
    elapsed: float,
) -> Observation:
    return Observation(
        result=verdict.result,
        proof=verdict.proof,
        connection=verdict.connection,
        status=status,
        req_id=verdict.req_id,
        message=verdict.message,
        retry_after=verdict.retry_after,
        rate=read_rate(headers),
        metered=verdict.metered,
        skew=read_skew(headers, now),
        began=began,
        elapsed=elapsed,
    )


def _read_success(asked: Asked, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    try:
        if asked.action is Action.REMOVE:
            if body:
                read_json(body)
            return Verdict(Result.REMOVED)
        data = read_json(body)
        return _SUCCESS[asked.action](asked, data.get("appConnection") if isinstance(data, dict) else None)
    except Unreadable as exc:
        return _not_understood(asked, status, headers, exc)


def _not_understood(asked: Asked, status: int, headers: Mapping[str, str], problem: Unreadable) -> Verdict:
    """An answer of success that shows nothing: another server's if it is no JSON, else the outcome is unknown."""
    kind = clean(headers.get("content-type", "").partition(";")[0].lower(), secret=asked.key)
    if kind and not kind.endswith("json"):
        message = f"the server answered {status} with {kind} instead of JSON: check the target's url"
        return Verdict(Result.MISCONFIGURED, shorten(message), metered=False)
    return Verdict(Result.UNKNOWN, f"the answer {status} cannot be understood: {problem}", metered=False)


def _made(asked: Asked, data: Any) -> Verdict:
    connection = read_connection(data)
    if connection.name not in {"", asked.name}:
        raise Unreadable(f"it is about another connection, {clean(connection.name)}")
    if connection.project_id is None:
        return Verdict(Result.WRONG_SCOPE, "the answer names no project", connection)
    if not _in_project(connection, asked.project_id):
        raise Unreadable("it is about another project")
    return Verdict(Result.CREATED, connection=recordable(connection), proof=Proof.MADE)


def _replaced(asked: Asked, data: Any) -> Verdict:
    connection = recordable(read_connection(data))
    if asked.connection_id is not None and connection.id.lower() != asked.connection_id.lower():
        raise Unreadable(f"it is about another connection, {connection.id}")
    return Verdict(Result.UPDATED, connection=connection)


def _looked_up(asked: Asked, data: Any) -> Verdict:
    connection = recordable(read_connection(data))
    other = asked.connection_id is not None and connection.id.lower() != asked.connection_id.lower()
    if other or (asked.name and connection.name != asked.name) or not _in_project(connection, asked.project_id):
        message = "a look-up brought a connection of another name or project: is this Infisical too old?"
        return Verdict(Result.MISCONFIGURED, message, metered=False)
    if connection.app and connection.app not in APP:
        return Verdict(Result.OTHER_APP, f"the name belongs to a connection of {clean(connection.app)}")
    return Verdict(Result.FOUND, connection=connection)


_SUCCESS: Final[dict[Action, Callable[[Asked, Any], Verdict]]] = {
    Action.CREATE: _made,
    Action.REPLACE: _replaced,
    Action.LOOK_UP: _looked_up,
    Action.IDENTIFY: _looked_up,
    Action.INSPECT: _looked_up,
}


def _in_project(connection: Connection, project_id: str | None) -> bool:
    return project_id is None or (connection.project_id or "").lower() == project_id.lower()


def _listed(data: Any) -> Connection:
    return recordable(read_connection(data))


def _connections(data: Any, project_id: str | None) -> tuple[Connection, ...]:
    listed = data.get("appConnections") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise Unreadable("it holds no list of connections")
    return tuple(found for found in map(_listed, listed) if _in_project(found, project_id))
