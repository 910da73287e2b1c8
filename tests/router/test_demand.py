"""Rates, gaps, waits and hours of one model, on a clock of the test's own."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gaps import REMEMBERED
from router.demand import (
    FIRST_TOKENS_KEPT,
    SAMPLE_EVERY_S,
    STARTS_KEPT,
    WINDOWS_S,
    Demand,
    Totals,
    Window,
    quantiles,
)
from router.week import HOURS, Week, hour_of_week

MONDAY = 1_763_942_400.0  # 2025-11-24 00:00 UTC
HOUR_S = 3600.0


def sampled(demand: Demand, per_s: float, from_s: float, until_s: float) -> None:
    """Steady arrivals of one token in and two out, each busy for half a second."""
    now_s = from_s
    while now_s <= until_s:
        count = int(per_s * now_s)
        totals = Totals({"normal": count}, count, 2 * count, count / 2)
        demand.sample(now_s, MONDAY + now_s, totals)
        now_s += SAMPLE_EVERY_S


# --- rates --------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS_S)
def test_steady_rate_is_seen_in_every_window(window: Window) -> None:
    demand = Demand()
    sampled(demand, 4.0, 0.0, 2 * HOUR_S)
    rate = demand.rate(window)
    assert WINDOWS_S[window] <= rate.over_s <= WINDOWS_S[window] + 60.0 + SAMPLE_EVERY_S
    assert rate.requests_per_s == pytest.approx(4.0)
    assert rate.input_tokens_per_s == pytest.approx(4.0)
    assert rate.output_tokens_per_s == pytest.approx(8.0)
    assert rate.concurrency == pytest.approx(2.0)
    assert rate.arrivals == {"normal": round(4.0 * rate.over_s)}


def test_short_window_forgets_a_burst_that_the_long_one_remembers() -> None:
    demand = Demand()
    sampled(demand, 10.0, 0.0, 600.0)
    quiet = Totals({"normal": 6000})
    for step in range(1, 61):
        demand.sample(600.0 + step * SAMPLE_EVERY_S, MONDAY, quiet)
    assert demand.rate("1m").requests_per_s == 0
    assert demand.rate("5m").requests_per_s == 0
    assert demand.rate("1h").requests_per_s == pytest.approx(6000 / 900)


def test_young_process_gives_the_rate_of_its_life() -> None:
    demand = Demand()
    assert demand.rate("1h").requests_per_s == 0
    sampled(demand, 2.0, 0.0, 20.0)
    assert demand.rate("1h").over_s == 20.0
    assert demand.rate("1h").requests_per_s == pytest.approx(2.0)


def test_priorities_are_counted_in_their_window() -> None:
    demand = Demand()
    demand.sample(0.0, MONDAY, Totals({"high": 5}))
    demand.sample(60.0, MONDAY, Totals({"high": 7, "low": 1}))
    assert demand.rate("1m").arrivals == {"high": 2, "low": 1}


@given(st.lists(st.tuples(st.floats(5.0, 100.0), st.integers(0, 50)), min_size=1, max_size=300))
def test_rate_is_never_negative_nor_above_what_was_counted(
    steps: list[tuple[float, int]],
) -> None:
    demand, now_s, count = Demand(), 0.0, 0
    demand.sample(now_s, MONDAY, Totals())
    for passed_s, came in steps:
        now_s, count = now_s + passed_s, count + came
        demand.sample(now_s, MONDAY + now_s, Totals({"normal": count}))
        for window in WINDOWS_S:
            rate = demand.rate(window)
            seen = rate.requests_per_s * rate.over_s
            assert 0 <= seen <= count + 1e-6
            assert rate.over_s <= now_s


# --- gaps and concurrency -----------------------------------------------------------------------


def test_gap_is_from_the_last_end_to_the_next_arrival() -> None:
    demand = Demand(gap_floor_s=0.0)
    assert demand.arrived(0.0) is None  # nothing was before the first
    assert demand.arrived(1.0) is None
    demand.finished(2.0)
    assert demand.idle_since_s is None
    demand.finished(5.0)
    assert demand.idle_since_s == 5.0
    assert demand.arrived(12.0) == 7.0
    assert demand.idle_since_s is None
    assert demand.gaps.values() == [7.0]


def test_gap_up_to_the_floor_is_not_kept() -> None:
    demand = Demand(gap_floor_s=3.0)
    now_s = 0.0
    for gap_s in (3.0, 3.5, 2.0):
        demand.arrived(now_s)
        demand.finished(now_s)
        now_s += gap_s
    demand.arrived(now_s)
    assert demand.gaps.values() == [3.5]


@given(
    st.lists(
        st.tuples(st.floats(0.0, 1e4), st.floats(0.0, 1e4)), min_size=1, max_size=3 * REMEMBERED
    )
)
def test_gaps_are_the_silences_between_requests_that_follow_each_other(
    requests: list[tuple[float, float]],
) -> None:
    demand, now_s, silences = Demand(gap_floor_s=0.0), 0.0, []
    for silence_s, length_s in requests:
        arrival_s = now_s + silence_s
        gap_s = demand.arrived(arrival_s)
        silences.append(arrival_s - now_s)
        assert gap_s in (None, arrival_s - now_s)
        now_s = arrival_s + length_s
        demand.finished(now_s)
    expected = [gap_s for gap_s in silences[1:] if gap_s > 0]
    assert demand.gaps.values() == expected[-REMEMBERED:]


@given(st.lists(st.booleans(), max_size=200))
def test_in_progress_is_what_came_less_what_ended(steps: list[bool]) -> None:
    demand, open_now, most = Demand(), 0, 0
    for second, arrives in enumerate(steps):
        if arrives:
            demand.arrived(float(second))
            open_now += 1
        elif open_now:
            demand.finished(float(second))
            open_now -= 1
        most = max(most, open_now)
    assert demand.in_progress == open_now
    assert demand.snapshot(len(steps)).peak_5m == most


def test_peak_is_forgotten_after_five_minutes_and_counts_other_processes() -> None:
    demand = Demand()
    for second in range(4):
        demand.arrived(float(second))
    for second in range(4):
        demand.finished(10.0 + second)
    demand.sample(20.0, MONDAY, Totals(), elsewhere=3)
    assert demand.snapshot(20.0).peak_5m == 7
    assert demand.snapshot(20.0, elsewhere=2).in_flight == 2
    sampled(demand, 0.0, 25.0, 330.0)
    assert demand.snapshot(330.0).peak_5m == 0


def test_idle_time_is_told_only_while_nothing_is_under_way() -> None:
    demand = Demand()
    assert demand.snapshot(5.0).idle_s is None
    demand.arrived(5.0)
    assert demand.snapshot(6.0).idle_s is None
    demand.finished(8.0)
    assert demand.snapshot(10.0).idle_s == 2.0
    assert demand.snapshot(10.0, elsewhere=1).idle_s is None


# --- samples of durations -----------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=300))
def test_quantiles_are_values_that_occurred_in_order(values: list[float]) -> None:
    found = quantiles(values)
    assert found.count == len(values)
    assert min(values) <= found.p50 <= found.p90 <= found.p99 <= max(values)
    assert {found.p50, found.p90, found.p99} <= set(values)
    assert sum(value <= found.p90 for value in values) >= 0.9 * len(values)


def test_first_tokens_hot_and_cold_are_apart_and_bounded() -> None:
    demand = Demand()
    for number in range(2 * FIRST_TOKENS_KEPT):
        demand.first_token(float(number), cold=False)
    demand.first_token(30.0, cold=True)
    found = demand.snapshot(0.0).first_token
    assert (found["hot"].count, found["cold"].count) == (FIRST_TOKENS_KEPT, 1)
    assert found["hot"].p50 == 1.5 * FIRST_TOKENS_KEPT - 1
    assert demand.take_first_tokens() == [float(n) for n in range(200, 400)]
    assert demand.take_first_tokens() == []


def test_starts_are_kept_by_stage_and_bounded() -> None:
    demand = Demand()
    for number in range(STARTS_KEPT + 50):
        demand.started({"loading": float(number), "total": 2.0 * number})
    demand.started({"sleep_1": 1.0})
    found = demand.snapshot(0.0).starts
    assert set(found) == {"loading", "total", "sleep_1"}
    assert found["loading"].count == STARTS_KEPT
    assert found["total"].p99 == 2 * found["loading"].p99


# --- hours of the week --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch_s", "number"),
    [
        (MONDAY, 0),
        (MONDAY - 1, HOURS - 1),
        (MONDAY + 25 * HOUR_S, 25),
        (0.0, 72),  # a Thursday
    ],
)
def test_hour_of_week_begins_on_monday(epoch_s: float, number: int) -> None:
    assert hour_of_week(epoch_s)[0] == number


def test_hour_that_was_never_seen_has_no_rate() -> None:
    week = Week()
    week.add(MONDAY + HOUR_S - 1, HOUR_S - 1, 7200)
    assert week.rates()[0] == pytest.approx(2.0, rel=1e-3)
    assert week.rates()[1:] == (None,) * (HOURS - 1)
    assert week.take_changed() == {0}
    assert week.take_changed() == set()


def test_hour_of_last_week_counts_half() -> None:
    week = Week()
    week.add(MONDAY, HOUR_S, 3600 * 9)
    week.add(MONDAY + HOURS * HOUR_S, HOUR_S, 0)
    assert week.rates()[0] == pytest.approx(3.0)  # (9/2 + 0) / (1/2 + 1)


def test_samples_fill_the_hour_in_which_they_end() -> None:
    demand = Demand()
    sampled(demand, 3.0, 0.0, 2 * HOUR_S)
    hours = demand.snapshot(0.0).hours
    assert hours[0] == pytest.approx(3.0, rel=0.01)
    assert hours[1] == pytest.approx(3.0, rel=0.01)
    assert hours[3:] == (None,) * (HOURS - 3)


@given(st.lists(st.tuples(st.floats(0, 2e9), st.floats(0, 100), st.integers(0, 9)), max_size=100))
def test_week_stays_finite_and_unsigned(steps: list[tuple[float, float, int]]) -> None:
    week = Week()
    for epoch_s, seconds, requests in steps:
        week.add(epoch_s, seconds, requests)
    for hour in week.hours:
        assert math.isfinite(hour.requests)
        assert min(hour.seconds, hour.requests) >= 0
