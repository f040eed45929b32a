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
    return _read_success(reply) if reply.is_success else read_refusal(reply)


def read_list(reply: Reply) -> tuple[Observation, tuple[Connection, ...]]:
    """Interpret the list of a project's connections; returns them too if it is `FOUND`."""
    return listed(reply, lambda data: _connections(data, reply.asked.project_id))


def listed(reply: Reply, read: Callable[[Any], tuple[T, ...]]) -> tuple[Observation, tuple[T, ...]]:
    """Interpret a list, whose content `read` takes out of its JSON; returns that too if it is `FOUND`."""
    if not reply.is_success:
        return read_refusal(reply), ()
    try:
        return reply.shows(Result.FOUND), read(read_json(reply.body))
    except Unreadable as exc:
        return not_understood(reply, exc), ()


def is_unexplained(observation: Observation) -> bool:
    """Whether this 401 may be about the token as well as the key, which one cheap call will settle."""
    return observation.result is Result.TOKEN_TROUBLE and observation.message.startswith((UNEXPLAINED, FOREIGN))


def _read_success(reply: Reply) -> Observation:
    asked = reply.asked
    try:
        data = read_json(reply.body)
        return _SUCCESS[asked.action](reply, data.get("appConnection") if isinstance(data, dict) else None)
    except Unreadable as exc:
        return not_understood(reply, exc)


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


def _listed(data: Any) -> Connection:
    return recordable(read_connection(data))


def _connections(data: Any, project_id: str | None) -> tuple[Connection, ...]:
    listed = data.get("appConnections") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise Unreadable("it holds no list of connections")
    return tuple(found for found in map(_listed, listed) if _in_project(found, project_id))
