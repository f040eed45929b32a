"""Find the API key of a request: a named credential from the settings, or a sealed one in the row.

Names are compared without case, and `_` equals `-`. Keys in the environment are read once, and keys in files again when
they change; opening one of these does no I/O except a check of its file, at most once a second. Keys in Infisical are
fetched with the identity of the request's target, or of the target in the settings, and cached.
"""

import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from provisioner.core.errors import CredentialUnknown, CredentialUnreadable
from provisioner.core.key_health import canonical
from provisioner.core.key_text import NoKey, key_in
from provisioner.core.model import Request
from provisioner.core.ports import SecretStore
from provisioner.core.secret import Secret, SecretLocation
from provisioner.credentials.fetched import FetchedSecret
from provisioner.credentials.files import FileSecret, FileUnreadable

SEALED: Final = "sealed:"

_is_name = re.compile(r"[A-Za-z0-9_.-]{1,64}").fullmatch


@dataclass(frozen=True, slots=True)
class FromVariable:
    """The key is in an environment variable."""

    name: str


@dataclass(frozen=True, slots=True)
class FromFile:
    """The key is in a file, which may be replaced at any time."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FromInfisical:
    """The key is a secret in Infisical, cached for `cache` seconds. `target` None means the request's own."""

    place: SecretLocation
    target: str | None = None
    cache: float = 300.0


Source = FromVariable | FromFile | FromInfisical | Secret
"""The source of a named credential; a `Secret` is the key itself."""


class Opener(Protocol):
    """Opens sealed credentials of rows."""

    def open(self, request: Request) -> Secret:
        """Return the API key in the request's box. Raises `CredentialUnreadable`."""


class NamedVault:
    """The credentials of this worker.

    Raises `ValueError` if two names are the same. `environ` is read at once; `opener` opens sealed credentials.
    """

    def __init__(
        self,
        credentials: Mapping[str, Source],
        *,
        opener: Opener | None = None,
        environ: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opener = opener
        self._keys: dict[str, Secret] = {}
        self._files: dict[str, FileSecret] = {}
        self._missing: dict[str, str] = {}
        self._fetching: dict[str, FromInfisical] = {}
        self._fetched: dict[tuple[str, str], FetchedSecret] = {}
        self._stores: dict[str, SecretStore] = {}
        self._monotonic = monotonic
        names: set[str] = set()
        for given, source in credentials.items():
            name = canonical(given)
            if name in names:
                raise ValueError(
                    f"the credential {name!r} is configured twice: _ is the same as -, and case is ignored"
                )
            names.add(name)
            self._add(name, source, environ, monotonic)

    async def open(self, request: Request) -> Secret:
        """Return the API key for a request without a target. Raises as `TargetVault.open`."""
        key = self.at_hand(request)
        return key if key is not None else self._find(request)

    def at_hand(self, request: Request) -> Secret | None:
        """Return the API key if it is in memory under exactly the request's name, which is the usual case."""
        return self._keys.get(request.credential)

    def at(self, target: str, store: SecretStore) -> "TargetVault":
        """Return the vault for the requests of one target; credentials kept in that target come from `store`."""
        self._stores[target] = store
        return TargetVault(self, target)

    def fetched(self, request: Request, target: str) -> FetchedSecret | None:
        """Return where to fetch the request's credential, if it must be fetched. Raises `CredentialUnreadable`."""
        name = canonical(request.credential)
        if (source := self._fetching.get(name)) is None:
            return None
        where = source.target or target
        if (one := self._fetched.get((name, where))) is None:
            if (store := self._stores.get(where)) is None:
                raise CredentialUnreadable(f"credential {name!r} comes from target {where!r}, which is not open here")
            one = FetchedSecret(name, source.place, store, cache=source.cache, monotonic=self._monotonic)
            self._fetched[name, where] = one
        return one

    def _add(self, name: str, source: Source, environ: Mapping[str, str], monotonic: Callable[[], float]) -> None:
        match source:
            case FromFile(path):
                self._files[name] = FileSecret(path, monotonic=monotonic)
            case FromInfisical():
                self._fetching[name] = source
            case FromVariable(variable):
                self._hold(name, environ.get(variable, ""), f"the environment variable {variable}")
            case Secret():
                self._hold(name, source.reveal(), f"the setting of credential {name!r}")

    def _hold(self, name: str, text: str, place: str) -> None:
        if not text.strip():
            self._missing[name] = f"{place} is empty or not set: set it to the API key and start the worker again"
            return
        try:
            self._keys[name] = key_in(text)
        except NoKey as flaw:
            self._missing[name] = f"{place} {flaw}: set it to only the API key and restart the worker"

    def _find(self, request: Request) -> Secret:
        if request.credential.startswith(SEALED):
            if self._opener is None:
                raise CredentialUnreadable(
                    "the credential is sealed, and no sealing key is configured on this worker: set sealing.key_file"
                )
            return self._opener.open(request)
        name = canonical(request.credential)
        if (key := self._keys.get(name)) is not None:
            return key
        if (file := self._files.get(name)) is not None:
            try:
                return file()
            except FileUnreadable as exc:
                raise CredentialUnreadable(str(exc)) from exc
        if name in self._fetching:
            raise CredentialUnreadable(f"credential {name!r} is in Infisical, and no target is open to fetch it with")
        if (problem := self._missing.get(name)) is not None:
            raise CredentialUnreadable(problem)
        raise CredentialUnknown(_unknown(name))


class TargetVault:
    """The credentials of this worker for the requests of one target."""

    def __init__(self, vault: NamedVault, target: str) -> None:
        self._vault = vault
        self._target = target

    async def open(self, request: Request) -> Secret:
        """Return the API key for a request.

        Raises `CredentialUnknown`, `CredentialUnreadable`, or `CredentialUnavailable` if it may be available later.
        """
        if (key := self._vault.at_hand(request)) is not None:
            return key
        fetched = self._vault.fetched(request, self._target)
        return await (self._vault.open(request) if fetched is None else fetched.get())

    async def reopen(self, request: Request) -> Secret:
        """Return the present key after a refusal. Raises as `open`."""
        fetched = self._vault.fetched(request, self._target)
        return await (self._vault.open(request) if fetched is None else fetched.again())


def _unknown(name: str) -> str:
    if not _is_name(name) or name.startswith("sk-"):
        # It may be a key in the place of a name, which must not get into logs and rows.
        return "the request's credential is neither the name of a credential nor a sealed one"
    return (
        f"credential {name!r} is not configured on this worker: add [credentials.{name}] to its settings, or set"
        f" PROVISIONER_CREDENTIALS__{name.upper().replace('-', '_').replace('.', '_')}__ENV"
    )
