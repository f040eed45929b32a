"""The meaning of OpenRouter's answers about a key."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner.core.key_check import KeyKind, verdict_of
from provisioner.core.key_health import FIRST_PROBE, REFUSALS, KeyHealth, due_probe, found_invalid
from tests.support.builders import at

REFUSED = {"error": {"message": "User not found.", "code": 401}}


@pytest.mark.parametrize(
    ("status", "data", "verdict"),
    [
        (200, {"data": {"is_management_key": True}}, KeyKind.MANAGEMENT),
        (200, {"data": {"is_provisioning_key": True}}, KeyKind.MANAGEMENT),
        (200, {"data": {"is_management_key": True, "is_provisioning_key": False}}, KeyKind.MANAGEMENT),
        (200, {"data": {"is_management_key": False}}, KeyKind.INFERENCE),
        (200, {"data": {"is_provisioning_key": False, "is_management_key": None}}, KeyKind.INFERENCE),
        (200, {"data": {"label": "sk-or"}}, KeyKind.UNKNOWN),
        (200, {"data": {"is_management_key": "false"}}, KeyKind.UNKNOWN),
        (200, {"data": []}, KeyKind.UNKNOWN),
        (200, None, KeyKind.UNKNOWN),
        (401, REFUSED, KeyKind.NO_KEY),
        (401, {"message": "a gateway's"}, KeyKind.UNKNOWN),
        (401, None, KeyKind.UNKNOWN),
        (403, REFUSED, KeyKind.UNKNOWN),
        (302, None, KeyKind.UNKNOWN),
        (429, REFUSED, KeyKind.UNKNOWN),
        (500, REFUSED, KeyKind.UNKNOWN),
    ],
)
def test_only_openrouters_own_words_count(status: int, data: Any, verdict: KeyKind) -> None:
    """An explicit flag or OpenRouter's own 401 decides; every other answer leaves the key unknown."""
    assert verdict_of(status, data) is verdict


def test_a_condemned_key_is_quarantined_at_once() -> None:
    """The key is quarantined without a refused create; a repeated verdict keeps the pace and ends its probe."""
    first, newly = found_invalid(KeyHealth(accepted_at=at(0)), "inference", at(1))
    assert newly
    assert first.is_quarantined
    assert (first.refusals, first.accepted_at, first.reason) == (REFUSALS, None, "inference")
    assert first.probe_at == at(1) + FIRST_PROBE
    probing = due_probe(first, at(100))
    assert probing is not None
    again, newly = found_invalid(probing, "still", at(101))
    assert not newly
    assert (again.probing, again.reason, again.probe_at) == (False, "still", probing.probe_at)
