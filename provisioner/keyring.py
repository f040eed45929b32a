"""The secrets of the settings: read once, read again from their files, or fetched when needed."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Literal

from provisioner.core.errors import CredentialUnknown, CredentialUnreadable
from provisioner.core.key_health import canonical, fingerprint
from provisioner.core.key_text import key_in
from provisioner.core.model import Request
from provisioner.core.secret import Secret, SecretLocation
from provisioner.credentials.files import FileSecret, any_text
from provisioner.credentials.sealing import BoxOpener
from provisioner.credentials.vault import FromFile, FromInfisical, FromVariable, NamedVault, Source
from provisioner.infisical.auth import Auth, SecretSource, StaticToken, TokenExchange, UniversalAuth
from provisioner.postgres.credential_health import SharedCredentialHealth
from provisioner.postgres.pool import Database
from provisioner.settings import Credential, JwtIdentity, Settings, TokenIdentity, UniversalIdentity


def secret_source(settings: Settings, secret: Secret, *setting: str) -> Secret | FileSecret:
    """Return a secret, or its file if it came from one, so that a correction needs no restart."""
    file = settings.secret_file(*setting)
    return secret if file is None else FileSecret(file, read=key_in if _is_key(setting) else any_text)


def _is_key(setting: tuple[str, ...]) -> bool:
    return setting[-1] not in {"url", "proxy", "signing_key"}


def open_vault(settings: Settings) -> NamedVault:
    """Return the named credentials of the settings, with the keys that open sealed ones."""
    sources = {name: _source(settings, name, one) for name, one in settings.credentials.items()}
    return NamedVault(sources, opener=BoxOpener(settings.sealing.key_file))


async def present_fingerprints(
    settings: Settings, database: Database, names: Collection[str] | None = None
) -> tuple[Mapping[str, str], Sequence[str]]:
    """Return the fingerprints of this host's present keys by canonical name, and why other keys have none.

    `names` selects canonical names. Keys kept in Infisical are not fetched. Raises `DatabaseUnavailable`
    and `DatabaseUnusable`.
    """
    vault = open_vault(settings)
    wanted = sorted(map(canonical, settings.credentials) if names is None else names)
    salt = await SharedCredentialHealth(database, target="").salt() if wanted else ""
    fingerprints: dict[str, str] = {}
    unread: list[str] = []
    for name in wanted:
        request = Request(id=0, project_id="", name="", description=None, credential=name)
        try:
            fingerprints[name] = fingerprint(await vault.open(request), salt)
        except (CredentialUnknown, CredentialUnreadable) as problem:
            unread.append(str(problem))
    return fingerprints, unread


def authentication(settings: Settings, target: str) -> Auth:
    """Return how to log in to a target. Raises `SettingsError` if nothing is configured."""
    kept = partial(secret_source, settings)
    match settings.identity(target):
        case UniversalIdentity(client_id=client_id, client_secret=secret, organization_slug=slug):
            source = kept(secret, "targets", target, "client_secret")
            return UniversalAuth(client_id=client_id, client_secret=source, organization_slug=slug)
        case TokenIdentity(token=token):
            return StaticToken(token=kept(token, "targets", target, "token"))
        case JwtIdentity(method=method, identity_id=identity_id, jwt=jwt, jwt_file=file, organization_slug=slug):
            login: Literal["kubernetes-auth", "oidc-auth"] = (
                "kubernetes-auth" if method == "kubernetes" else "oidc-auth"
            )
            if jwt is not None:
                proof: SecretSource = kept(jwt, "targets", target, "jwt")
            elif file is not None:
                proof = FileSecret(file)
            else:
                raise AssertionError  # the settings guarantee one or the other
            return TokenExchange(method=login, identity_id=identity_id, jwt=proof, organization_slug=slug)


def _source(settings: Settings, name: str, credential: Credential) -> Source:
    if credential.env is not None:
        return FromVariable(credential.env)
    if credential.file is not None:
        return FromFile(credential.file)
    if (secret := credential.infisical) is not None:
        place = SecretLocation(
            project=secret.project, environment=secret.environment, path=secret.path, name=secret.secret
        )
        return FromInfisical(place=place, target=secret.target, cache=secret.cache)
    if (file := settings.secret_file("credentials", name, "value")) is not None:
        return FromFile(file)
    if credential.value is None:
        raise AssertionError  # the settings guarantee a source
    return credential.value
