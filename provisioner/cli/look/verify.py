"""`provisioner verify`: compare what was recorded with what Infisical has."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from provisioner.cli.asking.infisical import Unqueried
from provisioner.cli.look.verify_report import Finding, Verified, tell_verified
from provisioner.cli.terminal.filters import filtering, tell_unknown_of
from provisioner.cli.terminal.frame import DONE, NOT_DONE, PARTLY, Config, Json, load, open_database
from provisioner.cli.terminal.progress import counting
from provisioner.core.comparison import WRONG, AnyRecorded, Difference, Project, Recorded, differences
from provisioner.core.requests import State
from provisioner.postgres.filters import Filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from provisioner.cli.asking.infisical import Surveyor
    from provisioner.postgres.pool import Database
    from provisioner.postgres.recorded import Place
    from provisioner.settings import Settings


@filtering("ids", "batches", "projects", "targets")
async def verify(
    config: Config = None,
    *,
    wanted: Filter,
    repair: Annotated[bool, typer.Option("--repair", help="Have workers repair what differs.")] = False,
    as_json: Json = False,
) -> int:
    """Compare recorded connections and rotations with Infisical: what is gone, or was changed there.

    Reported are connections that are gone or renamed, have another description, other credentials or an old key; and
    rotations with another schedule, spending limit or secret, that are switched off, or whose key Infisical could not
    replace. Keys are compared by fingerprint, if this host has them. The command logs in once, and reads the
    connections of the whole organization or, if the identity may not do that, of each project; rotations take one read
    per project. It uses at most half of the read budget, so workers can always look up what they have made.

    Exits 1 if anything differs or could not be compared. With --repair, workers create again what is gone, and send
    everything else again; adopted ones are left alone. Then it exits 0 if everything that differs is repaired, 3 if
    some of it is left alone, and 1 if something could not be compared.

    Example: provisioner verify --batch onboarding --repair
    """
    from provisioner.keyring import present_fingerprints
    from provisioner.postgres.browse import count
    from provisioner.postgres.desired_changes import repair as put_in_line

    settings, wanted = load(config), replace(wanted, states=(State.SUCCEEDED,))
    async with open_database(settings) as database:
        if await tell_unknown_of(database, wanted):
            return NOT_DONE
        total = sum((await count(database, wanted)).values())
        fingerprints, _ = await present_fingerprints(settings, database) if total else ({}, ())
        verified = Verified(fingerprints=fingerprints)
        with counting("comparing", total=total, quiet=as_json) as advance:
            await _compare_all(settings, database, wanted, verified, advance)
        if repair:
            wrong = {
                each.recorded.id: frozenset[str]().union(*(WRONG[what] for what in each.differences))
                for each in verified.findings
            }
            verified.repaired = await put_in_line(database, wrong)
    tell_verified(verified, as_json=as_json)
    if verified.unasked:
        return NOT_DONE
    if verified.repaired is None:
        return DONE if verified.is_fine else NOT_DONE
    return PARTLY if verified.left_alone else DONE


async def _compare_all(
    settings: "Settings", database: "Database", wanted: Filter, verified: Verified, advance: "Callable[[int], None]"
) -> None:
    from provisioner.cli.asking.infisical import surveying

    async with AsyncExitStack() as stack:
        surveyors: dict[str, Surveyor] = {}
        async for page, of in _pages(database, wanted):
            for target, projects in _by_target(page).items():
                if target not in settings.targets:
                    requests = sum(map(len, projects.values()))
                    problem = f"target {target} is not in the settings of this host"
                    verified.unasked.append(Unqueried(target, None, requests, problem))
                    continue
                if target not in surveyors:
                    surveyors[target] = await stack.enter_async_context(surveying(settings, database, target))
                await _compare(of(surveyors[target]), target, projects, verified, advance)


async def _pages(
    database: "Database", wanted: Filter
) -> "AsyncIterator[tuple[Mapping[Place, Sequence[AnyRecorded]], Callable[[Surveyor], Surveyor]]]":
    """Yield what was recorded of each kind, with the surveyor for it."""
    from provisioner.postgres.kinds import ROTATIONS
    from provisioner.postgres.recorded import recorded_by_project

    async for connections in recorded_by_project(database, wanted):
        yield connections, lambda surveyor: surveyor
    async for rotations in recorded_by_project(database, wanted, ROTATIONS):
        yield rotations, lambda surveyor: surveyor.rotations


def _by_target(page: "Mapping[Place, Sequence[AnyRecorded]]") -> Mapping[str, Mapping[str, Sequence[AnyRecorded]]]:
    found: dict[str, dict[str, Sequence[AnyRecorded]]] = {}
    for (target, project_id), recorded in page.items():
        found.setdefault(target, {})[project_id] = recorded
    return found


async def _compare(
    surveyor: "Surveyor",
    target: str,
    projects: Mapping[str, Sequence[AnyRecorded]],
    verified: Verified,
    advance: "Callable[[int], None]",
) -> None:
    def tell(project_id: str, project: Project | None, problem: str) -> None:
        recorded = projects[project_id]
        advance(len(recorded))
        if project is None:
            verified.unasked.append(Unqueried(target, project_id, len(recorded), problem))
            return
        verified.projects.add((target, project_id))
        verified.compared += len(recorded)
        for one in recorded:
            if isinstance(one, Recorded):
                verified.note_key(one)
            else:
                verified.rotations += 1
            if found := differences(one, project, verified.fingerprints):
                verified.findings.append(Finding(recorded=one, differences=found))

    def sure(project_id: str, project: Project) -> bool:
        # A connection missing in the list of all may have been made after it, so its project is queried before it is
        # called gone.
        return all(Difference.GONE not in differences(one, project) for one in projects[project_id])

    await surveyor.survey(projects, tell, sure=sure)
