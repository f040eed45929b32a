"""What `plan` and `verify` find, and how it is told."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from provisioner.cli.terminal.frame import print_json, say, several, tell_detail, tell_error, tell_warning
from provisioner.cli.terminal.progress import duration
from provisioner.core.comparison import AnyRecorded, Difference, PlannedOutcome, Recorded
from provisioner.core.model import Connection
from provisioner.intake.errors import Problem

FEW: Final = 10  # projects without the identity, one by one
SHOWN: Final = 20  # of a kind, one by one; --json has all

_PROSPECTS: Final = {
    PlannedOutcome.EXISTS: "already exist, made by earlier requests",
    PlannedOutcome.CREATE: "would be created",
    PlannedOutcome.ADOPT: "exist, and would be adopted: recorded as they are",
    PlannedOutcome.REPLACE: "exist, and would be replaced: they get our key and are recorded",
    PlannedOutcome.CONFLICT: "would conflict: somebody else's connection has the name",
    PlannedOutcome.GONE: "were made earlier and no longer exist; `provisioner verify --repair` creates them again",
}
_LEFT_ALONE: Final = {
    "adopted": "they were adopted, and belong to somebody else",
    "wiped": "their sealed key was wiped: set credential to a new one",
    "failing": "Infisical could not replace their keys, and tries again automatically: fix what the message says",
    "not now": "they have changed in the meantime",
}
_BAD: Final = (PlannedOutcome.CONFLICT, PlannedOutcome.GONE)


def called(project_name: str | None, project_id: str) -> str:
    """A project for people: what they call it, and its id."""
    return f"{project_name} ({project_id})" if project_name else project_id


@dataclass(frozen=True, slots=True)
class Unasked:
    """Requests whose project could not be asked for, or with `project_id` None whose target."""

    target: str
    project_id: str | None
    requests: int
    problem: str

    def __str__(self) -> str:
        return f"project {self.project_id}: {self.problem}" if self.project_id else self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What one line of a file asks for."""

    line: int
    target: str
    project_id: str
    name: str
    on_conflict: str
    project_name: str | None = None

    @property
    def project(self) -> str:
        """The project for people: what they call it, and its id."""
        return called(self.project_name, self.project_id)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What would become of a file. `work` is how many creates and replacements it would add, by target.

    `seconds_left` is how long all of that takes, together with what is pending; None if the limit is not known.
    `reason` says what it is taken from, before the first create has told the limit.
    `outside` has the first request of each project that the machine identity is not in, of `projects` in all.
    `wrong_keys`: what OpenRouter says of keys that are no good, with how many lines have them and the first of those.
    `by_name`: names that would be created were asked for one by one, so that other apps' connections were seen.
    """

    file: str
    by_name: bool = False
    lines: int
    problems: Sequence[Problem]
    skipped: int = 0
    counts: Counter[PlannedOutcome] = field(default_factory=Counter)
    work: Counter[str] = field(default_factory=Counter)
    bad: dict[PlannedOutcome, list[tuple[Planned, str | None]]] = field(default_factory=dict)
    unasked: list[Unasked] = field(default_factory=list)
    outside: list[Planned] = field(default_factory=list)
    projects: int = 0
    seconds_left: float | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    wrong_keys: Sequence[tuple[str, int, int]] = ()

    @property
    def is_fine(self) -> bool:
        """Whether all of it can be done."""
        return not (self.skipped or self.unasked or self.bad or self.outside or self.wrong_keys)

    def add(self, what: PlannedOutcome, planned: Planned, found: Connection | None, *, pending: bool) -> None:
        """Count one connection; `pending` is one that is asked for already."""
        self.counts[what] += 1
        if what in _BAD:
            self.bad.setdefault(what, []).append((planned, found.id if found else None))
        elif what is not PlannedOutcome.EXISTS and not pending:
            self.work[planned.target] += 1

    def document(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "file": self.file,
            "lines": self.lines,
            "by_name": self.by_name,
            "skipped": self.skipped,
            "problems": self.problems,
            "counts": {what.value: self.counts[what] for what in PlannedOutcome},
            **{
                name: [{**_as_dict(planned), "connection_id": found} for planned, found in self.bad.get(what, ())]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One request whose connection or rotation is not as it was recorded."""

    recorded: AnyRecorded
    differences: Mapping[Difference, str]

    def document(self) -> dict[str, Any]:
        """What is told of it, for programs."""
        one = self.recorded
        return {
            "id": one.id,
            "target": one.target,
            "project_id": one.project_id,
            "project_name": one.project_name,
            "name": one.name,
            f"{one.thing}_id": one.made,
            "differences": {what.value: said for what, said in self.differences.items()},
        }


@dataclass(slots=True, kw_only=True)
class Verified:
    """What a comparison showed, and with `repaired` what becomes of each request that differs.

    `fingerprints` are those of the keys that this host has; `unknown_keys` counts, by credential, the connections whose
    key could not be compared.
    """

    fingerprints: Mapping[str, str] = field(default_factory=dict)
    compared: int = 0
    rotations: int = 0
    projects: set[tuple[str, str]] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)
    unasked: list[Unasked] = field(default_factory=list)
    unknown_keys: Counter[str] = field(default_factory=Counter)
    repaired: Mapping[int, str] | None = None

    @property
    def is_fine(self) -> bool:
        """Whether all was compared and nothing differs."""
        return not (self.findings or self.unasked)

    @property
    def left_alone(self) -> Mapping[str, Sequence[Finding]]:
        """What was to be repaired and is not, by the reason."""
        left: dict[str, list[Finding]] = {}
        for finding in self.findings:
            outcome = (self.repaired or {}).get(finding.recorded.id, "not now")
            if outcome != "repairing":
                left.setdefault(outcome, []).append(finding)
        return left

    def note_key(self, recorded: Recorded) -> None:
        """Count a connection whose key cannot be compared. A sealed key is nobody else's, and never outdated."""
        if recorded.key_fingerprint and not recorded.credential.startswith("sealed:"):
            self.unknown_keys.update([recorded.credential] if recorded.credential not in self.fingerprints else [])


def _as_dict(planned: Planned) -> dict[str, Any]:
    return {"line": planned.line, "target": planned.target, "project_id": planned.project_id, "name": planned.name}


def tell_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan: all of it as JSON for programs, what matters for people."""
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
        for planned, found in plan.bad.get(what, ())[:SHOWN]:
            made = f": connection {found}" if found else ""
            say(f"{'':10}line {planned.line}: {planned.name} in project {planned.project}{made}")
        _tell_more(len(plan.bad.get(what, ())))
    _tell_outside(plan)
    _tell_unasked(plan.unasked)
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
    lack = "lacks" if len(plan.outside) == 1 else "lack"
    say(
        f"{len(plan.outside):>9,} of {several(plan.projects, 'project')} {lack} the machine identity, or do not exist:"
        " add it to them with a role that may create app connections"
    )
    for planned in plan.outside[:FEW]:
        say(f"{'':10}{planned.project}")
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


def tell_verified(verified: Verified, *, as_json: bool) -> None:
    """Print what a comparison showed."""
    if as_json:
        findings = [finding.document() for finding in verified.findings]
        repaired = None
        if verified.repaired is not None:
            repaired = {str(request): outcome for request, outcome in verified.repaired.items()}
        print_json(
            {
                "compared": verified.compared,
                "rotations": verified.rotations,
                "projects": len(verified.projects),
                "differences": findings,
                "not_compared": verified.unasked,
                "keys_not_compared": verified.unknown_keys,
                "repaired": repaired,
            }
        )
        return
    many = "was" if verified.compared == 1 else "were"
    compared = several(verified.compared - verified.rotations, "recorded connection")
    if verified.rotations:
        compared += f" and {several(verified.rotations, 'rotation')}"
    compared += f" in {several(len(verified.projects), 'project')}"
    say(f"{compared} {many} compared")
    kinds = Counter(what for finding in verified.findings for what in finding.differences)
    for what, number in kinds.items():
        say(f"{number:>9,} {what.value}")
        alike = [finding for finding in verified.findings if what in finding.differences]
        for finding in alike[:SHOWN]:
            one = finding.recorded
            project = called(one.project_name, one.project_id)
            say(f"{'':10}request {one.id}, {one.name} in project {project}: {finding.differences[what]}")
        _tell_more(len(alike))
    _tell_unasked(verified.unasked)
    for credential, number in sorted(verified.unknown_keys.items()):
        say(f"{number:>9,} not compared: this host does not have the key of credential {credential!r}")
    if verified.is_fine and verified.compared:
        say("everything is as recorded")
    elif verified.repaired is not None:
        _tell_repaired(verified)


def _tell_repaired(verified: Verified) -> None:
    repairing = sum(outcome == "repairing" for outcome in (verified.repaired or {}).values())
    say(f"{repairing:>9,} will be repaired by the workers")
    for outcome, findings in verified.left_alone.items():
        say(f"{len(findings):>9,} left alone: {_LEFT_ALONE[outcome]}")
        for finding in findings[:SHOWN]:
            one = finding.recorded
            say(f"{'':10}request {one.id}, {one.name} in project {one.project_id}")
        _tell_more(len(findings))


def _tell_unasked(unasked: Sequence[Unasked]) -> None:
    if not unasked:
        return
    say(f"{sum(each.requests for each in unasked):>9,} could not be looked up")
    for each in unasked[:SHOWN]:
        say(f"{'':10}{each}")
    _tell_more(len(unasked))


def _tell_more(number: int) -> None:
    if number > SHOWN:
        say(f"{'':10}… and {number - SHOWN:,} more; --json has all")
