"""The secrets of the settings: read once, read again from their files, or fetched when needed."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from provisioner.core.errors import CredentialUnknown, CredentialUnreadable
from provisioner.core.key_health import canonical, fingerprint
from provisioner.core.key_text import key_in
from provisioner.core.model import Request
from provisioner.core.secret import Secret
from provisioner.credentials.files import FileSecret, any_text
from provisioner.credentials.sealing import BoxOpener
from provisioner.credentials.vault import FromFile, FromInfisical, FromVariable, NamedVault, Source
from provisioner.infisical.auth import Auth, SecretSource, StaticToken, TokenExchange, UniversalAuth
from provisioner.postgres.credential_health import SharedCredentialHealth
from provisioner.postgres.pool import Database
from provisioner.settings import Credential, Settings


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
    one, kept = settings.login(target), partial(secret_source, settings)
    match one.auth:
        case "universal" if one.client_id is not None and one.client_secret is not None:
            source = kept(one.client_secret, "targets", target, "client_secret")
            return UniversalAuth(client_id=one.client_id, client_secret=source, organization_slug=one.organization_slug)
        case "token" if one.token is not None:
            return StaticToken(token=kept(one.token, "targets", target, "token"))
        case ("kubernetes" | "oidc") as way if one.identity_id is not None:
            proof: SecretSource | None = None if one.jwt_file is None else FileSecret(one.jwt_file)
            if one.jwt is not None:
                proof = kept(one.jwt, "targets", target, "jwt")
            if proof is not None:
                return TokenExchange(
                    method="kubernetes-auth" if way == "kubernetes" else "oidc-auth",
                    identity_id=one.identity_id,
                    jwt=proof,
                    organization_slug=one.organization_slug,
                )
    raise AssertionError  # the settings guarantee everything that a login needs


def _source(settings: Settings, name: str, credential: Credential) -> Source:
    if credential.env is not None:
        return FromVariable(credential.env)
    if credential.file is not None:
        return FromFile(credential.file)
    if (place := credential.place) is not None:
        return FromInfisical(place=place, target=credential.target, cache=credential.kept)
    if (file := settings.secret_file("credentials", name, "value")) is not None:
        return FromFile(file)
    if credential.value is None:
        raise AssertionError  # the settings guarantee a source
    return credential.value
