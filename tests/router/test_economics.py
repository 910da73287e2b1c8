"""What the configuration says of a model's costs, in the units of decisions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import parse
from policies.placement import Rules
from router.economics import ASSUMED_GPU_HOUR_USD, Economics, SleepRung, economics

API = "api: {url: http://h/v1, price: {input: 0.2, output: 0.6}}"


def of(model: str, top: str = "") -> Economics:
    text = f"version: 1\n{top}\nmodels: {{m: {{{model}}}}}"
    return economics(parse(text, "f", {}), "m")


def cold(keys: str = "", more: str = "") -> Economics:
    return of(f"cold: {{command: 'x {{port}}', {keys}}}, {more}")


def test_economics_of_a_model_in_usd_and_seconds():
    facts = cold(
        "gpu_hour: 3.6, idle: 90s, jitter: 0.2, start_time: {p50: 20s, p90: 40s, p99: 60s},"
        " speed: {requests: 4, input: 1000, output: 20}, max_instances: 3, max_concurrency: 8,"
        " sleep: {level_1: {share: 0.1, wake: 4s}, level_2: {share: 0.02, wake: 15s}}",
        f"{API}, delay_hour: 7.2, budget: {{usd_per_day: 5}}",
    )
    assert (facts.hold_usd_s, facts.delay_usd_s) == pytest.approx((0.001, 0.002))
    assert facts.priced
    assert facts.api_usd == pytest.approx((0.2e-6, 0.6e-6))
    assert (facts.idle, facts.jitter, facts.usd_per_day) == (90.0, 0.2, 5.0)
    assert facts.sleep == (SleepRung("sleep_1", 0.1, 4.0), SleepRung("sleep_2", 0.02, 15.0))
    assert facts.start_s == (20.0, 40.0, 60.0)
    assert (facts.requests_s, facts.max_instances) == (4.0, 3)
    assert facts.service_s(500, 10) == pytest.approx(1.0)
    assert facts.prospective == ("always_on", "on_demand", "api")


def test_without_a_price_money_moves_nothing():
    facts = cold("idle: never", API)
    assert not facts.priced
    assert facts.hold_usd_s == pytest.approx(ASSUMED_GPU_HOUR_USD / 3600)
    assert facts.idle == math.inf
    assert facts.prospective == ("on_demand",)


def test_the_rule_by_requests_needs_no_price():
    facts = cold("", "placement: {rule: qps, hot_above_qps: 5, cold_below_qps: 2}")
    assert facts.prospective == ("always_on", "on_demand")
    assert facts.rules == Rules(None, True, 5.0, 2.0, 240.0, 0.15, 600.0)


def test_an_api_without_a_price_is_no_prospect():
    assert cold("gpu_hour: 1", "api: {url: http://h/v1}").prospective == ("always_on", "on_demand")


@pytest.mark.parametrize("model", [API, "hot: {urls: [{url: http://h/v1}]}"])
def test_what_is_not_started_has_nothing_to_choose_from(model: str):
    facts = of(model)
    assert not facts.has_cold
    assert facts.prospective == ()


@pytest.mark.parametrize(
    ("placement", "p99_s"),
    [
        ("{}", 90.0),
        ("{class: interactive}", 10.0),
        ("{class: batch}", 90.0),
        ("{p99_wait: 3s}", 3.0),
    ],
)
def test_the_class_says_how_long_callers_wait(placement: str, p99_s: float):
    facts = cold("gpu_hour: 1", f"max_wait: 90s, placement: {placement}")
    assert facts.rules.p99_wait_s == p99_s


@given(st.lists(st.floats(0.1, 1000.0), min_size=3, max_size=3).map(sorted))
def test_the_mean_of_a_start_lies_between_its_points(points: list[float]):
    p50, p90, p99 = points
    facts = Economics("m", start_s=(p50, p90, p99))
    assert p50 * (1 - 1e-9) <= facts.start_mean_s <= p99 * (1 + 1e-9)
    assert Economics("m", start_s=(p50, p90, p99 * 2)).start_mean_s > facts.start_mean_s
