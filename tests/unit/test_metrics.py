"""The metrics: what is counted and exported, and that documents and dashboards match it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from provisioner.core.model import Action, Cancel, ErrorCode, Fail, Result, Retry
from provisioner.core.queue_values import OperatorLimit, Report
from provisioner.core.reports import BudgetReport, ConcurrencyReport, Gauges, StateCount, Workers
from provisioner.core.vitals import TargetVitals, Vitals
from provisioner.observe.catalogue import METRICS, Kind
from provisioner.observe.meter import LOGINS, Meter
from provisioner.observe.metrics import exposition
from tests.support.builders import a_claim, a_request, a_settlement, an_observation
from tests.support.docs import DOCS

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

OBSERVABILITY = Path(__file__).resolve().parents[2] / "config" / "observability"
VITALS = Vitals(
    worker=7,
    moves=0,
    lease_good=True,
    database_away=False,
    stopping=False,
    targets=(TargetVitals(target="default", in_hand=3), TargetVitals(target="eu", paused=True, held="502")),
)
GAUGES = Gauges(
    lines=(
        StateCount(target="default", state="ready", requests=12, oldest=90.5),
        StateCount(target="default", state="waiting", requests=4, oldest=None),
    ),
    budgets=(
        BudgetReport(target="default", kind="write", metered=True, permits=200, period=60.0, used=150, blocked=7.5),
        BudgetReport(target="default", kind="read", metered=None, permits=None, period=60.0, used=0, blocked=0.0),
    ),
    workers=Workers(living=2, lost=1, pace=3.0),
    concurrency=(
        ConcurrencyReport(target="default", in_flight_limit=6, cliff=8, stalled=False),
        ConcurrencyReport(target="eu", in_flight_limit=1, cliff=None, stalled=True),
    ),
    drifted={"eu": 2},
    leaving={"eu": 3},
    ends={"eu": 90.0},
    limits={"default": OperatorLimit(60, 60.0, 16, "ann")},
)


def exported(meter: Meter, gauges: Gauges | None = GAUGES) -> dict[str, Family]:
    """Return the samples of a scrape, by family."""
    text = exposition(meter, VITALS, gauges, ready=True).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(meter: Meter, name: str, gauges: Gauges | None = GAUGES, **labels: str) -> float | None:
    """The value of one series; None if there is none."""
    families = exported(meter, gauges).values()
    found = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    return found[0] if found else None


def busy_meter() -> Meter:
    """A meter with one event of each kind."""
    meter = Meter(["default"])
    meter.called("default", Action.CREATE, an_observation(Result.CREATED, status=200, elapsed=0.2))
    meter.claimed("default", 5, 0.004)
    meter.settled([a_settlement(a_claim())], Report(settled=frozenset([1])), 0.02)
    meter.logged_in("default", "granted")
    return meter


def test_calls_are_counted_by_what_they_showed() -> None:
    """A call counts under its target, action, outcome and HTTP status, whether or not there was an answer."""
    meter = Meter()
    for _ in range(2):
        meter.called("default", Action.CREATE, an_observation(Result.CREATED, status=200))
    meter.called("default", Action.LOOK_UP, an_observation(Result.UNKNOWN))
    name = "provisioner_calls_total"
    assert value(meter, name, target="default", action="create", outcome="created", status="200") == 2
    assert value(meter, name, target="default", action="look_up", outcome="unknown", status="none") == 1


def test_the_limit_that_rules_is_told_with_its_source() -> None:
    """The lowest of the limits of operator, settings and Infisical, and which operator set one."""
    name = "provisioner_writes_limit"
    assert value(Meter(), name, target="default", source="operator", by="ann") == 1.0
    assert value(Meter(), "provisioner_limit_set", target="default", by="ann") == 1
    generous = replace(GAUGES, limits={"default": OperatorLimit(600, 60.0, None, "ann")})
    assert value(Meter(), name, generous, target="default", source="infisical", by="") == pytest.approx(200 / 60)
    lifted = replace(GAUGES, limits={}, budgets=(replace(GAUGES.budgets[0], configured=True),))
    assert value(Meter(), name, lifted, target="default", source="settings", by="") == pytest.approx(200 / 60)
    assert value(Meter(), "provisioner_limit_set", lifted, target="default", by="ann") is None
    alone = replace(GAUGES, budgets=(), limits={"eu": OperatorLimit(30, 60.0, None, None)})
    assert value(Meter(), name, alone, target="eu", source="operator", by="") == 0.5


def test_the_forecast_is_told_where_there_is_one() -> None:
    """The seconds until everything pending at a target ends; without a forecast there is no series."""
    assert value(Meter(), "provisioner_forecast_seconds", target="eu") == 90.0
    assert value(Meter(), "provisioner_forecast_seconds", target="default") is None


def test_keys_left_behind_are_told() -> None:
    """How many rotations of a target may have left some; where there is none there is no series."""
    assert value(Meter(), "provisioner_left_behind_rotations", target="eu") == 3
    assert value(Meter(), "provisioner_left_behind_rotations", target="default") is None


def test_only_what_was_sent_has_a_duration() -> None:
    """A create that never left this process does not make creates look fast."""
    meter = Meter()
    meter.called("default", Action.CREATE, an_observation(Result.CREATED, elapsed=0.3))
    meter.called("default", Action.CREATE, an_observation(Result.NOT_SENT))
    bucket = "provisioner_call_seconds_bucket"
    assert value(meter, "provisioner_call_seconds_count", target="default", action="create") == 1
    assert value(meter, "provisioner_call_seconds_sum", target="default", action="create") == pytest.approx(0.3)
    assert value(meter, bucket, target="default", action="create", le="0.25") == 0
    assert value(meter, bucket, target="default", action="create", le="0.5") == 1


def test_refusals_are_counted_for_the_budget_that_they_hit() -> None:
    """A 429 for a look-up counts for reads, one for a create counts for writes."""
    meter = Meter()
    meter.called("default", Action.CREATE, an_observation(Result.THROTTLED, status=429))
    meter.called("default", Action.REPLACE, an_observation(Result.THROTTLED, status=429))
    meter.called("default", Action.IDENTIFY, an_observation(Result.THROTTLED, status=429))
    name = "provisioner_permits_refused_total"
    assert value(meter, name, target="default", kind="write") == 2
    assert value(meter, name, target="default", kind="read") == 1


def test_settlements_are_counted_unless_others_had_taken_over() -> None:
    """Each recorded attempt counts by its outcome and error code; one that came too late counts as that only."""
    failed = Fail(code=ErrorCode.NAME_CONFLICT, message="taken")
    again = Retry(delay=1.0, message="later", code=ErrorCode.OUTCOME_UNKNOWN)
    outcomes = [None, None, failed, again, Cancel()]
    batch = [a_settlement(a_claim(a_request(id=n)), outcome) for n, outcome in enumerate(outcomes)]
    meter = Meter()
    meter.settled(batch, Report(settled=frozenset([1, 2, 3, 4]), fenced=frozenset([0])), 0.01)
    name = "provisioner_settled_total"
    assert value(meter, name, outcome="succeeded", code="") == 1
    assert value(meter, name, outcome="failed", code="name_conflict") == 1
    assert value(meter, name, outcome="put_back", code="outcome_unknown") == 1
    assert value(meter, name, outcome="cancelled", code="") == 1
    assert value(meter, "provisioner_fenced_total") == 1
    assert value(meter, "provisioner_settle_seconds_count") == 1


def test_the_first_of_its_kind_shows_as_a_rise() -> None:
    """Failures of every cause, logins and refusals are exported as nought before there are any."""
    meter = Meter(["eu"])
    for code in ErrorCode:
        assert value(meter, "provisioner_settled_total", outcome="failed", code=code) == 0
    for outcome in LOGINS:
        assert value(meter, "provisioner_logins_total", target="eu", outcome=outcome) == 0
    assert value(meter, "provisioner_permits_refused_total", target="eu", kind="write") == 0


def test_claims_and_logins_are_counted() -> None:
    """A claim counts its requests and its duration, a login its outcome."""
    meter = busy_meter()
    assert value(meter, "provisioner_claimed_total", target="default") == 5
    assert value(meter, "provisioner_claim_seconds_count", target="default") == 1
    assert value(meter, "provisioner_logins_total", target="default", outcome="granted") == 1


def test_the_workers_own_state_is_exported() -> None:
    """Its claims, the targets that it withholds calls from or that are paused, and whether it is ready."""
    meter = Meter()
    assert value(meter, "provisioner_in_hand", target="default") == 3
    assert value(meter, "provisioner_breaker_open", target="default") == 0
    assert value(meter, "provisioner_breaker_open", target="eu") == 1
    assert value(meter, "provisioner_target_paused", target="eu") == 1
    assert value(meter, "provisioner_ready") == 1


def test_what_all_workers_share_is_exported() -> None:
    """The queue, its age, the budgets and the workers are as the database has them; a limit only if there is one."""
    meter = Meter()
    assert value(meter, "provisioner_queue_requests", target="default", state="ready") == 12
    assert value(meter, "provisioner_queue_oldest_seconds", target="default", state="ready") == 90.5
    assert value(meter, "provisioner_queue_oldest_seconds", target="default", state="waiting") is None
    assert value(meter, "provisioner_permits_limit", target="default", kind="write") == 200
    assert value(meter, "provisioner_permits_used", target="default", kind="write") == 150
    assert value(meter, "provisioner_permits_limit", target="default", kind="read") is None
    assert value(meter, "provisioner_permits_blocked_seconds", target="default", kind="write") == 7.5
    assert value(meter, "provisioner_in_flight_limit", target="default") == 6
    assert value(meter, "provisioner_in_flight_cliff", target="default") == 8
    assert value(meter, "provisioner_in_flight_cliff", target="eu") is None
    assert value(meter, "provisioner_target_stalled", target="eu") == 1
    assert value(meter, "provisioner_workers", state="lost") == 1


def test_without_the_database_the_rest_is_still_exported() -> None:
    """While the database is unavailable a scrape says so, and still reports the worker's own counters."""
    meter = busy_meter()
    assert value(meter, "provisioner_database_up") == 1
    assert value(meter, "provisioner_database_up", None) == 0
    assert value(meter, "provisioner_queue_requests", None, target="default", state="ready") is None
    assert value(meter, "provisioner_claimed_total", None, target="default") == 5


def test_the_catalogue_is_what_is_exported() -> None:
    """Every metric of the catalogue is exported with exactly its kind and labels, and none besides it is."""
    families = {name: family for name, family in exported(busy_meter()).items() if name.startswith("provisioner_")}
    # The parser leaves the end of a counter's name off.
    catalogue = {metric.full_name.removesuffix("_total"): metric for metric in METRICS}
    assert families.keys() == catalogue.keys()
    for name, metric in catalogue.items():
        family = families[name]
        labels = {
            frozenset(sample.labels) - ({"le"} if metric.kind is Kind.HISTOGRAM else set()) for sample in family.samples
        }
        assert (family.type, labels) == (metric.kind, {frozenset(metric.labels)}), name
        assert family.documentation == metric.help


def test_the_document_is_the_codes() -> None:
    """No metric is missing from the document."""
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert all(f"| `{metric.full_name}` |" in text for metric in METRICS)


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana-dashboard.json", "../../docs/metrics.md"])
def test_nobody_asks_for_a_metric_that_is_not_there(file: str) -> None:
    """Alert rules, dashboard and document name metrics and labels that exist."""
    parts = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count", "")}
    labels = {
        metric.full_name + part: {*metric.labels, *(["le"] if part == "_bucket" else [])}
        for metric in METRICS
        for part in parts.get(metric.kind, ("",))
    }
    text = (OBSERVABILITY / file).read_text(encoding="utf-8").replace('\\"', '"')
    asked = re.findall(r"\b(provisioner_\w+)(?:\{([^}]*)\})?", text)
    assert len(asked) > 10
    assert {name for name, _ in asked} <= labels.keys()
    for name, given in asked:
        assert set(re.findall(r"(\w+)=", given)) <= labels[name], name


def test_the_dashboard_can_be_imported() -> None:
    """The dashboard is JSON whose panels all ask something of the chosen data source and do not overlap."""
    dashboard = json.loads((OBSERVABILITY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["description"]
        assert all(target["expr"] and target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places
        assert at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
