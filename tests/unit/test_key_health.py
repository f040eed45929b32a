"""The use of an API key: unknown, accepted or quarantined, and nothing in between."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from provisioner.core.key_health import (
    ACCEPTED_FOR,
    CONFIRMING_TRIALS,
    FIRST_PROBE,
    LONGEST_PROBE_PAUSE,
    REFUSALS,
    TRIAL_LOST,
    TRIALS,
    KeyHealth,
    TrialPermit,
    accepted,
    canonical,
    due_probe,
    refused,
    request_trial,
    suspected,
    undecided,
)

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


def after(health: KeyHealth, refusals: int) -> KeyHealth:
    """The key once it was refused so often."""
    for _ in range(refusals):
        health, _ = refused(health, "refused", NOW)
    return health


QUARANTINED: Final = after(KeyHealth(), REFUSALS)


class TestTrials:
    """Which requests may try a key."""

    def test_a_few_try_an_unknown_key(self) -> None:
        """As many as there are trials, and not one more."""
        health, granted = KeyHealth(), 0
        for _ in range(10):
            health, permit = request_trial(health, NOW, confirming=False)
            granted += permit.granted
        assert granted == TRIALS

    def test_lost_trials_keep_nobody_waiting(self) -> None:
        """When the last trial began too long ago, the trials that said nothing are given out again."""
        health = KeyHealth(trials=TRIALS, tried_at=NOW)
        assert not request_trial(health, NOW + TRIAL_LOST, confirming=False)[1].granted
        late = NOW + TRIAL_LOST + timedelta(microseconds=1)
        tried, permit = request_trial(health, late, confirming=False)
        assert permit.granted
        assert (tried.trials, tried.tried_at) == (1, late)

    def test_an_undecided_trial_goes_to_another(self) -> None:
        """A trial without a result is given back; refused ones are not."""
        health = replace(after(KeyHealth(), 1), trials=TRIALS, tried_at=NOW)
        assert request_trial(undecided(health), NOW, confirming=False)[1].granted
        assert undecided(undecided(undecided(health))).trials == 1

    def test_an_accepted_key_needs_no_trial(self) -> None:
        """It is said how long ago it was accepted, for as long as that counts."""
        health = accepted(NOW)
        at_last = NOW + ACCEPTED_FOR
        assert request_trial(health, at_last, confirming=False) == (
            health,
            TrialPermit(granted=False, accepted_for=ACCEPTED_FOR),
        )
        assert request_trial(health, at_last + timedelta(seconds=1), confirming=False)[1].granted

    def test_a_quarantined_key_is_tried_by_those_it_refused(self) -> None:
        """Refused requests may finish, with few creates in total; no other request may try."""
        health, granted = replace(QUARANTINED, trials=REFUSALS, tried_at=NOW), 0
        assert request_trial(health, NOW, confirming=False) == (health, TrialPermit(granted=False, quarantined=True))
        for _ in range(30):
            health, permit = request_trial(health, NOW, confirming=True)
            assert permit.quarantined
            granted += permit.granted
        assert granted == CONFIRMING_TRIALS - REFUSALS


class TestQuarantine:
    """When requests wait for a key, and until when."""

    def test_it_takes_several_refusals(self) -> None:
        """The last of them quarantines it, and only that one says so."""
        health = after(KeyHealth(), REFUSALS - 1)
        assert not health.is_quarantined
        health, newly = refused(health, "no such key", NOW)
        assert (health.is_quarantined, newly, health.reason) == (True, True, "no such key")
        assert refused(health, "still", NOW)[1] is False

    def test_a_key_that_worked_starts_anew(self) -> None:
        """A suspected key has all its trials and refusals left; one that never worked does not."""
        assert suspected(accepted(NOW)) == KeyHealth()
        assert suspected(QUARANTINED) == QUARANTINED

    def test_probes_come_at_growing_intervals(self) -> None:
        """The first after half a minute, then one, two, four minutes, and never more than the longest apart."""
        health, at, pauses = QUARANTINED, NOW + FIRST_PROBE, []
        assert due_probe(health, at - timedelta(microseconds=1)) is None
        for _ in range(6):
            probe = due_probe(health, at)
            assert probe is not None
            assert probe.probing
            assert probe.probe_at is not None
            pauses.append(probe.probe_at - at)
            health, at = probe, probe.probe_at
        assert pauses == sorted(pauses)
        assert pauses[0] == timedelta(minutes=1)
        assert pauses[-1] == LONGEST_PROBE_PAUSE

    def test_one_probe_is_one_request(self) -> None:
        """The first to ask is the probe; the next one waits."""
        probing = due_probe(QUARANTINED, NOW + FIRST_PROBE)
        assert probing is not None
        health, permit = request_trial(probing, NOW + FIRST_PROBE, confirming=False)
        assert permit.granted
        assert not request_trial(health, NOW + FIRST_PROBE, confirming=False)[1].granted

    def test_only_a_quarantined_key_is_probed(self) -> None:
        """An unknown or accepted key needs no probe."""
        assert due_probe(KeyHealth(), NOW) is None
        assert due_probe(accepted(NOW), NOW) is None


@given(st.text(st.characters(codec="ascii"), max_size=20))
def test_a_credential_has_one_canonical_name(name: str) -> None:
    """However it is written, and applied twice it changes nothing."""
    assert canonical(canonical(name)) == canonical(name) == canonical(name.upper()) == canonical(name.replace("_", "-"))


class Keys(RuleBasedStateMachine):
    """Any order of questions, answers and pauses."""

    @initialize()
    def begin(self) -> None:
        """Begin with an unknown key."""
        self.health, self.now, self.unanswered, self.refused_since = KeyHealth(), NOW, 0, 0

    @rule(seconds=st.floats(0, 1000))
    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.now += timedelta(seconds=seconds)

    @rule(confirming=st.booleans())
    def request_trial(self, confirming: bool) -> None:
        """Ask to try it."""
        before = self.health
        self.health, permit = request_trial(self.health, self.now, confirming=confirming)
        assert permit.quarantined == before.is_quarantined
        if permit.granted:
            assert permit.accepted_for is None
            assert not before.is_quarantined or before.probing or confirming
        else:
            assert self.health == before

    @rule()
    def accept(self) -> None:
        """It is accepted."""
        self.health, self.refused_since = accepted(self.now), 0

    @rule()
    def refuse(self) -> None:
        """It is refused."""
        was = self.health.is_quarantined
        self.health, newly = refused(self.health, "refused", self.now)
        self.refused_since += 1
        assert newly == (self.health.is_quarantined and not was)

    @rule()
    def learn_nothing(self) -> None:
        """A trial said nothing."""
        self.health = undecided(self.health)

    @rule()
    def probe(self) -> None:
        """A probe goes out if it is due."""
        self.health = due_probe(self.health, self.now) or self.health

    @invariant()
    def it_is_quarantined_by_refusals_alone(self) -> None:
        """Exactly when it was refused often enough since it was last accepted, and then somebody will probe it."""
        if hasattr(self, "health"):
            assert self.health.is_quarantined == (self.refused_since >= REFUSALS)
            assert not self.health.is_quarantined or self.health.probe_at is not None
            assert not self.health.accepted_lately(self.now) or self.refused_since == 0
            assert self.health.trials >= 0


TestKeys = Keys.TestCase
