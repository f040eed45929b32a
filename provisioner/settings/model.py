"""The settings as a whole, for the life of a process."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from provisioner.core.secret import Secret
from provisioner.settings.errors import SettingsError
from provisioner.settings.identity import able_to_log_in
from provisioner.settings.layers import Given
from provisioner.settings.sections import Sections, Target
from provisioner.settings.shape import NAMED, SECTIONS, Setting, dotted, variable
from provisioner.settings.values import normalise_name


class Settings(Sections):
    """Every setting, checked, with the source of its value."""

    _given: Mapping[Setting, Given] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[Setting, Given]) -> Self:
        """Check the given values; raise pydantic's `ValidationError`."""
        tables: dict[str, Any] = {}
        for setting, one in given.items():
            table = tables
            for part in setting[:-1]:
                table = table.setdefault(part, {})
            table[setting[-1]] = one.value
        settings = cls.model_validate(tables)
        settings._given = given  # noqa: SLF001  # its own constructor
        return settings

    def sources(self) -> Mapping[str, str]:
        """Return where each setting's value came from: `retry.base` -> `environment PROVISIONER_RETRY__BASE`."""
        return {
            dotted(path): self._given[path].source if path in self._given else "default" for path, _ in self.effective()
        }

    def secret_file(self, *setting: str) -> Path | None:
        """Return the file that a secret was read from; a correction there needs no restart."""
        return self._given[setting].file if setting in self._given else None

    def effective(self) -> Iterator[tuple[Setting, object]]:
        """Yield every setting and its effective value, in the order of the reference."""
        for section in SECTIONS:
            value = getattr(self, section)
            groups = {(section, name): one for name, one in value.items()} if section in NAMED else {(section,): value}
            for prefix, group in groups.items():
                for field in type(group).model_fields:
                    yield (*prefix, field), getattr(group, field)

    def database_url(self) -> Secret:
        """Return the database's URL. Raises `SettingsError` if none is set."""
        if self.database.url is None:
            raise SettingsError(
                "no database is set: set PROVISIONER_DATABASE_URL or DATABASE_URL, or [database] url in the file, "
                "as postgresql://user@host/database, or embedded for the one that is kept on this machine"
            )
        return self.database.url

    def login(self, target: str = "default") -> Target:
        """Return a target that a worker can log in to; raise `SettingsError` if it is missing or incomplete."""
        name = normalise_name(target)
        if name not in self.targets:
            raise SettingsError(f"there is no target {name}: set {variable('targets', name, 'url')}")
        return able_to_log_in(name, self.targets[name])
