"""The description that is sent is the one that Infisical stores, and it is never too long."""

import pytest
from hypothesis import given, strategies as st

from provisioner.core.description import LONGEST, SPACE, describe, units
from provisioner.sandbox.simulator.validation import create

KEY = "\N{KEY}"
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from([*SPACE, "\x85", "\x1f", "\u200b", KEY]))
numbers = st.integers(1, 2**63 - 1)


def stored(description: str) -> str | None:
    """Trim a text as Infisical does."""
    body = {"name": "a", "method": "api-key", "credentials": {"apiKey": "k"}, "description": description}
    return create(body).description


@given(texts.filter(lambda text: units(text) <= LONGEST), numbers, st.booleans())
def test_what_is_sent_is_what_is_stored(description: str, number: int, marker: str) -> None:
    """Whatever is asked for, Infisical takes it, and changes nothing of it."""
    sent = describe(number, description, marker=marker)
    assert units(sent) <= LONGEST
    assert stored(sent) == sent


@given(texts, numbers, numbers)
def test_markers_differ(description: str, one: int, other: int) -> None:
    """Two requests never send the same marked description, however long their own is."""
    same = describe(one, description, marker="here") == describe(other, description, marker="here")
    assert same is (one == other)


@given(texts)
def test_without_a_marker_it_is_the_users(description: str) -> None:
    """It is sent verbatim but for the white space around it, as Infisical would take it away."""
    assert describe(1, description, marker="") == description.strip(SPACE)


@pytest.mark.parametrize(("text", "length"), [("", 0), ("ä" * 255, 255), (KEY * 127, 254), (KEY * 128, 256)])
def test_length_is_counted_as_infisical_does(text: str, length: int) -> None:
    """A letter beyond U+FFFF counts as two."""
    assert units(text) == length


def test_a_mark_cuts_no_letter_in_half() -> None:
    """A long description is shortened by whole characters to make room for the marker."""
    for spaces in range(3):
        sent = describe(7, "x" * spaces + KEY * 127, marker="here")
        assert sent.removesuffix(" [provisioner:here:7]").strip("x") == KEY * (
            (LONGEST - len(" [provisioner:here:7]") - spaces) // 2
        )
