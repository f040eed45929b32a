"""Text that cannot be a key is reported and not sent; what surrounds a key is stripped."""

import base64
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from nacl.public import PublicKey, SealedBox

from provisioner.core.errors import CredentialUnavailable, CredentialUnreadable
from provisioner.core.key_text import LONGEST_KEY, NoKey, bare, decoded, key_in
from provisioner.core.model import Request
from provisioner.core.secret import Secret
from provisioner.credentials.files import FileSecret, FileUnreadable
from provisioner.credentials.sealing import BoxOpener, SealingPair, add_to_file
from provisioner.credentials.vault import FromFile, FromVariable, NamedVault
from provisioner.infisical.auth import StaticToken, TokenExchange, UniversalAuth
from provisioner.infisical.secrets import value_in
from provisioner.infisical.transport import Answer
from provisioner.intake.rows import Row, check
from provisioner.settings import SettingsError
from provisioner.settings.load import load_settings

KEY = "sk-or-v1-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
PROJECT = "6f0ba0f3-04b9-4b02-a5a6-6f9b1d4c1f6d"
AROUND = ["\ufeff", "\u200b", "\u2060", "\u00a0", "\r\n", "\n", "\t", " ", "\x00", "\x1b", "\x85", "\u2028", "\u200e"]
INSIDE = {
    " ": "a space",
    "\n": "a line break",
    "\r\n": "a line break",
    "\t": "the invisible character U+0009",
    "\x00": "the invisible character U+0000",
    "\u200b": "the invisible character U+200B",
    "\ufeff": "the invisible character U+FEFF",
    "\u00a0": "the invisible character U+00A0",
    "\u00e9": "the character U+00E9",
    "\u0441": "the character U+0441",
    "\N{KEY}": "the character U+1F511",
}
REQUEST = Request(id=1, project_id=PROJECT, name="openrouter", description=None, credential="default")


def sealed(content: str, folder: Path) -> Secret:
    """Open a box that somebody else's program sealed."""
    pair = SealingPair.generate()
    add_to_file(folder / "keys", pair)
    box = json.dumps({"apiKey": content, "projectId": PROJECT, "name": "openrouter"}).encode()
    text = base64.b64encode(SealedBox(PublicKey(pair.key.public)).encrypt(box)).decode()
    request = Request(
        id=1, project_id=PROJECT, name="openrouter", description=None, credential=f"sealed:{pair.key.key_id}:{text}"
    )
    return BoxOpener(folder / "keys").open(request)


def from_variable(content: str, _: Path) -> Secret:
    """Take a named credential from the environment."""
    vault = NamedVault({"default": FromVariable("KEY")}, environ={"KEY": content})
    return vault.at_hand(REQUEST) or vault._find(REQUEST)


def from_file(content: str, folder: Path) -> Secret:
    """Take a named credential from a file."""
    (folder / "key").write_bytes(content.encode())
    return NamedVault({"default": FromFile(folder / "key")})._find(REQUEST)


def from_infisical(content: str, _: Path) -> Secret:
    """Take a named credential from an Infisical secret."""
    return value_in(Answer(200, {}, json.dumps({"secret": {"secretValue": content}}).encode()), "KEY")


def from_intake(content: str, _: Path) -> Secret:
    """Take the column `api_key` of a line."""
    row = check(1, {"project_id": PROJECT, "api_key": content})
    if isinstance(row, Row):
        assert row.api_key is not None
        return row.api_key
    (problem,) = row
    assert problem.column == "api_key"
    raise CredentialUnreadable(problem.problem)


def setting(name: str, attribute: str) -> Callable[[str, Path], Secret]:
    """Take a setting of the default target from a file that its variable names."""

    def take(content: str, folder: Path) -> Secret:
        (folder / "secret").write_bytes(content.encode())
        settings = load_settings(environ={f"{name}_FILE": str(folder / "secret")}, cwd=folder)
        found = getattr(settings.targets["default"], attribute)
        assert isinstance(found, Secret)
        return found

    return take


def in_variable(name: str, attribute: str) -> Callable[[str, Path], Secret]:
    """Take a setting of the default target from its variable."""

    def take(content: str, folder: Path) -> Secret:
        found = getattr(load_settings(environ={name: content}, cwd=folder).targets["default"], attribute)
        assert isinstance(found, Secret)
        return found

    return take


WAYS: dict[str, Callable[[str, Path], Secret]] = {
    "variable": from_variable,
    "file": from_file,
    "infisical": from_infisical,
    "sealed": sealed,
    "api_key": from_intake,
    "client secret": setting("INFISICAL_UNIVERSAL_AUTH_CLIENT_SECRET", "client_secret"),
    "token": setting("INFISICAL_TOKEN", "token"),
    "jwt": in_variable("INFISICAL_AUTH_JWT", "jwt"),
    "login: client secret": lambda text, _: UniversalAuth(client_id="c", client_secret=Secret(text)).secret(),
    "login: token": lambda text, _: StaticToken(token=Secret(text)).secret(),
    "login: jwt": lambda text, _: TokenExchange(method="oidc-auth", identity_id="i", jwt=Secret(text)).secret(),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_stands_around_a_key_is_taken_away(way: str, tmp_path: Path) -> None:
    """A byte-order mark, line ends and invisible characters around a key are stripped."""
    for number, (before, behind) in enumerate(
        [("\ufeff", "\r\n"), (" ", "\n"), *zip(AROUND, reversed(AROUND), strict=True)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert WAYS[way](f"{before}{KEY}{behind}", folder) == Secret(KEY)


@pytest.mark.parametrize("odd", INSIDE)
@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_a_key_is_refused_in_words(way: str, odd: str, tmp_path: Path) -> None:
    """Text with something inside that no key has is never taken for one, and the reason shows no part of it."""
    with pytest.raises((CredentialUnreadable, FileUnreadable, SettingsError, ValueError)) as caught:
        WAYS[way](f"{KEY[:20]}{odd}{KEY[20:]}", tmp_path)
    assert INSIDE[odd] in str(caught.value)
    assert KEY[9:20] not in str(caught.value)
    assert KEY[20:] not in str(caught.value)


@pytest.mark.parametrize("quotes", ['""', "''", "``"])
def test_quotation_marks_are_named(quotes: str) -> None:
    """Quotes that a shell would have removed are part of the text where no shell reads it."""
    with pytest.raises(NoKey, match="is in quotation marks, which do not belong to it"):
        key_in(f"{quotes[0]}{KEY}{quotes[1]}\n")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_key_file_of_windows_is_read(encoding: str, tmp_path: Path) -> None:
    """PowerShell writes UTF-16 or a byte-order mark, and ends with CRLF: it is the same key."""
    (tmp_path / "key").write_bytes(f"{KEY}\r\n".encode(encoding))
    assert FileSecret(tmp_path / "key")() == Secret(KEY)
    settings = load_settings(environ={"INFISICAL_TOKEN_FILE": str(tmp_path / "key")}, cwd=tmp_path)
    assert settings.targets["default"].token == Secret(KEY)


@pytest.mark.parametrize("name", ["CLIENT_ID", "CLIENT_SECRET", "TOKEN", "JWT"])
def test_a_setting_that_cannot_be_a_key_is_named(name: str) -> None:
    """The settings refuse it at the start, by the name that its user wrote."""
    variable = f"PROVISIONER_TARGETS__DEFAULT__{name}"
    with pytest.raises(SettingsError, match=rf"^{variable} contains the character U\+00FC"):
        load_settings(environ={variable: "k\u00fcy"})
    with pytest.raises(SettingsError, match=r"^PROVISIONER_CREDENTIALS__A__VALUE contains a space"):
        load_settings(environ={"PROVISIONER_CREDENTIALS__A__VALUE": "two words"})


@pytest.mark.parametrize("name", ["INFISICAL_MACHINE_IDENTITY_ID", "PROVISIONER_TARGETS__DEFAULT__IDENTITY_ID"])
@pytest.mark.parametrize(
    "text", ["my-identity", "0e1ad8a2-6c5b-4c3f-9d0c", "\u00fc", "0e1ad8a2 6c5b 4c3f 9d0c 0a3d0f1a7f11"]
)
def test_an_identity_id_that_is_no_uuid_is_refused(name: str, text: str) -> None:
    """Infisical would answer each login with 500, so the settings explain the format at the start."""
    with pytest.raises(SettingsError, match=f"^{name} must be the id of a machine identity, a UUID such as") as caught:
        load_settings(environ={name: text, "INFISICAL_AUTH_JWT": "e30.e30.e30"})
    assert text not in str(caught.value)


def test_an_identity_id_is_taken_as_people_paste_it() -> None:
    """Case, braces and surrounding white space do not matter."""
    for text in ("\ufeff0E1AD8A2-6C5B-4C3F-9D0C-0A3D0F1A7F11\r\n", "{0e1ad8a2-6c5b-4c3f-9d0c-0a3d0f1a7f11}"):
        settings = load_settings(environ={"INFISICAL_MACHINE_IDENTITY_ID": text})
        assert settings.targets["default"].identity_id == "0e1ad8a2-6c5b-4c3f-9d0c-0a3d0f1a7f11"


def key_or_reason(text: str) -> str | NoKey:
    """How a text is interpreted."""
    try:
        return key_in(text).reveal()
    except NoKey as reason:
        return reason


@given(text=st.text() | st.text(st.characters(max_codepoint=0x7F)))
def test_any_text_is_a_key_or_none(text: str) -> None:
    """Whatever the input, a key that is sent is printable ASCII without spaces, and unchanged."""
    key = key_or_reason(text)
    if isinstance(key, NoKey):
        assert str(key)
        assert str(key).isprintable()
        return
    assert key
    assert all("!" <= letter <= "~" for letter in key)
    assert key in text
    assert bare(text) == key


@given(octets=st.binary())
def test_any_file_is_text_or_refused(octets: bytes) -> None:
    """A file of anything raises nothing but a reason."""
    with contextlib.suppress(NoKey):
        assert isinstance(decoded(octets), str)


@pytest.mark.parametrize(("length", "fits"), [(LONGEST_KEY, True), (LONGEST_KEY + 1, False)])
def test_a_key_has_a_longest_length(length: int, fits: bool) -> None:
    """Another kind of file is not sent as a key; the message names the permitted length."""
    if fits:
        assert key_in("k" * length).reveal() == "k" * length
    else:
        with pytest.raises(NoKey, match=f"longer than {LONGEST_KEY} characters"):
            key_in("k" * length)


@pytest.mark.parametrize(
    "body", [b"<html>", b"", b"{}", b"[]", b'{"ok": true}', b'{"secret": null}', b'{"secret": {"secretKey": "OTHER"}}']
)
def test_what_is_not_about_the_secret_makes_nobody_fail(body: bytes) -> None:
    """A gateway's page in place of the secret, or another secret, passes: no request fails because of it."""
    with pytest.raises(CredentialUnavailable):
        value_in(Answer(200, {}, body), "KEY")
    with pytest.raises(CredentialUnreadable):
        value_in(Answer(200, {}, b'{"secret": {"secretKey": "KEY"}}'), "KEY")
