"""Compare the table with the simulated Infisical: the proof of the demo and of the fault tests.

It works on plain rows and on the simulator's own state, and does not depend on the product.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

Row = Mapping[str, Any]

# Seconds by which the clocks of a server and a database on one machine may differ.
TOLERANCE: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The result of the comparison. `problems` is empty if every request is accounted for.

    `found_again` are connections whose create's answer was lost and that were recognised as ours.
    """

    requests: int
    states: Mapping[str, int]
    creates: int
    made: int
    adopted: int
    found_again: int
    answers_lost: int
    problems: Sequence[str]


def audit(rows: Sequence[Row], state: Row) -> Audit:
    """Compare the rows of `connection_requests` with `GET /_simulator/state`.

    Somebody else's connection may be recorded only if the row's `on_conflict` allows it.
    """
    connections = {str(one["id"]): one for one in state["connections"]}
    made = {id_: one for id_, one in connections.items() if not one["planted"]}
    recorded = Counter(str(row["connection_id"]) for row in rows if row["status"] == "succeeded")
    problems = [problem for row in rows if (problem := _row_problem(row, connections))]
    problems += [f"connection {id_} is recorded {n} times" for id_, n in recorded.items() if n > 1]
    problems += [
        f"connection {id_} ({one['name']} in {one['projectId']}) was made but is recorded nowhere"
        for id_, one in made.items()
        if id_ not in recorded
    ]
    places = Counter((one["projectId"], one["name"]) for one in made.values())
    problems += [f"{name} in {project} was made {n} times" for (project, name), n in places.items() if n > 1]
    return Audit(
        requests=len(rows),
        states=Counter(row["status"] for row in rows),
        creates=len(state["creates"]),
        made=len(made),
        adopted=sum(bool(row["adopted"]) for row in rows),
        found_again=sum(bool(row["found_again"]) for row in rows),
        answers_lost=sum(1 for one in state["creates"] if one["committed"] and one["status"] != 200),
        problems=problems,
    )


def unexplained(creates: Sequence[Row], attempts: Sequence[Row]) -> Sequence[str]:
    """Return the creates that the attempt log does not account for.

    A create whose answer arrived has a row with its `reqId`. Any other create has a row without one that was in
    progress when the server saw it: that of the lost answer, or the one written for a lost worker. `attempts` have
    their request's `project_id` and `name`, and times in seconds since 1970. Creates that did not get as far as their
    body cannot be distinguished, and a refusal of the token was not an attempt.
    """
    known = {str(row["req_id"]) for row in attempts if row["req_id"]}
    spare: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in attempts:
        if row["action"] == "create" and not row["req_id"]:
            spare[str(row["project_id"]), str(row["name"])].append(row)
    problems: list[str] = []
    for one in creates:
        if one["name"] is None or one["reqId"] in known or one["fault"] == "token-expired":
            continue
        rows = spare[str(one["projectId"]), one["name"]]
        fitting = [row for row in rows if _covers(row, one)]
        if fitting:
            rows.remove(fitting[0])
        else:
            problems.append(f"create {one['order']} of {one['name']} in {one['projectId']} at {one['at']} has no row")
    return problems


def _covers(row: Row, create: Row) -> bool:
    seen = datetime.fromisoformat(create["at"]).timestamp()
    fits = row["http_status"] in {None, create["status"]}
    return bool(fits and row["started_at"] - TOLERANCE <= seen <= row["ended_at"] + TOLERANCE)


def _row_problem(row: Row, connections: Mapping[str, Row]) -> str | None:
    where = f"request {row['id']} ({row['name']} in {row['project_id']})"
    if row["status"] == "succeeded":
        return _record_problem(where, row, connections.get(str(row["connection_id"])))
    if row["status"] == "failed" and row["error_code"] == "name_conflict":
        taken = any(other["planted"] and _place(other) == _place(row) for other in connections.values())
        return None if taken else f"{where} reports a name conflict that does not exist"
    if row["status"] == "cancelled":
        return None  # if it made a connection, that is recorded nowhere
    return f"{where} is {row['status']}: {row['error_code']} {row['error_message']}"


def _record_problem(where: str, row: Row, one: Row | None) -> str | None:
    if one is None:
        return f"{where} records a connection that does not exist"
    if one["planted"] and row.get("on_conflict", "fail") == "fail":
        return f"{where} records a connection that somebody else made"
    if _place(one) != _place(row):
        return f"{where} records the connection of another request"
    if one["credentialsHash"] != row["credentials_hash"]:
        return f"{where} records another credentials hash than the server has"
    return None


def _place(one: Row) -> tuple[str, str]:
    return str(one.get("projectId", one.get("project_id"))), str(one["name"])


def audit_rotations(rows: Sequence[Row], state: Row) -> Sequence[str]:
    """Compare the rows of `rotation_requests` with the simulator's rotations, OpenRouter's keys and the secrets.

    Every rotation is recorded once, matches its row, and has one key and one secret. Removed ones do not exist. Every
    other key is named by a row. A row that has ended must be right; others may be in progress.
    """
    rotations = {str(one["id"]): one for one in state["rotations"]}
    recorded = Counter(str(row["rotation_id"]) for row in rows if row["rotation_id"])
    problems = [f"rotation {id_} is recorded {n} times" for id_, n in recorded.items() if n > 1]
    problems += [f"rotation {id_} was made but is recorded nowhere" for id_ in rotations if id_ not in recorded]
    problems += [f"rotation {id_} is recorded and does not exist" for id_ in recorded if id_ not in rotations]
    keys = Counter(str(key["rotationId"]) for key in state["keys"] if key["rotationId"])
    secrets = Counter(str(secret["rotationId"]) for secret in state["secrets"] if secret["rotationId"])
    problems += [
        f"rotation {id_} has {keys[id_]} keys and {secrets[id_]} secrets"
        for id_ in rotations
        if (keys[id_], secrets[id_]) != (1, 1)
    ]
    problems += [problem for row in rows for problem in _rotation_problems(row, rotations)]
    told = " ".join(f"{row['left_behind'] or ''} {row['error_message'] or ''}" for row in rows)
    problems += [
        f"key {key['name']} was left behind at OpenRouter, and no row says so"
        for key in state["keys"]
        if not key["rotationId"] and f'"{key["name"]}"' not in told
    ]
    return problems


def _rotation_problems(row: Row, rotations: Mapping[str, Row]) -> Iterator[str]:
    one = rotations.get(str(row["rotation_id"]))
    who = f"rotation request {row['id']} ({row['status']})"
    if row["status"] == "removed" and row["rotation_id"]:
        yield f"{who} still has rotation {row['rotation_id']}"
    if one is None:
        return
    if one["parameters"]["name"] != row["key_issued"]:
        yield f"{who} names another key than its rotation has"
    if row["status"] != "succeeded" or row.get("adopted"):
        return
    told = {
        "name": one["name"],
        "description": one["description"] or None,
        "interval_days": one["rotationInterval"],
        "secret_name": one["secretsMapping"]["apiKey"],
        "spend_limit": one["parameters"].get("limit"),
        "limit_reset": one["parameters"].get("limitReset"),
    }
    for column, value in told.items():
        if column in row and row[column] != value:
            yield f"{who} has {column} {row[column]!r}, and its rotation {value!r}"
