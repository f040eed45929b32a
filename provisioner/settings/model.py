"""The settings as a whole, in force for the life of a process."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pydantic import PrivateAttr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from provisioner.core.secret import Secret
from provisioner.settings.errors import SettingsError
from provisioner.settings.identity import Identity, identity_of
from provisioner.settings.layers import Layer
from provisioner.settings.sections import (
    Credential,
    Database,
    Listen,
    Log,
    Notify,
    Retry,
    Sealing,
    Target,
    Verify,
    Worker,
)
from provisioner.settings.shape import NAMED, SECTIONS, Setting, dotted, variable
from provisioner.settings.values import normalise_name


class Settings(BaseSettings):
    """Every setting, checked; each knows where its value came from."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database: Database = Database()
    targets: dict[str, Target]
    credentials: dict[str, Credential]
    retry: Retry = Retry()
    worker: Worker = Worker()
    listen: Listen = Listen()
    sealing: Sealing = Sealing()
    notify: Notify = Notify()
    verify: Verify = Verify()
    log: Log = Log()

    _sources: Mapping[str, str] = PrivateAttr(default_factory=dict)
    _files: Mapping[Setting, Path] = PrivateAttr(default_factory=dict)

    @classmethod
    def from_layers(cls, layers: Sequence[Layer]) -> Self:
        """Merge the layers, the first wins, and check the result; raise pydantic's `ValidationError`."""
        settings = cls.model_validate({"layers": layers})
        said = {dotted(path): given.source for layer in reversed(layers) for path, given in layer.given.items()}
        settings._sources = {  # noqa: SLF001  # its own constructor
            dotted(path): said.get(dotted(path), "default") for path, _ in settings.effective()
        }
        given = {path: one for layer in reversed(layers) for path, one in layer.given.items()}
        settings._files = {path: one.file for path, one in given.items() if one.file}  # noqa: SLF001  # as above
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # ours knows how its user wrote each value
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # nothing is read that was not asked for
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # ours reads every secret's `…_FILE`
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the given layers, and nothing else."""
        if not isinstance(init_settings, InitSettingsSource):
            raise TypeError("settings are made from layers")
        return tuple(_Source(settings_cls, layer) for layer in init_settings.init_kwargs["layers"])

    def sources(self) -> Mapping[str, str]:
        """Return where each setting's value came from: `retry.base` -> `environment PROVISIONER_RETRY__BASE`."""
        return MappingProxyType(self._sources)

    def secret_file(self, *setting: str) -> Path | None:
        """Return the file that a secret was read from: correcting it there needs no restart."""
        return self._files.get(setting)

    def effective(self) -> Iterator[tuple[Setting, object]]:
        """Give every setting that is in force with its value, in the order of the reference."""
        for section in SECTIONS:
            value = getattr(self, section)
            groups = {(section, name): one for name, one in value.items()} if section in NAMED else {(section,): value}
            for prefix, group in groups.items():
                for field in type(group).model_fields:
                    yield (*prefix, field), getattr(group, field)

    def database_url(self) -> Secret:
        """Return the database's URL; raise `SettingsError` when none is set."""
        if self.database.url is None:
            raise SettingsError(
                "no database is set: set PROVISIONER_DATABASE_URL or DATABASE_URL, or [database] url in the file, "
                "as postgresql://user@host/database, or embedded for the one that is kept on this machine"
            )
        return self.database.url

    def identity(self, target: str = "default") -> Identity:
        """Return who to be at a target; raise `SettingsError` when it is not configured or cannot log in."""
        name = normalise_name(target)
        if name not in self.targets:
            raise SettingsError(f"there is no target {name}: set {variable('targets', name, 'url')}")
        return identity_of(name, self.targets[name])


class _Source(PydanticBaseSettingsSource):
    """One layer, as pydantic-settings merges it."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002  # as the base has it
        """Return one section's values; part of the interface, not used by a source that answers as a whole."""
        return self._layer.nested().get(field_name), field_name, True

    def __call__(self) -> dict[str, Any]:
        return self._layer.nested()
