"""Predict an onboarding: what would be created, exists or conflicts, how long it takes, and what prevents it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from provisioner.cli.asking.infisical import Surveyor, opened
from provisioner.cli.asking.openrouter import ask_about_keys
from provisioner.cli.bulk.lines import Line, request_of
from provisioner.cli.bulk.plan import time_left
from provisioner.core.comparison import PlannedOutcome, Project, planned_outcome
from provisioner.core.model import Request
from provisioner.core.projects import SeenProject
from provisioner.core.text import duration, several
from provisioner.intake.rows import SEALED

if TYPE_CHECKING:
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings

AT_ONCE: Final = 5_000  # connections per query of the table
NAMED: Final = 5  # of a kind that are listed
_WORDS: Final = {
    PlannedOutcome.CREATE: "to create",
    PlannedOutcome.ADOPT: "already exist and will be adopted: recorded as they are",
    PlannedOutcome.REPLACE: "already exist and will be replaced: they get our key",
    PlannedOutcome.CONFLICT: "conflict: somebody else's connection has the name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetAnswer:
    """What a target reported: the identity's projects, and their contents.

    `organization` has the projects with connections; None if the identity may not list those of the organization.
    `missing` says why credentials, as written in the rows, cannot be used.
    """

    projects: Mapping[str, SeenProject]
    organization: Mapping[str, Project] | None
    missing: Mapping[str, str]

    def project(self, project_id: str) -> Project | None:
        """Return a project with its connections; None if they are unknown."""
        if self.organization is None:
            return None
        return self.organization.get(project_id.lower(), Project.of(()))


@dataclass(slots=True, kw_only=True)
class Preview:
    """The prediction. `known` requests exist already, by status; `new` ones do not, by predicted outcome.

    `blocked` ones cannot be done with the present settings, by reason; `wrong_keys` are those of them with keys of
    their own. `strangers` are requests in projects without the identity. `work` is the number of creates and
    replacements that new ones add, by target. The rest takes `seconds`; None if that is unknown, and `why` is the
    basis.
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
        """The number of requests that are not finished, including new ones."""
        return self.known["pending"] + self.new.total()

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing can be done."""
        return self.requests > 0 and self.blocked.total() >= self.requests

    def told(self) -> Iterator[str]:
        """Yield the prediction, line by line."""
        for what, word in _WORDS.items():
            if self.new[what]:
                yield f"{self.new[what]:>9,} {word}"
        yield from _some(self.conflicts)
        done = ", ".join(f"{count:,} {status}" for status, count in sorted(self.known.items()) if count)
        if done:
            yield f"{self.known.total():>9,} requested earlier: {done}"
        if self.strangers:
            lack, exist = ("lacks", "does") if len(self.strangers) == 1 else ("lack", "do")
            yield (
                f"{len(self.strangers):>9,} of {self.requests:,} {lack} the machine identity, or {exist} not exist:"
                " add it to the project with a role that may create app connections"
            )
            yield from _some(self.strangers)
        for reason, count in self.blocked.most_common():
            yield f"{count:>9,} cannot be done here: {reason}"
            yield from _some(self.wrong_keys.get(reason, ()))
        if self.unseen:
            yield f"{'':9} conflicts are not known in advance: the identity may not list the organization's connections"

    def time(self) -> str:
        """Return how long the rest takes, in words."""
        if self.seconds is None:
            return "not known before the first create"
        return f"about {duration(max(1.0, self.seconds))}" + (f" ({self.why})" if self.why else "")


def _some(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines[:NAMED]:
        yield f"{'':10}{line.project}"
    if len(lines) > NAMED:
        yield f"{'':10}… and {len(lines) - NAMED:,} more"


async def preview_of(
    settings: "Settings", database: "Database", lines: Sequence[Line], told: Mapping[str, TargetAnswer] | None = None
) -> Preview:
    """Query the table and each target; `told` has earlier answers. Raises as `ask_target` does."""
    preview = Preview(requests=len(lines))
    known = dict(told or {})
    for target in sorted({line.target for line in lines}):
        of_target = [line for line in lines if line.target == target]
        if target not in settings.targets:
            preview.blocked[f"target {target} is not in the settings: add [targets.{target}]"] += len(of_target)
            continue
        fresh = await _unknown(database, target, of_target, preview)
        if not fresh and not preview.known["pending"]:
            continue
        if target not in known:
            known[target] = await ask_target(settings, database, target, map(request_of, of_target))
        for line in fresh:
            _judge(line, known[target], preview)
    preview.seconds, preview.why = await time_left(settings, database, preview.work, settings.targets)
    return preview


async def _unknown(database: "Database", target: str, lines: Sequence[Line], preview: Preview) -> Sequence[Line]:
    """Return the lines without a request in the table; count the others."""
    from provisioner.postgres.recorded import asked_for

    fresh = {}
    for start in range(0, len(lines), AT_ONCE):
        some = {(line.project_id, line.name): line for line in lines[start : start + AT_ONCE]}
        asked = await asked_for(database, target, list(some))
        preview.known.update(each.status for each in asked.values())
        fresh.update({place: line for place, line in some.items() if place not in asked})
    return list(fresh.values())


def _judge(line: Line, told: TargetAnswer, preview: Preview) -> None:
    if why := told.missing.get(line.credential):
        sealed = line.credential.startswith(SEALED)
        reason = f"{'its API key' if sealed else f'credential {line.credential}'}: {why}"
        preview.blocked[reason] += 1
        if sealed:
            preview.wrong_keys.setdefault(reason, []).append(line)
    if line.project_id.lower() not in told.projects:
        preview.strangers.append(line)
    project = told.project(line.project_id)
    if project is None:
        preview.unseen += 1
        preview.new[PlannedOutcome.CREATE] += 1
        preview.work[line.target] += 1
        return
    what = planned_outcome(line.name, line.on_conflict, project, recorded_id=None)
    preview.new[what] += 1
    if what is PlannedOutcome.CONFLICT:
        preview.conflicts.append(line)
    else:
        preview.work[line.target] += 1


def question(preview: Preview) -> str:
    """Return the question to ask before anything is written."""
    created = preview.new[PlannedOutcome.CREATE]
    others = preview.to_do - created - preview.new[PlannedOutcome.CONFLICT]
    if not created:
        return f"Carry out {several(others, 'request')}?"
    return f"Create {several(created, 'connection')}" + (
        f" and carry out {several(others, 'other request')}?" if others else "?"
    )


async def ask_target(
    settings: "Settings", database: "Database", target: str, requests: Iterable[Request]
) -> TargetAnswer:
    """Log in once, read two lists, and check whether these requests' keys are available and are management keys.

    Raises `SettingsError`, `TargetUnusable` with what to do, `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    from provisioner.keyring import open_vault
    from provisioner.targets import key_asker

    async with opened(settings, database, target, open_vault(settings)) as found:
        surveyor, asker = Surveyor(found.access), key_asker(settings, settings.targets[target].url)
        projects = await surveyor.projects(None)
        keys = await ask_about_keys(found.connections.vault, asker, requests)
        return TargetAnswer(
            projects={project.id.lower(): project for project in projects},
            organization=await surveyor.organization(),
            missing={**keys.missing, **keys.refused},
        )


async def without_connection(
    settings: "Settings", database: "Database", target: str, told: TargetAnswer, projects: Sequence[SeenProject]
) -> Sequence[SeenProject]:
    """Return the projects without an OpenRouter connection: at most one more read per project."""
    empty: dict[str, bool] = {}
    if told.organization is not None:
        empty = {each.id: not (told.organization.get(each.id.lower()) or Project.of(())).by_id for each in projects}
    else:

        def tell(project_id: str, project: Project | None, _: str) -> None:
            empty[project_id] = project is not None and not project.by_id

        async with opened(settings, database, target) as found:
            await Surveyor(found.access).survey([each.id for each in projects], tell)
    return [each for each in projects if empty.get(each.id)]
