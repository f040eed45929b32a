"""Evidence: which creates may have made a connection, and whether one of them can have made this one."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from provisioner.core.doubt import LATE_COMMIT, is_ours, latest, merged, possible_create, with_doubt
from provisioner.core.model import Claim, Proof, SentCreate
from provisioner.core.skew import CLOCK_SLACK, CLOCK_TOLERANCE, Bounds, Reading
from tests.support.builders import a_claim, a_connection, a_request, a_sent_create, at, project

EXACT: Final = Reading(Bounds(0.0, 0.0))
UNMEASURED: Final = Reading()


class TestOurs:
    """Whether a connection that was found is of the request's own making."""

    request: Final = a_request(description=" made by us ")
    claim: Final = a_claim(request, doubt=(a_sent_create(request),))
    connection: Final = a_connection(description="made by us")

    def ours(self, *, claim: Claim = claim, clock: Reading = EXACT, marker: str = "", **changes: Any) -> bool:
        """Whether the connection is ours once it is changed so."""
        return is_ours(claim, replace(self.connection, **changes), marker=marker, clock=clock)

    def sent(self, **changes: Any) -> Claim:
        """The claim with another create in doubt."""
        return replace(self.claim, doubt=(a_sent_create(self.request, **changes),))

    def test_it_is_when_everything_fits(self) -> None:
        """App, method, description and time are those of the create whose outcome is unknown."""
        assert self.ours()
        assert self.ours(app="openrouter")

    @pytest.mark.parametrize(
        "changes",
        [
            {"app": "github"},
            {"method": "oauth"},
            {"description": "made by them"},
            {"description": None},
            {"description": "made by us "},
            {"created_at": None},
            {"created_at": at(-CLOCK_SLACK - 0.01)},
            {"created_at": at(5 + LATE_COMMIT + CLOCK_SLACK + 0.01)},
        ],
        ids=str,
    )
    def test_each_difference_makes_it_somebody_elses(self, changes: dict[str, Any]) -> None:
        """One thing that does not fit is enough."""
        assert not self.ours(**changes)

    def test_only_a_create_in_doubt_can_have_made_it(self) -> None:
        """A request that never lost an answer has made nothing unknown."""
        assert not self.ours(claim=replace(self.claim, doubt=()))

    @pytest.mark.parametrize("changes", [{"name": "another"}, {"project_id": project(2)}, {"target": "eu"}], ids=str)
    def test_a_create_of_another_identity_has_not_made_it(self, changes: dict[str, Any]) -> None:
        """A create with another name, project or Infisical is not evidence for this one."""
        assert not self.ours(claim=self.sent(**changes))

    def test_each_create_has_a_window_of_its_own(self) -> None:
        """A connection that appeared between two creates, when neither can have made it, is somebody else's."""
        first, second = a_sent_create(self.request), a_sent_create(self.request, sent_at=at(3600), ended_at=at(3601))
        claim = replace(self.claim, doubt=(first, second))
        assert self.ours(claim=claim, created_at=at(1))
        assert self.ours(claim=claim, created_at=at(3600.5))
        assert not self.ours(claim=claim, created_at=at(50))
        assert not self.ours(claim=claim, created_at=at(7200))

    def test_a_late_commit_is_ours(self) -> None:
        """A server may continue after its caller has hung up."""
        assert self.ours(created_at=at(5 + LATE_COMMIT))

    def test_a_create_that_was_answered_has_no_late_commit(self) -> None:
        """A taken name was taken before the answer, even by a gateway's first copy of the same create."""
        taken = self.sent(proof=Proof.TAKEN)
        assert self.ours(claim=taken, created_at=at(4))
        assert not self.ours(claim=taken, created_at=at(6))

    def test_a_stranger_half_a_second_before_us(self) -> None:
        """Somebody who took the name right before our first create is not mistaken for us before any measurement."""
        assert not self.ours(claim=self.sent(proof=Proof.TAKEN), clock=UNMEASURED, created_at=at(-0.5))
        dates = Reading(None, Bounds(-0.6, 0.5))
        assert not self.ours(claim=self.sent(proof=Proof.TAKEN), clock=dates, created_at=at(-0.5))

    @pytest.mark.parametrize("off", [-4.0, 4.0])
    @pytest.mark.parametrize("headers", [None, Bounds(-0.5, 0.5), Bounds(199.5, 200.5)])
    def test_a_date_header_of_another_clock(self, off: float, headers: Bounds | None) -> None:
        """Lost answers are found although `createdAt` comes from a clock 4 s away from that of `Date`."""
        guess = (headers.low + headers.high) / 2 if headers else 0.0
        assert self.ours(clock=Reading(None, headers), created_at=at(1 + guess + off))

    @given(st.floats(-3600, 3600))
    def test_the_clocks_difference_is_allowed_for(self, skew: float) -> None:
        """Once measured, a clock that is minutes or an hour off neither steals nor loses a connection."""
        clock = Reading(Bounds(skew, skew))
        assert self.ours(clock=clock, created_at=at(1 + skew))
        assert not self.ours(clock=clock, created_at=at(-1 + skew))
        assert not self.ours(clock=clock, created_at=at(6 + LATE_COMMIT + skew))

    def test_while_nothing_is_measured_a_lost_create_is_looked_at_kindly(self) -> None:
        """And a name that was taken is not."""
        assert self.ours(clock=UNMEASURED, created_at=at(-CLOCK_TOLERANCE))
        assert not self.ours(clock=UNMEASURED, created_at=at(-CLOCK_TOLERANCE - 0.01))

    def test_no_description_and_an_empty_one_are_the_same(self) -> None:
        """Infisical may give back either."""
        claim = a_claim(doubt=(a_sent_create(),))
        assert self.ours(claim=claim, description=None)
        assert self.ours(claim=claim, description="")

    def test_a_marker_makes_it_certain(self) -> None:
        """With the marker switched on, what carries it is ours whenever it was made, and whatever we know of."""
        described, certain = "made by us [provisioner:here:1]", replace(self.claim, doubt=())
        assert self.ours(marker="here", description=described, claim=certain, created_at=at(-9000))
        assert self.ours(marker="here", description=described, created_at=None)
        assert not self.ours(marker="here", description="made by us [provisioner:here:2]", claim=certain)
        assert not self.ours(marker="here", description=described, app="github")

    def test_a_marker_that_was_sent_is_missed_in_others(self) -> None:
        """A connection that looks like ours without the marker was not made by a marked create."""
        marked = self.sent(description="made by us [provisioner:here:1]")
        assert not self.ours(claim=marked, marker="here")
        assert self.ours(claim=marked, marker="here", description="made by us [provisioner:here:1]")

    def test_a_marker_that_was_switched_on_since(self) -> None:
        """A create that was lost before the setting changed made a connection without the marker."""
        assert self.ours(marker="here")

    def test_a_lost_worker_may_have_marked_it(self) -> None:
        """A dead worker's create is only known from the row: both descriptions count as its own."""
        claim = replace(self.claim, doubt=(possible_create(self.claim, at(9)),))
        assert self.ours(claim=claim)
        assert self.ours(claim=claim, description="made by us [provisioner:here:1]")
        assert not self.ours(claim=claim, description="made by us [provisioner:here:2]")

    @pytest.mark.parametrize("space", ["\ufeff", "\u2003", "\u00a0\n"])
    @pytest.mark.parametrize("kept", ["\x85", "\x1f", "\u200b", "\u180e"])
    def test_descriptions_are_compared_as_infisical_keeps_them(self, space: str, kept: str) -> None:
        """White space that JavaScript trims is removed, and what only other languages would trim is kept."""
        request = a_request(description=f"{space}{kept}by us{kept}{space}")
        for sent in (a_sent_create(request), possible_create(a_claim(request), at(9))):
            claim = a_claim(request, doubt=(sent,))
            assert self.ours(claim=claim, description=f"{kept}by us{kept}")
            assert not self.ours(claim=claim, description="by us")


sent_creates = st.builds(
    lambda begin, lasts, proof, description: a_sent_create(
        sent_at=at(begin), ended_at=at(begin + lasts), proof=proof, description=description
    ),
    st.integers(0, 600),
    st.integers(0, 100),
    st.sampled_from([Proof.NONE, Proof.TAKEN]),
    st.sampled_from(["", "another"]),
)


class TestMerged:
    """Evidence is kept in as few pieces as possible."""

    @given(st.lists(sent_creates, max_size=8), st.integers(-10, 800), st.sampled_from([None, "another"]))
    def test_it_allows_the_same(self, doubt: list[SentCreate], created: int, description: str | None) -> None:
        """A merged piece allows exactly what one of its creates allows."""
        connection = a_connection(created_at=at(created), description=description)
        apart = is_ours(a_claim(doubt=tuple(doubt)), connection, marker="", clock=EXACT)
        assert is_ours(a_claim(doubt=merged(doubt)), connection, marker="", clock=EXACT) is apart

    @given(st.lists(sent_creates, max_size=8))
    def test_pieces_are_apart(self, doubt: list[SentCreate]) -> None:
        """No two of the same kind overlap, so each has a time of its own."""
        pieces = merged(doubt)
        assert merged(pieces) == pieces
        kinds = {(one.proof, one.description) for one in pieces}
        for kind in kinds:
            alike = [one for one in pieces if (one.proof, one.description) == kind]
            assert all(latest(one) < other.sent_at for one, other in pairwise(alike))

    def test_an_outage_of_days_is_one_piece(self) -> None:
        """Creates that are lost every ten seconds leave one row, not thousands."""
        claim = a_claim()
        for number in range(1000):
            begin = at(10 * number)
            claim = with_doubt(claim, a_sent_create(sent_at=begin, ended_at=begin))
        assert len(claim.doubt) == 1
