"""What was seen of a model's demand, and what each placement would have cost at it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.placement import Prospect
from policies.rungs import RungName, gap_usd
from router.economics import Economics
from router.periods import HALF_LIFE_S, HORIZON_S, Periods
from tests.policies.ladders import THREE, two

EVERY_S = 300.0
PRICED = Economics("m", hold_usd_s=0.001, priced=True, delay_usd_s=0.01, api_usd=(1e-6, 2e-6))


def test_nothing_is_known_before_the_first_period_has_ended():
    periods = Periods(PRICED, 100.0)
    periods.now.requests = 5
    assert periods.prospects() == {}
    assert periods.qps() == 0.0


def test_prospects_by_hand():
    periods = Periods(PRICED, 0.0)
    periods.now.requests = 100
    periods.now.api_usd = 0.5
    periods.busy(400.0, 1)
    periods.busy(300.0, 1)
    met = periods.gap(500.0, two(60.0, 0.001), [(60.0, "off")])
    assert met.name == "off"
    periods.now.slow, periods.now.delay_s, periods.now.longest_delay_s = 1, 60.0, 72.0
    periods.close(3600.0)
    assert periods.prospects() == {
        "always_on": Prospect(3.6),
        "on_demand": Prospect(pytest.approx(0.7 + 0.06 + 0.06), pytest.approx(0.6), 0.0),
        "api": Prospect(0.5),
    }
    assert periods.qps() == pytest.approx(100 / 3600)


@pytest.mark.parametrize(("slow", "p99_s"), [(1, 0.0), (2, 72.0)])
def test_the_p99_wait_is_that_of_a_start_when_more_than_one_in_a_hundred_meet_one(
    slow: int, p99_s: float
):
    periods = Periods(PRICED, 0.0)
    periods.now.requests = 100
    periods.now.slow = slow
    periods.now.longest_delay_s = 72.0
    periods.close(EVERY_S)
    assert periods.prospects()["on_demand"].p99_wait_s == p99_s


@given(
    st.floats(0.0, 5000.0),
    st.sampled_from([(), ((10.0, "sleep_1"), (300.0, "off")), ((0.0, "off"),)]),
)
def test_a_gap_costs_what_the_rungs_say_at_the_price_of_the_device(
    gap_s: float, steps: tuple[tuple[float, RungName], ...]
):
    periods = Periods(Economics("m", hold_usd_s=1.0), 0.0)  # the rungs of THREE wake at that
    met = periods.gap(gap_s, THREE, steps)
    assert periods.now.idle_usd == pytest.approx(gap_usd(THREE, steps, gap_s))
    assert met.name == next((name for after_s, name in steps[::-1] if after_s < gap_s), "hot")


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 10)), min_size=1, max_size=30))
def test_older_periods_weigh_half_for_every_half_life(seen: list[tuple[float, float]]):
    periods = Periods(PRICED, 0.0)
    every_s = HALF_LIFE_S / 3
    for n, (busy_s, api_usd) in enumerate(seen):
        periods.busy(busy_s, 1)
        periods.now.api_usd = api_usd
        periods.now.requests = 1
        periods.close((n + 1) * every_s)
    weights = [0.5 ** ((len(seen) - 1 - n) / 3) for n in range(len(seen))]
    hours = sum(weights) * every_s / 3600
    found = periods.prospects()
    busy_usd = sum(w * busy_s * 0.001 for w, (busy_s, _) in zip(weights, seen, strict=True))
    api_usd = sum(w * usd for w, (_, usd) in zip(weights, seen, strict=True))
    assert found["on_demand"].usd_per_hour == pytest.approx(busy_usd / hours)
    assert found["api"].usd_per_hour == pytest.approx(api_usd / hours)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_the_busiest_period_is_remembered_for_a_week(peaks: list[int]):
    periods = Periods(PRICED, 0.0)
    every_s = HORIZON_S / 20
    for n, peak in enumerate(peaks):
        periods.busy(1.0, peak)
        periods.close((n + 1) * every_s)
        assert periods.peak_instances() == max(peaks[max(n - 20, 0) : n + 1])
        periods.busy(1.0, 10)
        assert periods.peak_instances() == 10
        periods.now.peak_instances = 0


def test_one_slow_start_is_forgotten_after_a_week():
    periods = Periods(PRICED, 0.0)
    periods.now.longest_delay_s = 500.0
    for n in range(int(HORIZON_S / 86400) + 2):
        periods.now.requests = periods.now.slow = 1
        periods.now.longest_delay_s = max(periods.now.longest_delay_s, 30.0)
        periods.close((n + 1) * 86400.0)
    assert periods.prospects()["on_demand"].p99_wait_s == 30.0


def test_a_period_may_be_longer_than_what_is_remembered():
    periods = Periods(PRICED, 0.0)
    periods.now.requests = 7
    periods.close(2 * HORIZON_S)
    assert periods.qps() == pytest.approx(7 / (2 * HORIZON_S))
    assert periods.prospects()["api"] == Prospect(0.0)
