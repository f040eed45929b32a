"""What one target tells before anything is written: its projects, their connections, and whether the keys are there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.cli.asking.openrouter import ask_about_keys
from provisioner.cli.asking.infisical import Surveyor, opened
from provisioner.core.comparison import Project
from provisioner.core.model import Request
from provisioner.core.projects import SeenProject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a target told: the projects that the identity is in, and what is in them.

    `organization` has the projects with connections; None if the identity may not read those of the organization.
    `missing` says of credentials, as they stand in the rows, why they cannot be used.
    """

    projects: "Mapping[str, SeenProject]"
    organization: Mapping[str, Project] | None
    missing: Mapping[str, str]

    def project(self, project_id: str) -> Project | None:
        """A project with its connections; None if they are not known."""
        if self.organization is None:
            return None
        return self.organization.get(project_id.lower(), Project.of(()))


async def ask(settings: "Settings", database: "Database", target: str, requests: Iterable[Request]) -> Told:
    """Log in once, read two lists, and see whether the keys of these requests are there, and are management keys.

    Raises `SettingsError`, `TargetUnusable` with what to do, `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    from provisioner.keyring import open_vault
    from provisioner.targets import key_asker

    async with opened(settings, database, target, open_vault(settings)) as found:
        surveyor, asker = Surveyor(found.way), key_asker(settings, settings.targets[target].url)
        projects = await surveyor.projects(None)
        keys = await ask_about_keys(found.connections.vault, asker, requests)
        return Told(
            projects={project.id.lower(): project for project in projects},
            organization=await surveyor.organization(),
            missing={**keys.missing, **keys.refused},
        )


async def without_connection(
    settings: "Settings", database: "Database", target: str, told: Told, projects: "Sequence[SeenProject]"
) -> "Sequence[SeenProject]":
    """Those of the projects that have no OpenRouter connection: one more read a project, if there is no other way."""
    empty: dict[str, bool] = {}
    if told.organization is not None:
        empty = {each.id: not (told.organization.get(each.id.lower()) or Project.of(())).by_id for each in projects}
    else:

        def tell(project_id: str, project: Project | None, _: str) -> None:
            empty[project_id] = project is not None and not project.by_id

        async with opened(settings, database, target) as found:
            await Surveyor(found.way).survey([each.id for each in projects], tell)
    return [each for each in projects if empty.get(each.id)]
