"""The results of `plan`, and how they are printed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from provisioner.cli.asking.infisical import SHOWN, Unqueried, tell_more, tell_unasked
from provisioner.cli.bulk.lines import Line
from provisioner.cli.terminal.output import print_json, say, tell_detail, tell_error, tell_warning
from provisioner.core.comparison import PlannedOutcome
from provisioner.core.model import Connection
from provisioner.core.text import duration, several
from provisioner.intake.errors import Problem

FEW: Final = 10  # projects without the identity that are listed
_PROSPECTS: Final = {
    PlannedOutcome.EXISTS: "already exist, made by earlier requests",
    PlannedOutcome.CREATE: "would be created",
    PlannedOutcome.ADOPT: "exist, and would be adopted: recorded as they are",
    PlannedOutcome.REPLACE: "exist, and would be replaced: they get our key and are recorded",
    PlannedOutcome.CONFLICT: "would conflict: somebody else's connection has the name",
    PlannedOutcome.GONE: "were made earlier and no longer exist; `provisioner verify --repair` creates them again",
}
_BAD: Final = (PlannedOutcome.CONFLICT, PlannedOutcome.GONE)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What loading a file would lead to. `work` is the number of creates and replacements it adds, by target.

    All of that takes `seconds_left` seconds, together with what is pending; None if the limit is unknown. `reason` is
    the basis of the estimate, before the first create has shown the limit. `outside` has the first request of each
    project without the machine identity, of `projects` in total. `wrong_keys`: what OpenRouter says about invalid keys,
    with the number of lines and the first one. `by_name`: every new name was looked up, so connections of other apps
    were seen.
    """

    file: str
    by_name: bool = False
    lines: int
    problems: Sequence[Problem]
    skipped: int = 0
    counts: Counter[PlannedOutcome] = field(default_factory=Counter)
    work: Counter[str] = field(default_factory=Counter)
    bad: dict[PlannedOutcome, list[tuple[Line, str | None]]] = field(default_factory=dict)
    unasked: list[Unqueried] = field(default_factory=list)
    outside: list[Line] = field(default_factory=list)
    projects: int = 0
    seconds_left: float | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    wrong_keys: Sequence[tuple[str, int, int]] = ()

    @property
    def is_fine(self) -> bool:
        """Whether everything can be done."""
        return not (self.skipped or self.unasked or self.bad or self.outside or self.wrong_keys)

    def add(self, what: PlannedOutcome, line: Line, found: Connection | None, *, pending: bool) -> None:
        """Count one connection; `pending` if it is requested already."""
        self.counts[what] += 1
        if what in _BAD:
            self.bad.setdefault(what, []).append((line, found.id if found else None))
        elif what is not PlannedOutcome.EXISTS and not pending:
            self.work[line.target] += 1

    def document(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "file": self.file,
            "lines": self.lines,
            "by_name": self.by_name,
            "skipped": self.skipped,
            "problems": self.problems,
            "counts": {what.value: self.counts[what] for what in PlannedOutcome},
            **{
                name: [{**_as_dict(line), "connection_id": found} for line, found in self.bad.get(what, ())]
                for name, what in (("conflicts", PlannedOutcome.CONFLICT), ("gone", PlannedOutcome.GONE))
            },
            "not_asked": self.unasked,
            "outside": [
                {"target": one.target, "project_id": one.project_id, "project_name": one.project_name}
                for one in self.outside
            ],
            "wrong_keys": [
                {"problem": said, "lines": lines, "first_line": first} for said, lines, first in self.wrong_keys
            ],
            "seconds_left": self.seconds_left,
            "warnings": self.warnings,
        }


def _as_dict(line: Line) -> dict[str, Any]:
    return {"line": line.number, "target": line.target, "project_id": line.project_id, "name": line.name}


def tell_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan: everything as JSON for programs, what matters for people."""
    if as_json:
        print_json(plan.document())
        return
    if plan.skipped:
        tell_error(f"{plan.file}: {plan.skipped:,} of {several(plan.lines, 'line')} cannot be used")
        for problem in plan.problems:
            tell_detail(str(problem))
        if not plan.counts and not plan.unasked and not plan.outside:
            others = "" if plan.skipped == plan.lines else ", or plan the others with --skip-invalid"
            tell_detail(f"nothing was looked up; correct the {'line' if plan.skipped == 1 else 'lines'}{others}")
            return
    say(f"{plan.file}: {several(plan.lines, 'line')}; nothing was changed")
    for what, number in sorted(plan.counts.items(), key=lambda each: list(PlannedOutcome).index(each[0])):
        say(f"{number:>9,} {_PROSPECTS[what]}")
        for line, found in plan.bad.get(what, ())[:SHOWN]:
            made = f": connection {found}" if found else ""
            say(f"{'':10}line {line.number}: {line.name} in project {line.project}{made}")
        tell_more(len(plan.bad.get(what, ())))
    _tell_outside(plan)
    tell_unasked(plan.unasked)
    for said, lines, first in plan.wrong_keys:
        where = f"line {first}" if lines == 1 else f"line {first} is the first"
        say(f"{lines:>9,} {'has' if lines == 1 else 'have'} a wrong key ({where}): {said}")
    if plan.counts[PlannedOutcome.CREATE] and not plan.by_name:
        say("connections of other apps are not checked; --by-name looks up each name, with one more read each")
    for warning in plan.warnings:
        tell_warning(warning)
    _tell_outlook(plan)


def _tell_outside(plan: Plan) -> None:
    if not plan.outside:
        return
    lack, exist = ("lacks", "does") if len(plan.outside) == 1 else ("lack", "do")
    say(
        f"{len(plan.outside):>9,} of {several(plan.projects, 'project')} {lack} the machine identity, or {exist} not"
        " exist: add it to them with a role that may create app connections"
    )
    for line in plan.outside[:FEW]:
        say(f"{'':10}{line.project}")
    if (more := len(plan.outside) - FEW) > 0:
        say(f"{'':10}… and {more:,} more")


def _tell_outlook(plan: Plan) -> None:
    if not sum(plan.work.values()):
        return
    if plan.seconds_left is None:
        say("the duration is unknown: the rate limit is learned from the first create")
    else:
        why = f" ({plan.reason})" if plan.reason else ""
        say(f"including what is already pending, it takes about {duration(max(1.0, plan.seconds_left))}{why}")
