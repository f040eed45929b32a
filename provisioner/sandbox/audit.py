"""Compare what the table says with what the simulated Infisical has: the proof of the demo and of the fault tests.

Works on plain rows and on the simulator's own state, and knows nothing of how the product works.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the comparison showed. `problems` is empty when every request is accounted for."""

    requests: int
    states: Mapping[str, int]
    creates: int
    made: int
    adopted: int
    answers_lost: int
    problems: Sequence[str]


def audit(rows: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> Audit:
    """Hold the rows of `connection_requests` against `GET /_simulator/state`."""
    connections = state["connections"]
    made = {str(one["id"]): one for one in connections if not one["planted"]}
    recorded = Counter(str(row["connection_id"]) for row in rows if row["status"] == "succeeded")
    problems = [problem for row in rows if (problem := _row_problem(row, made, connections))]
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
        answers_lost=sum(1 for one in state["creates"] if one["committed"] and one["status"] != 200),
        problems=problems,
    )


def _row_problem(
    row: Mapping[str, Any], made: Mapping[str, Mapping[str, Any]], connections: Sequence[Mapping[str, Any]]
) -> str | None:
    where = f"request {row['id']} ({row['name']} in {row['project_id']})"
    if row["status"] == "succeeded":
        one = made.get(str(row["connection_id"]))
        if one is None:
            theirs = any(str(row["connection_id"]) == str(other["id"]) for other in connections)
            return f"{where} records a connection that {'somebody else made' if theirs else 'does not exist'}"
        if (str(one["projectId"]), one["name"]) != (str(row["project_id"]), row["name"]):
            return f"{where} records the connection of another request"
        if one["credentialsHash"] != row["credentials_hash"]:
            return f"{where} records another credentials hash than the server has"
        return None
    if row["status"] == "failed" and row["error_code"] == "name_conflict":
        taken = any(
            other["planted"] and (str(other["projectId"]), other["name"]) == (str(row["project_id"]), row["name"])
            for other in connections
        )
        return None if taken else f"{where} reports a name conflict that does not exist"
    return f"{where} is {row['status']}: {row['error_code']} {row['error_message']}"
