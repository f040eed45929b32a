"""What every test gets: an environment without a developer's settings, and databases."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.faults.tally import pytest_terminal_summary
from tests.support.postgres import (
    database,
    databases,
    empty_database,
    postgres_server,
    reachable_directory,
    template_database,
)

__all__ = [
    "database",
    "databases",
    "empty_database",
    "postgres_server",
    "pytest_terminal_summary",
    "reachable_directory",
    "template_database",
]

for name in list(os.environ):
    if name.startswith(("PROVISIONER_", "INFISICAL_", "OPENROUTER_", "PG")) or name == "DATABASE_URL":
        del os.environ[name]

# A shell ignores Ctrl-C in what it starts in the background, and every command that a test starts would do the same.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine may be slow, above all where Hypothesis first writes its table of all letters; a failure must be repeatable
# from what CI printed.
SLOW = (HealthCheck.too_slow,)
# Half of the usual examples: the suite is to stay under five minutes on two cores, and `make fuzz` has many more.
settings.register_profile("provisioner", max_examples=50, deadline=None, print_blob=True, suppress_health_check=SLOW)
settings.register_profile(
    "fuzz",
    deadline=None,
    print_blob=True,
    suppress_health_check=SLOW,
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "2000")),
)
settings.load_profile("provisioner")

# What has to run one after the other, the longest first.
GROUPS = ("faults-b", "faults-a", "browser", "faults-c", "embedded", "look_plan", "queue_plan", "postgres_failover")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups: one that began among the last would keep one process busy while the others have ended."""

    def place(item: pytest.Item) -> int:
        mark = item.get_closest_marker("xdist_group")
        name = mark.args[0] if mark else ""
        return GROUPS.index(name) if name in GROUPS else len(GROUPS) + (not mark)

    items.sort(key=place)
