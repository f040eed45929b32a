"""The vault finds API keys by name, and says what to fix when it cannot."""

import asyncio
from pathlib import Path

import pytest

from provisioner.core.errors import CredentialUnknown, CredentialUnreadable
from provisioner.core.model import Request
from provisioner.core.secret import Secret
from provisioner.credentials.files import CHECK_EVERY, GRACE, LARGEST, FileSecret, FileUnreadable
from provisioner.credentials.vault import FromFile, FromVariable, NamedVault

KEY = "sk-or-v1-of-the-vault"


class Clock:
    """A monotonic clock that moves when the test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.time


class Box:
    """Opens sealed credentials by returning what it was given."""

    def open(self, request: Request) -> Secret:
        """The credential's text itself."""
        return Secret(f"opened {request.credential}")


def asking(credential: str) -> Request:
    """A request with this credential."""
    return Request(id=1, project_id="p", name="openrouter", description=None, credential=credential)


def opened(vault: NamedVault, credential: str) -> str:
    """The key that the vault finds."""
    return asyncio.run(vault.open(asking(credential))).reveal()


def replace_file(path: Path, text: str | bytes) -> None:
    """Replace a file the way rotation tools do."""
    new = path.with_suffix(".new")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    new.replace(path)


@pytest.mark.parametrize("name", ["team-a", "TEAM_A", "Team_a", " team-a "])
def test_names_are_compared_without_case(name: str) -> None:
    """A credential is found whatever its case, and with _ for -."""
    assert opened(NamedVault({"Team_A": Secret(KEY)}), name) == KEY


def test_variables_are_read_at_the_start() -> None:
    """A key in the environment is read once: changing the variable later changes nothing."""
    environ = {"OPENROUTER_KEY": f"{KEY}\n"}
    vault = NamedVault({"default": FromVariable("OPENROUTER_KEY")}, environ=environ)
    environ["OPENROUTER_KEY"] = "other"
    assert opened(vault, "default") == KEY


def test_an_opened_key_costs_nothing() -> None:
    """The same secret is returned each time, so that opening it is only looking it up."""
    vault = NamedVault({"default": Secret(KEY)})
    first = asyncio.run(vault.open(asking("default")))
    assert asyncio.run(vault.open(asking("default"))) is first


@pytest.mark.parametrize("environ", [{}, {"OPENROUTER_KEY": " \n"}, {"OPENROUTER_KEY": "sk-\udcff"}])
def test_unusable_variables(environ: dict[str, str]) -> None:
    """A variable without a usable key is named when the credential is needed, and never shown."""
    vault = NamedVault({"default": FromVariable("OPENROUTER_KEY")}, environ=environ)
    with pytest.raises(CredentialUnreadable, match="OPENROUTER_KEY") as caught:
        opened(vault, "default")
    assert "\udcff" not in str(caught.value)


def test_unknown_names() -> None:
    """An unknown name is reported with the setting that adds it."""
    vault = NamedVault({"default": Secret(KEY)})
    with pytest.raises(CredentialUnknown, match=r"'team-b' is not configured.*PROVISIONER_CREDENTIALS__TEAM_B__ENV"):
        opened(vault, "team_b")


@pytest.mark.parametrize("credential", ["sk-or-v1-pasted", "x" * 70, "two words", "a\x00b", ""])
def test_what_may_be_a_key_is_not_repeated(credential: str) -> None:
    """A text that is not a credential's name may be a misplaced key, so the error does not show it."""
    with pytest.raises(CredentialUnknown) as caught:
        opened(NamedVault({}), credential)
    assert not credential or credential not in str(caught.value)


def test_names_that_are_the_same() -> None:
    """Two configured names that are compared as equal are refused at the start."""
    with pytest.raises(ValueError, match="'team-a' is configured twice"):
        NamedVault({"team-a": Secret(KEY), "TEAM_A": Secret(KEY)})


def test_sealed_credentials() -> None:
    """A sealed credential goes to the opener; without one the error says what is missing."""
    assert opened(NamedVault({}, opener=Box()), "sealed:k1:AAAA") == "opened sealed:k1:AAAA"
    with pytest.raises(CredentialUnreadable, match="no sealing key is configured"):
        opened(NamedVault({}), "sealed:k1:AAAA")


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    """A replaced file counts within a second, and a key file's newline is no part of the key."""
    path, clock = tmp_path / "key", Clock()
    path.write_text(f"{KEY}\r\n")
    vault = NamedVault({"default": FromFile(path)}, monotonic=clock)
    assert opened(vault, "default") == KEY
    replace_file(path, "sk-or-v1-rotated\n")
    assert opened(vault, "default") == KEY
    clock.time += CHECK_EVERY
    assert opened(vault, "default") == "sk-or-v1-rotated"


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    """While a file stays the same, the same secret is returned without reading it."""
    path, clock = tmp_path / "key", Clock()
    path.write_text(KEY)
    secret = FileSecret(path, monotonic=clock)
    first = secret()
    clock.time += 10 * CHECK_EVERY
    assert secret() is first


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b"\n", "is empty"), (b"sk-\xff", "not UTF-8"), (b"x" * (LARGEST + 1), "too large")],
)
def test_unusable_files(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """A file without a usable key is named with the reason, and its content is not shown."""
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CredentialUnreadable, match=reason) as caught:
        opened(NamedVault({"default": FromFile(path)}), "default")
    assert str(path) in str(caught.value)


def test_a_file_that_is_gone_for_a_moment(tmp_path: Path) -> None:
    """While a file is being replaced its last key serves on; when it stays away, that is an error; it may come back."""
    path, clock = tmp_path / "key", Clock()
    path.write_text(KEY)
    secret = FileSecret(path, monotonic=clock)
    assert secret().reveal() == KEY
    path.unlink()
    clock.time += GRACE - CHECK_EVERY
    assert secret().reveal() == KEY
    clock.time += CHECK_EVERY
    with pytest.raises(FileUnreadable, match="cannot be read"):
        secret()
    path.write_text("sk-or-v1-back")
    assert secret().reveal() == "sk-or-v1-back"
