"""Every command: where its function is, which role of the database it needs, and what it does."""

from collections.abc import Mapping
from typing import Final, NamedTuple

REQUESTER: Final = "requester"
READER: Final = "reader"
WORKER: Final = "worker"
OWNER: Final = "owner"


class Command(NamedTuple):
    """A function of the command's name in `provisioner.cli.MODULE`, which is imported only when it is used.

    `role` is the one with the fewest rights that are enough; None if there is no such one.
    """

    module: str
    role: str | None
    summary: str


COMMANDS: Final[Mapping[str, Command]] = {
    "demo": Command("serve.demo", None, "Run the whole product on this machine and check the result."),
    "migrate": Command("setup.database", OWNER, "Create or upgrade the database schema."),
    "onboard": Command("onboard.onboard", OWNER, "Onboard many projects: from a list to a report."),
    "run": Command("serve.run", WORKER, "Run a worker until it is told to stop."),
    "discover": Command("bulk.discover", OWNER, "List the projects that the machine identity can see."),
    "submit": Command("bulk.submit", REQUESTER, "Load requests in bulk from CSV or JSON Lines."),
    "plan": Command("bulk.plan", REQUESTER, "Show what a bulk file would change, and change nothing."),
    "status": Command("look.status", REQUESTER, "Show the progress, and what needs your attention."),
    "list": Command("look.listing", REQUESTER, "List requests."),
    "show": Command("look.show", REQUESTER, "Show one request, its attempts, and what happens next."),
    "rotations": Command("look.listing", REQUESTER, "List rotations and their keys."),
    "retry": Command("operate.requests", OWNER, "Retry failed, cancelled or waiting requests."),
    "cancel": Command("operate.requests", OWNER, "Cancel requests that have not finished."),
    "remove": Command("operate.connections", OWNER, "Delete connections from Infisical."),
    "rekey": Command("operate.connections", OWNER, "Send connections the current key of their credential."),
    "pause": Command("operate.targets", OWNER, "Pause a target: workers claim none of its requests."),
    "resume": Command("operate.targets", OWNER, "Resume a paused target."),
    "limit": Command("operate.targets", OWNER, "Limit a target while workers run."),
    "export": Command("bulk.export", REQUESTER, "Export requests and results as CSV, JSON Lines or a page."),
    "verify": Command("look.verify", READER, "Compare the recorded connections with Infisical."),
    "doctor": Command("setup.doctor", WORKER, "Check every precondition, and say how to fix problems."),
    "healthcheck": Command("serve.healthcheck", None, "Check whether the worker on this host is healthy."),
    "keys": Command("setup.keys", OWNER, "Manage the key pairs that seal API keys."),
    "seal": Command("setup.keys", REQUESTER, "Seal one API key, read from standard input."),
    "grant": Command("setup.database", OWNER, "Give database roles the rights they need, and no more."),
    "database": Command("setup.database", None, "Show where the database is, or run a program on it."),
    "settings": Command("setup.settings", None, "Show the effective settings and their sources."),
    "simulate": Command("serve.simulate", None, "Serve a simulated Infisical for your tests."),
}
