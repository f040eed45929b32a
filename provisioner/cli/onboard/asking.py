"""What one target tells before anything is written: its projects, their connections, and whether the keys are there."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.cli.look.survey import Surveyor, opened
from provisioner.core.comparison import Project
from provisioner.core.errors import CredentialUnavailable, CredentialUnknown, CredentialUnreadable
from provisioner.core.key_check import REASONS
from provisioner.core.model import Request
from provisioner.core.projects import SeenProject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.infisical.openrouter import OpenRouter
    from provisioner.postgres.pool import Database
    from provisioner.settings import Settings
    from provisioner.worker.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a target told: the projects that the identity is in, and what is in them.

    `organization` has the projects with connections; None if the identity may not read those of the organization.
    `missing` says of credentials why they cannot be had.
    """

    projects: "Mapping[str, SeenProject]"
    organization: Mapping[str, Project] | None
    missing: Mapping[str, str]

    def project(self, project_id: str) -> Project | None:
        """A project with its connections; None if they are not known."""
        if self.organization is None:
            return None
        return self.organization.get(project_id.lower(), Project.of(()))


async def ask(settings: "Settings", database: "Database", target: str, credentials: Collection[str]) -> Told:
    """Log in once, read two lists, and see whether the credentials are there.

    Raises `SettingsError`, `TargetUnusable` with what to do, `DatabaseUnavailable` and `DatabaseUnusable`.
    """
    from provisioner.keyring import open_vault
    from provisioner.targets import key_asker

    async with opened(settings, database, target, open_vault(settings)) as found:
        surveyor, asker = Surveyor(found.way), key_asker(settings, settings.targets[target].url)
        projects = await surveyor.projects(None)
        return Told(
            projects={project.id.lower(): project for project in projects},
            organization=await surveyor.organization(),
            missing={name: why for name in credentials if (why := await _missing(found.connections, name, asker))},
        )


async def _missing(target: "Target", credential: str, asker: "OpenRouter | None") -> str:
    """Why a credential cannot be used, empty if it can; no key is shown but to OpenRouter itself."""
    request = Request(id=0, project_id="", name="openrouter", description=None, credential=credential)
    try:
        key = await target.vault.open(request)
    except (CredentialUnknown, CredentialUnreadable, CredentialUnavailable) as error:
        return str(error)
    return REASONS.get(await asker.ask(key), "") if asker is not None else ""


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
