"""What lies ahead: what would be created, exists already or conflicts, how long it takes, and what is in the way."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from provisioner.cli.onboard.asking import Told, ask
from provisioner.cli.terminal.frame import several
from provisioner.cli.terminal.progress import duration
from provisioner.core.comparison import PlannedOutcome, planned_outcome
from provisioner.core.model import Request
from provisioner.core.outlook import expected
from provisioner.intake.rows import SEALED

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

AT_ONCE: Final = 5_000  # connections that the table is asked for in one statement
NAMED: Final = 5  # of a kind, one by one
_WORDS: Final = {
    PlannedOutcome.CREATE: "to create",
    PlannedOutcome.ADOPT: "already exist and will be adopted: recorded as they are",
    PlannedOutcome.REPLACE: "already exist and will be replaced: they get our key",
    PlannedOutcome.CONFLICT: "conflict: somebody else's connection has the name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One connection that is wanted."""

    target: str
    project_id: str
    name: str
    on_conflict: str
    credential: str
    project_name: str | None

    def __str__(self) -> str:
        return f"{self.project_name} ({self.project_id})" if self.project_name else self.project_id


@dataclass(slots=True, kw_only=True)
class Ahead:
    """What was found. `known` are in the table already, by status; `new` are not, by what would come of them.

    `blocked` cannot be done with the settings at hand, by the reason; `wrong_keys` are those of them that have keys of
    their own. The identity is no member of the projects of
    `strangers`. `work` is how many creates and replacements the new ones add, by target. `seconds` is how long the rest
    takes, None if that is not known, and `why` says from what.
    """

    requests: int = 0
    known: Counter[str] = field(default_factory=Counter)
    new: Counter[PlannedOutcome] = field(default_factory=Counter)
    conflicts: list[Line] = field(default_factory=list)
    strangers: list[Line] = field(default_factory=list)
    blocked: Counter[str] = field(default_factory=Counter)
    wrong_keys: dict[str, list[Line]] = field(default_factory=dict)
    work: Counter[str] = field(default_factory=Counter)
    unseen: int = 0
    seconds: float | None = None
    why: str = ""

    @property
    def to_do(self) -> int:
        """How many are not finished, new ones included."""
        return self.known["pending"] + self.new.total()

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing of it can be done."""
        return self.requests > 0 and self.blocked.total() >= self.requests

    def told(self) -> Iterator[str]:
        """All of it, in lines."""
        for what, word in _WORDS.items():
            if self.new[what]:
                yield f"{self.new[what]:>9,} {word}"
        yield from _some(self.conflicts)
        done = ", ".join(f"{count:,} {status}" for status, count in sorted(self.known.items()) if count)
        if done:
            yield f"{self.known.total():>9,} requested earlier: {done}"
        if self.strangers:
            yield (
                f"{len(self.strangers):>9,} of {self.requests:,} lack the machine identity: add it to the project with "
                "a role that may create app connections"
            )
            yield from _some(self.strangers)
        for reason, count in self.blocked.most_common():
            yield f"{count:>9,} cannot be done here: {reason}"
            yield from _some(self.wrong_keys.get(reason, ()))
        if self.unseen:
            yield f"{'':9} conflicts are not known in advance: the identity may not list the organization's connections"

    def time(self) -> str:
        """How long the rest takes, in words."""
        if self.seconds is None:
            return "not known before the first create"
        return f"about {duration(max(1.0, self.seconds))}" + (f" ({self.why})" if self.why else "")


def _some(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines[:NAMED]:
        yield f"{'':10}{line}"
    if len(lines) > NAMED:
        yield f"{'':10}… and {len(lines) - NAMED:,} more"


async def look_ahead(
    settings: "Settings", database: "Database", lines: Sequence[Line], told: Mapping[str, Told] | None = None
) -> Ahead:
    """Ask the table and each target; `told` is what was asked already. Raises as `ask` does."""
    ahead = Ahead(requests=len(lines))
    known = dict(told or {})
    for target in sorted({line.target for line in lines}):
        of_target = [line for line in lines if line.target == target]
        if target not in settings.targets:
            ahead.blocked[f"target {target} is not in the settings: add [targets.{target}]"] += len(of_target)
            continue
        fresh = await _unknown(database, target, of_target, ahead)
        if not fresh and not ahead.known["pending"]:
            continue
        if target not in known:
            known[target] = await ask(settings, database, target, map(_request, of_target))
        for line in fresh:
            _judge(line, known[target], ahead)
    await _foretell(settings, database, ahead)
    return ahead


def _request(line: Line) -> Request:
    """The request of a line, as far as its key needs it."""
    return Request(id=0, project_id=line.project_id, name=line.name, description=None, credential=line.credential)


async def _unknown(database: "Database", target: str, lines: Sequence[Line], ahead: Ahead) -> Sequence[Line]:
    """Those that the table does not have yet; the others are counted."""
    from provisioner.postgres.recorded import asked_for

    fresh = {}
    for start in range(0, len(lines), AT_ONCE):
        some = {(line.project_id, line.name): line for line in lines[start : start + AT_ONCE]}
        asked = await asked_for(database, target, list(some))
        ahead.known.update(each.status for each in asked.values())
        fresh.update({place: line for place, line in some.items() if place not in asked})
    return list(fresh.values())


def _judge(line: Line, told: Told, ahead: Ahead) -> None:
    if why := told.missing.get(line.credential):
        sealed = line.credential.startswith(SEALED)
        reason = f"{'its API key' if sealed else f'credential {line.credential}'}: {why}"
        ahead.blocked[reason] += 1
        if sealed:
            ahead.wrong_keys.setdefault(reason, []).append(line)
    if line.project_id.lower() not in told.projects:
        ahead.strangers.append(line)
    project = told.project(line.project_id)
    if project is None:
        ahead.unseen += 1
        ahead.new[PlannedOutcome.CREATE] += 1
        ahead.work[line.target] += 1
        return
    what = planned_outcome(line.name, line.on_conflict, project, recorded_id=None)
    ahead.new[what] += 1
    if what is PlannedOutcome.CONFLICT:
        ahead.conflicts.append(line)
    else:
        ahead.work[line.target] += 1


async def _foretell(settings: "Settings", database: "Database", ahead: Ahead) -> None:
    """From the limit that is known, else from what the reads showed; the slowest target counts."""
    from provisioner.postgres.reports import read_gauges, read_outlook

    targets, _ = await read_outlook(database)
    reads = {each.target: each for each in (await read_gauges(database)).budgets if each.kind == "read"}
    pending = {each.target: each.pending for each in targets}
    allowed = {each.target: each.allowed for each in targets}
    slowest: float | None = None
    for target in settings.targets:
        work = pending.get(target, 0) + ahead.work[target]
        pace, why = allowed.get(target), ""
        if not pace and (budget := reads.get(target)):
            guess = expected(metered=budget.metered, reads=budget.permits, period=budget.period)
            pace, why = (guess.pace, guess.reason) if guess else (None, "")
        if work and pace and (slowest is None or work / pace > slowest):
            slowest, ahead.why = work / pace, why
    ahead.seconds = slowest


def question(ahead: Ahead) -> str:
    """What is asked before anything is written."""
    created = ahead.new[PlannedOutcome.CREATE]
    others = ahead.to_do - created - ahead.new[PlannedOutcome.CONFLICT]
    if not created:
        return f"Carry out {several(others, 'request')}?"
    return f"Create {several(created, 'connection')}" + (
        f" and carry out {several(others, 'other request')}?" if others else "?"
    )
