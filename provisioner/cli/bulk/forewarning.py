"""What is in the way of a file's requests, said before they fail: targets and credentials that nobody knows."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from provisioner.cli.terminal.frame import several
from provisioner.intake.checked import CheckedFile
from provisioner.intake.rows import COLUMNS, SEALED

if TYPE_CHECKING:
    from provisioner.settings import Settings


def forewarned(checked: CheckedFile, settings: "Settings", served: Collection[str]) -> Iterator[str]:
    """One sentence for each target and credential that neither these settings nor a worker knows.

    `served` are the targets that living workers serve. Their credentials are not known here.
    """
    target, credential = COLUMNS.index("target") + 1, COLUMNS.index("credential") + 1  # behind the line's number
    targets: Counter[str] = Counter()
    credentials: Counter[str] = Counter()
    for row in checked.rows():
        targets[str(row[target])] += 1
        if not str(row[credential]).startswith(SEALED):
            credentials[_normal(str(row[credential]))] += 1
    for name, count in targets.items():
        if name not in settings.targets and name not in served:
            yield (
                f"target {name} of {several(count, 'line')} is not in these settings, and no worker serves it: "
                f"its requests wait until a worker has [targets.{name}]"
            )
    for name, count in credentials.items():
        if name not in settings.credentials:
            yield (
                f"credential {name} of {several(count, 'line')} is not in these settings: its requests fail with "
                f"credential_unknown where the workers do not have [credentials.{name}]"
            )


def _normal(name: str) -> str:
    """A credential's name as the settings have it."""
    return name.lower().replace("_", "-")
