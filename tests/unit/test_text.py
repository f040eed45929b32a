"""Foreign text is made safe to show: without control characters and keys, otherwise unchanged."""

import html
import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from provisioner.core.model import ERROR_MESSAGE_LENGTH
from provisioner.core.secret import MASK
from provisioner.infisical.parts import LONGEST_EXAMINED, MIN_SECRET, clean

KEY = "sk-or-v1-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
ZEROS = f"sk-or-v1-{'0' * 64}"
PROJECT = "6f0ba0f3-04b9-4b02-a5a6-6f9b1d4c1f6d"


def test_messages_are_safe() -> None:
    """A foreign message loses control and bidirectional characters, and is cut to the row's limit."""
    assert clean("a\x00b\r\nc\x1b[31md\u202ee\u2028f ") == "a b c [31md e f"
    assert len(clean("long " * 10_000)) == ERROR_MESSAGE_LENGTH


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY} is bad", "key •••• is bad"),
        (f"{KEY[:20]}, {KEY[3:]}", "••••, ••••"),
        (f"{KEY[:30]}…", "••••…"),
        (f"{KEY}{KEY}", "••••"),
        (f"{'x' * (LONGEST_EXAMINED - 20)} {KEY}"[-480 - 20 :], f"{'x' * 458} ••••"),
        ("nothing of it", "nothing of it"),
    ],
)
def test_keys_do_not_show(text: str, shown: str) -> None:
    """A key that the other side quotes, whole or truncated, is removed from its message."""
    assert clean(text, secret=f" {KEY}\n") == shown


@pytest.mark.parametrize("write", [json.dumps, quote, html.escape, lambda text: json.dumps(json.dumps(text))])
def test_secrets_do_not_show_as_others_write_them(write: Callable[[str], str]) -> None:
    """A secret with characters that JSON, URLs or HTML write otherwise is masked in their writing too."""
    secret = 'halfOfTheSecret"%+/&=?andTheOtherHalf'
    shown = clean(f"you sent {write(secret)}", secret=secret)
    assert "half" not in shown
    assert "Other" not in shown


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        (ZEROS, "Project with ID '00000000-0000-0000-0000-000000000000' not found"),
        (ZEROS, 'An App Connection with the name "a-00000000000000000000" already exists'),
        (f"sk-or-v1-{PROJECT}", f"You are not a member of this project with ID {PROJECT}."),
        ("sk-or-v1-openrouter-connection", "Unable to validate connection: openrouter-connection"),
        ("key", "the only key is no monkey, and keys are none"),
        ("a", "a letter: an apple a day"),
    ],
)
def test_only_the_key_is_masked(secret: str, text: str) -> None:
    """An id, a name or a word that merely has a run of characters in common with the key stays readable."""
    alone = re.sub(rf"\b{secret}\b", MASK, text) if len(secret) < MIN_SECRET else text
    assert clean(text, secret=secret) == alone


@given(
    secret=st.from_regex(r"(sk-or-v1-)?[0-9a-f]{20,64}|(sk-or-v1-)?0{20,64}", fullmatch=True),
    project=st.uuids().map(str) | st.just("0" * 8 + "-0000" * 3 + "-" + "0" * 12),
)
def test_ids_are_never_masked(secret: str, project: str) -> None:
    """However much a project id resembles the key, people can read it, and the key beside it they cannot."""
    assert clean(f"Project with ID '{project}' not found", secret=secret) == f"Project with ID '{project}' not found"
    assert clean(f"project {project}: {secret} refused", secret=secret) == f"project {project}: {MASK} refused"
