"""Interpret an answer as an observation.

Pure: no clock, no I/O, and never an exception, whatever the answer. The status decides first, then `error`, then the
beginning of `message`. What an answer means and what it proves are two things: a gateway's page may say clearly that
the address is wrong, and still follow a create that went through. Only the documented answer proves that a connection
was made, and only Infisical's own refusal that none was. A doubt costs a look-up; a wrong guess would duplicate or lose
a connection.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from provisioner.core.doubt import APP
from provisioner.core.model import Action, Connection, Observation, Proof, Result
from provisioner.infisical.parts import (
    Reply,
    Unreadable,
    clean,
    read_connection,
    read_json,
    recordable,
    shorten,
)
from provisioner.infisical.refusals import FOREIGN, UNEXPLAINED, read_refusal

T = TypeVar("T")


def read_answer(reply: Reply) -> Observation:
    """Interpret an answer about a connection. The observation contains no part of the key that was sent.

    See `is_unexplained` for a 401 that does not say whether it is about the token or the key.
    """
    if not reply.is_success:
        return read_refusal(reply)
    return described(reply, "appConnection", lambda data: _SUCCESS[reply.asked.action](reply, data))


def read_list(reply: Reply) -> tuple[Observation, tuple[Connection, ...]]:
    """Interpret the list of a project's connections; returns them too if it is `FOUND`."""
    seen, connections = listed(reply, "appConnections", lambda data: recordable(read_connection(data)))
    return seen, tuple(found for found in connections if _in_project(found, reply.asked.project_id))


def described(reply: Reply, field: str, read: Callable[[Any], Observation]) -> Observation:
    """Interpret a success by the part of its JSON that describes one thing, which `read` interprets."""
    try:
        return read(_part(reply, field))
    except Unreadable as exc:
        return not_understood(reply, exc)


def listed(reply: Reply, field: str, read: Callable[[Any], T]) -> tuple[Observation, tuple[T, ...]]:
    """Interpret a list, whose entries `read` reads; returns them too if it is `FOUND`."""
    if not reply.is_success:
        return read_refusal(reply), ()
    try:
        entries = _part(reply, field)
        if not isinstance(entries, list):
            raise Unreadable(f"it holds no list of {field}")  # noqa: TRY301 - told like what an entry lacks
        return reply.shows(Result.FOUND), tuple(map(read, entries))
    except Unreadable as exc:
        return not_understood(reply, exc), ()


def _part(reply: Reply, field: str) -> Any:
    data = read_json(reply.body)
    return data.get(field) if isinstance(data, dict) else None


def is_unexplained(observation: Observation) -> bool:
    """Whether this 401 may be about the token as well as the key, which one cheap call will settle."""
    return observation.result is Result.TOKEN_TROUBLE and observation.message.startswith((UNEXPLAINED, FOREIGN))


def not_understood(reply: Reply, problem: Unreadable) -> Observation:
    """Interpret a success that shows nothing: another server if it is not JSON, else an unknown outcome."""
    if reply.kind and not reply.kind.endswith("json"):
        kind = clean(reply.kind, secret=reply.asked.key)
        message = f"the server answered {reply.status} with {kind} instead of JSON: check the target's url"
        return reply.shows(Result.MISCONFIGURED, shorten(message), metered=False)
    return reply.shows(Result.UNKNOWN, f"the answer {reply.status} cannot be understood: {problem}", metered=False)


def _made(reply: Reply, data: Any) -> Observation:
    asked = reply.asked
    connection = read_connection(data)
    if connection.name not in {"", asked.name}:
        raise Unreadable(f"it is about another connection, {clean(connection.name)}")
    if connection.project_id is None:
        return reply.shows(Result.WRONG_SCOPE, "the answer names no project", connection=connection)
    if not _in_project(connection, asked.project_id):
        raise Unreadable("it is about another project")
    return reply.shows(Result.CREATED, connection=recordable(connection), proof=Proof.MADE)


def _replaced(reply: Reply, data: Any) -> Observation:
    asked = reply.asked
    connection = recordable(read_connection(data))
    if asked.connection_id is not None and connection.id.lower() != asked.connection_id.lower():
        raise Unreadable(f"it is about another connection, {connection.id}")
    return reply.shows(Result.UPDATED, connection=connection)


def _deleted(reply: Reply, data: Any) -> Observation:
    """Interpret the answer to a deletion: Infisical returns what it has deleted."""
    _replaced(reply, data)
    return reply.shows(Result.REMOVED)


def _looked_up(reply: Reply, data: Any) -> Observation:
    asked = reply.asked
    connection = recordable(read_connection(data))
    other = asked.connection_id is not None and connection.id.lower() != asked.connection_id.lower()
    if other or (asked.name and connection.name != asked.name) or not _in_project(connection, asked.project_id):
        message = "a look-up brought a connection of another name or project: is this Infisical too old?"
        return reply.shows(Result.MISCONFIGURED, message, metered=False)
    if connection.app and connection.app not in APP:
        return reply.shows(Result.OTHER_APP, f"the name belongs to a connection of {clean(connection.app)}")
    return reply.shows(Result.FOUND, connection=connection)


_SUCCESS: Final[dict[Action, Callable[[Reply, Any], Observation]]] = {
    Action.CREATE: _made,
    Action.REPLACE: _replaced,
    Action.UPDATE: _replaced,
    Action.REMOVE: _deleted,
    Action.DELETE: _deleted,
    Action.CONFIRM: _looked_up,
    Action.LOOK_UP: _looked_up,
    Action.IDENTIFY: _looked_up,
    Action.INSPECT: _looked_up,
}


def _in_project(connection: Connection, project_id: str | None) -> bool:
    return project_id is None or (connection.project_id or "").lower() == project_id.lower()
