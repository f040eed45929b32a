"""A secret does not show itself."""

import copy
import pickle

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, ValidationError

from provisioner.core.secret import MASK, Secret

TEXT = "planted-secret-4711"


class Holder(BaseModel):
    """A model with a secret field, as the settings have."""

    key: Secret
    other: Secret | None = None


def test_shows_a_mask_wherever_it_is_turned_into_text() -> None:
    """Printing, formatting and looking at a secret show the mask only."""
    secret = Secret(TEXT)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r}", f"{secret:>20}", "%s" % secret, repr([secret])]  # noqa: UP031  # one of the ways to print
    assert all(TEXT not in text and MASK in text for text in shown)


def test_reveals_its_text_when_asked() -> None:
    """The one call that needs the text gets it."""
    assert Secret(TEXT).reveal() == TEXT


@given(st.text(st.characters()), st.text(st.characters()))
def test_is_equal_to_a_secret_of_the_same_text_only(one: str, other: str) -> None:
    """Secrets compare by their text, whatever characters it has; equal ones have one hash."""
    assert (Secret(one) == Secret(other)) is (one == other)
    assert hash(Secret(one)) == hash(Secret(one))


def test_never_equals_plain_text() -> None:
    """A secret is not its text, so that no plain text is compared by accident."""
    assert Secret(TEXT) != TEXT


def test_empty_is_false() -> None:
    """A secret without text counts as none."""
    assert not Secret("")
    assert Secret(TEXT)


def test_does_not_change() -> None:
    """A secret's text cannot be replaced."""
    secret = Secret(TEXT)
    with pytest.raises(AttributeError):
        secret._text = "other"
    with pytest.raises(AttributeError):
        del secret._text
    assert secret.reveal() == TEXT


def test_copies_and_is_not_pickled() -> None:
    """An object with a secret can be copied, and never leaves the process by pickling."""
    assert copy.copy(Secret(TEXT)) == Secret(TEXT)
    assert copy.deepcopy({"key": Secret(TEXT)}) == {"key": Secret(TEXT)}
    with pytest.raises(TypeError):
        pickle.dumps([Secret(TEXT)])


def test_is_a_field_of_a_model() -> None:
    """Models take text or a secret, keep it closed, and serialise the mask."""
    holder = Holder.model_validate({"key": TEXT})
    assert holder.key == Secret(TEXT)
    assert Holder(key=Secret(TEXT)) == holder
    assert holder.model_copy(deep=True) == holder
    assert holder.model_dump() == {"key": MASK, "other": None}
    assert TEXT not in repr(holder) + holder.model_dump_json()


@pytest.mark.parametrize("wrong", [5, b"bytes", ["list"], None])
def test_is_made_of_text_only(wrong: object) -> None:
    """A field refuses values that are not text."""
    with pytest.raises(ValidationError, match="must be text"):
        Holder.model_validate({"key": wrong})
