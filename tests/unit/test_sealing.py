"""Sealed API keys: who can make a box, who can open one, and for what."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from provisioner.core.errors import CredentialUnreadable
from provisioner.core.model import Request
from provisioner.core.secret import Secret
from provisioner.credentials.sealing import BoxOpener, KeyFileUnusable, SealingPair, add_to_file, is_private, read_file

if TYPE_CHECKING:
    from pathlib import Path

KEY = "sk-or-v1-recognisable-4711"
PROJECT = "8d7e2b34-6d3c-4d5e-9f4b-2f1f6c1a9b11"


def a_request(credential: str, *, project_id: str = PROJECT, name: str = "openrouter") -> Request:
    """A request with that credential."""
    return Request(id=1, project_id=project_id, name=name, description=None, credential=credential)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the private keys are going to be."""
    return tmp_path / "keys" / "sealing.keys"


@pytest.fixture
def pair(file: Path) -> SealingPair:
    """A key pair whose private half is in the file."""
    made = SealingPair.generate()
    add_to_file(file, made)
    return made


def sealed(pair: SealingPair, *, project_id: str = PROJECT, name: str = "openrouter") -> str:
    """A box for a connection."""
    return pair.key.seal(Secret(KEY), project_id=project_id, name=name)


class TestOpening:
    """The workers' side."""

    def test_a_box_gives_its_key(self, file: Path, pair: SealingPair) -> None:
        """The private half opens what the public half sealed; the box does not show the key."""
        box = sealed(pair)
        assert BoxOpener(file).open(a_request(box)).reveal() == KEY
        assert KEY not in box
        assert KEY.encode() not in base64.b64decode(box.split(":")[2])

    @pytest.mark.parametrize(
        "other", [{"project_id": "00000000-0000-4000-8000-000000000000"}, {"name": "another"}], ids=["project", "name"]
    )
    def test_a_copied_box_opens_nothing(self, file: Path, pair: SealingPair, other: dict[str, str]) -> None:
        """A box in the row of another project or connection is refused, and the refusal does not show the key."""
        with pytest.raises(CredentialUnreadable, match="another project or name") as caught:
            BoxOpener(file).open(a_request(sealed(pair), **other))
        assert KEY not in str(caught.value)

    def test_old_boxes_still_open(self, file: Path, pair: SealingPair) -> None:
        """After a rotation both keys open what they sealed, even in a running worker."""
        opener = BoxOpener(file)
        assert opener.open(a_request(sealed(pair))).reveal() == KEY
        newer = SealingPair.generate()
        add_to_file(file, newer)
        assert opener.open(a_request(sealed(newer))).reveal() == KEY
        assert opener.open(a_request(sealed(pair))).reveal() == KEY

    def test_an_unknown_key_names_the_file(self, file: Path, pair: SealingPair) -> None:
        """Without the private half, the message says which one is missing and where it belongs."""
        stranger = SealingPair.generate()
        with pytest.raises(CredentialUnreadable, match=f"no private key {stranger.key.key_id}; put it into {file}"):
            BoxOpener(file).open(a_request(sealed(stranger)))
        assert pair.key.key_id != stranger.key.key_id

    def test_a_wiped_box_says_so(self, file: Path) -> None:
        """A request that is tried again after its key was wiped needs a new key."""
        with pytest.raises(CredentialUnreadable, match="wiped"):
            BoxOpener(file).open(a_request("sealed:k1:wiped"))

    def test_a_box_wiped_later_says_when(self, file: Path) -> None:
        """A retry long after the failure says when the key was wiped, and what to do."""
        with pytest.raises(CredentialUnreadable, match=r"wiped on 2026-03-01, .*give the row a new one"):
            BoxOpener(file).open(a_request("sealed:k1:2026-03-01:wiped"))

    def test_a_file_that_others_may_read_is_refused(self, file: Path, pair: SealingPair) -> None:
        """A private key that everybody on the host can read is no private key."""
        file.chmod(0o644)
        with pytest.raises(CredentialUnreadable, match="chmod 600"):
            BoxOpener(file).open(a_request(sealed(pair)))

    @given(st.text(max_size=200))
    def test_nonsense_is_unreadable(self, text: str) -> None:
        """Whatever a row says, opening it gives a key or says that it cannot."""
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sealing.keys"
            pair = SealingPair.generate()
            add_to_file(path, pair)
            for credential in (f"sealed:{text}", f"sealed:{pair.key.key_id}:{text}"):
                with pytest.raises(CredentialUnreadable):
                    BoxOpener(path).open(a_request(credential))


class TestKeyFile:
    """The file of private keys."""

    def test_is_for_its_owner_alone(self, file: Path, pair: SealingPair) -> None:
        """It is made with mode 0600 in a folder of mode 0700, and holds one key a line with its id."""
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert file.read_text().startswith(f"{pair.key.key_id} ")
        assert list(read_file(file)) == [pair.key.key_id]

    def test_is_never_widened(self, file: Path, pair: SealingPair) -> None:
        """A key is not added to a file that others may read."""
        file.chmod(0o640)
        with pytest.raises(KeyFileUnusable, match="chmod 600"):
            add_to_file(file, pair)

    @pytest.mark.parametrize(
        ("mode", "owner", "private"),
        [
            (0o600, 10001, True),
            (0o400, 10001, True),
            (0o640, 10001, False),
            (0o440, 0, True),  # as Kubernetes and systemd lend it
            (0o640, 0, True),
            (0o660, 0, False),
            (0o444, 0, False),
            (0o644, 0, False),
        ],
    )
    def test_root_may_lend_it_through_a_group(self, mode: int, owner: int, private: bool) -> None:
        """A file of root's that the reader's group may read is private; any other that others may read is not."""
        assert is_private(mode, owner=owner, reader=10001) is private

    def test_root_itself_needs_no_group(self) -> None:
        """For a reader that is root, only root may own the file, and nobody else has to read it."""
        assert not is_private(0o640, owner=0, reader=0)
        assert is_private(0o600, owner=0, reader=0)

    def test_a_bad_line_is_named(self, file: Path, pair: SealingPair) -> None:
        """A damaged file is reported by line number, without the line's contents."""
        with file.open("a") as keys:
            keys.write("k2 not-a-key\n")
        with pytest.raises(KeyFileUnusable, match="line 2") as caught:
            read_file(file)
        assert "not-a-key" not in str(caught.value)
        assert pair.private.reveal() not in str(caught.value)

    def test_the_pair_does_not_print_its_private_half(self, pair: SealingPair) -> None:
        """Neither its repr nor its text shows the private key."""
        assert pair.private.reveal() not in f"{pair!r} {pair}"
