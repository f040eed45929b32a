"""The pure parts of the benchmarks: figures, their comparison, their tables and drawings."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.benchmarks.catalogue import MEASURES, SECTIONS
from tests.benchmarks.comparison import Difference, compare
from tests.benchmarks.drawing import LEFT, WIDTH, draw
from tests.benchmarks.figures import Figure, Measure, Samples, load, number, percentile, save
from tests.benchmarks.growth import holds, ratios
from tests.benchmarks.mock import Counts, Mock, body_length
from tests.benchmarks.tables import markdown

if TYPE_CHECKING:
    from pathlib import Path

PACE = Measure(key="pace", title="pace <of all>", unit="requests/s", more=True)
COST = Measure(key="cost", title="cost", unit="ms")
BODY = b'{"name":"bench-1","projectId":"7b0e5d6a-1111-4222-8333-444455556666"}'


def a_figure(*runs: float, measure: Measure = PACE) -> Figure:
    """A figure with these runs."""
    return Figure(measure=measure, runs=runs)


def test_a_figure_is_its_median_and_range() -> None:
    """A figure shows the run in the middle and the extremes; a single run has no range."""
    assert str(a_figure(3.0, 1.0, 12.0)) == "3.00 (1.00 to 12.0)"
    assert str(a_figure(1234.5)) == "1 234"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.0123, "0.0123"),
        (0.5, "0.500"),
        (1.0, "1.00"),
        (99.95, "100.0"),
        (1e6, "1 000 000"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    """Numbers keep about three digits and never an exponent."""
    assert number(value) == shown


def test_percentiles_are_measured_values() -> None:
    """A percentile is the smallest value that this share does not exceed."""
    values = [float(n) for n in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (50.0, 99.0, 7.0)


def test_figures_come_back_from_their_file(tmp_path: Path) -> None:
    """Saved figures are loaded unchanged, in the catalogue's order, without those that were not measured."""
    samples = Samples()
    samples.add({"cost": 2.0, "pace": 5.0})
    samples.add({"cost": 3.0, "unknown": 1.0})
    figures = samples.figures((PACE, COST, Measure(key="other", title="", unit="")))
    save(tmp_path / "bench.json", figures, {"busy": "no"})
    assert load(tmp_path / "bench.json") == figures == (a_figure(5.0), a_figure(2.0, 3.0, measure=COST))


@pytest.mark.parametrize("text", ["", "[]", '{"figures": [{"key": 1}]}', None])
def test_a_file_without_figures_is_named(tmp_path: Path, text: str | None) -> None:
    """A missing or different file is refused by name, with the command that writes it."""
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"old\.json holds no figures.*make bench"):
        load(path)


@pytest.mark.parametrize(
    ("measure", "old", "new", "verdict"),
    [
        (PACE, (10.0, 12.0), (12.0, 15.0), "same"),
        (PACE, (10.0, 12.0), (12.1, 15.0), "better"),
        (PACE, (10.0, 12.0), (8.0, 9.9), "worse"),
        (COST, (10.0, 12.0), (12.1, 15.0), "worse"),
        (COST, (10.0, 12.0), (8.0, 9.9), "better"),
        (COST, (10.0, 20.0), (12.0, 13.0), "same"),
    ],
)
def test_only_ranges_that_are_apart_differ(
    measure: Measure, old: tuple[float, ...], new: tuple[float, ...], verdict: str
) -> None:
    """Two runs differ only where their ranges do not touch, and the measure says which is better."""
    assert Difference(old=a_figure(*old, measure=measure), new=a_figure(*new, measure=measure)).verdict == verdict


def test_what_only_one_run_measured_is_not_compared() -> None:
    """Measures of one run alone are left out, and nothing is divided by nothing."""
    [one] = compare([a_figure(0.0), a_figure(1.0, measure=COST)], [a_figure(4.0)])
    assert (one.new, one.ratio) == (a_figure(4.0), None)


def test_bars_are_drawn_to_the_scale_of_their_unit() -> None:
    """The largest value of a unit fills the width, others in proportion; titles are escaped."""
    drawing = draw([a_figure(100.0), a_figure(50.0), a_figure(1.0, measure=COST)])
    root = ET.fromstring(drawing)  # noqa: S314 - our own drawing
    bars = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("x") == str(LEFT)][1:]
    assert [float(bar.get("width", 0)) for bar in bars] == [WIDTH, WIDTH / 2, WIDTH]
    assert "pace &lt;of all&gt;" in drawing


def test_markdown_has_a_row_a_figure() -> None:
    """The Markdown table names each figure with its range, and then the facts about the run."""
    written = markdown([a_figure(1.0, 2.0, 3.0)], {"busy": "no"})
    assert "| pace <of all> | 2.00 (1.00 to 3.00) | requests/s |" in written
    assert "busy: no" in written


def test_every_measure_has_a_key_of_its_own() -> None:
    """No two measures share a key, or one would hide the other."""
    assert len({one.key for one in MEASURES}) == len(MEASURES)
    assert len(set(SECTIONS)) == len(SECTIONS)


def test_growth_is_judged_round_by_round() -> None:
    """The large case is divided by the small one of the same round; losses beyond the tolerance are marked."""
    samples = Samples()
    for small, large in ((10.0, 9.5), (20.0, 19.0)):
        samples.add({"growth.finished.10.claims": small, "growth.finished.99.claims": large})
    [(shape, old, new, ratio)] = ratios(samples, [99, 10], ["finished"])
    assert (shape, old.runs, new.runs, ratio.runs) == ("finished", (10.0, 20.0), (9.5, 19.0), (0.95, 0.95))
    assert holds("finished", PACE, 0.91)
    assert not holds("finished", PACE, 0.89)
    assert holds("old transaction", PACE, 0.86)
    assert not holds("finished", COST, 1.11)


def test_the_mock_counts_creates_and_repetitions() -> None:
    """Each create is answered with another connection of the project asked for; a repeated name is counted."""
    mock = Mock()
    first, second = mock.create(BODY), mock.create(BODY)
    assert first != second
    assert b'"projectId":"7b0e5d6a-1111-4222-8333-444455556666"' in first
    assert (mock.counts.creates, mock.counts.duplicates) == (2, 1)
    assert mock.counts.first is not None


def test_the_mock_tells_a_limit_only_when_it_has_one() -> None:
    """Rate headers appear with a limit, and count down."""
    mock = Mock()
    assert b"x-ratelimit" not in mock.create(BODY)
    mock.counts = Counts(limit=10)
    assert b"x-ratelimit-remaining: 9\r\n" in mock.create(BODY)
    assert b"x-ratelimit-remaining: 8\r\n" in mock.create(BODY)


def test_a_body_ends_where_its_head_says() -> None:
    """The length of a body is read from the head, in any case, and is nothing where nothing is said."""
    assert body_length(b"POST / HTTP/1.1\r\ncontent-LENGTH: 42\r\nA: b\r\n") == 42
    assert body_length(b"GET / HTTP/1.1\r\nHost: x\r\n") == 0
