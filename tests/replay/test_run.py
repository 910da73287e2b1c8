"""The loop over stretches against an event-by-event simulation, and against closed forms."""

import itertools
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.placement import Rules
from policies.rungs import RungName
from router.economics import Economics, SleepRung
from router.planner import Planner
from router.replay.bounds import (
    best_fixed_s,
    clairvoyant,
    clairvoyant_early_usd,
    fixed_usd,
    ladder_of,
)
from router.replay.histogram import Histogram
from router.replay.keepers import Fixed, Keeper, Planned
from router.replay.outcome import Outcome
from router.replay.requests import Requests
from router.replay.run import Run
from router.replay.server import Draw
from router.replay.work import Work, work_of
from tests.replay.reference import Reference

PINNED = Rules("on_demand", False, 10.0, 1.0, 240.0, 0.15, 600.0)
FACTS = Economics("m", hold_usd_s=1.0, priced=True, start_s=(20.0,) * 3, rules=PINNED)
ASLEEP = replace(FACTS, sleep=(SleepRung("sleep_1", 0.25, 3.0), SleepRung("sleep_2", 0.125, 10.0)))
COSTLY_WAITS = replace(FACTS, delay_usd_s=4.0)

# Eighths are exact in binary, so that both sides find the same things to be at the same time.
EIGHTHS = st.integers(0, 800).map(lambda n: n / 8)
REQUESTS = st.lists(
    st.tuples(st.one_of(st.integers(0, 40).map(lambda n: n / 8), EIGHTHS), EIGHTHS), max_size=60
)
STARTS = st.lists(st.integers(0, 480).map(lambda n: n / 8), min_size=1, max_size=5)
STEPS = st.sampled_from(
    [
        (),
        ((0.0, "off"),),
        ((5.0, "off"),),
        ((60.0, "off"),),
        ((2.5, "sleep_1"), (30.0, "off")),
        ((1.0, "sleep_1"), (10.0, "sleep_2"), (40.0, "off")),
    ]
)


def given_requests(gaps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(time, service) from (time since the one before, service)."""
    times = itertools.accumulate(gap_s for gap_s, _ in gaps)
    return [(at_s, service_s) for at_s, (_, service_s) in zip(times, gaps, strict=True)]


def work(
    requests: list[tuple[float, float]], facts: Economics = FACTS, held_s: float = float("inf")
) -> Work:
    rows = Requests(array("d", (at_s for at_s, _ in requests)))
    rows.durations_s = array("d", (service_s for _, service_s in requests))
    return work_of(rows, facts, 5000.0, held_s, 300.0)


def holding(facts: Economics) -> dict[RungName, float]:
    held: dict[RungName, float] = {"hot": facts.hold_usd_s, "off": 0.0}
    return held | {level.name: level.share * facts.hold_usd_s for level in facts.sleep}


def rises(starts_s: list[float]) -> Draw:
    left = itertools.cycle(starts_s)
    return lambda rung, now_s: next(left) if rung == "off" else 3.0


def fast(
    requests: list[tuple[float, float]],
    keeper: Keeper,
    starts_s: list[float],
    facts: Economics = FACTS,
    held_s: float = float("inf"),
) -> tuple[Outcome, list[tuple[float, str]]]:
    log: list[tuple[float, str]] = []
    run = Run(
        work(requests, facts, held_s),
        keeper,
        rises(starts_s),
        lambda at_s, what: log.append((at_s, what)),
    )
    run.finish()
    return run.outcome, log


def assert_same(found: tuple[Outcome, list[tuple[float, str]]], slow: Reference) -> None:
    outcome, log = found
    assert [what for _, what in log] == [what for _, what in slow.log]
    assert [at_s for at_s, _ in log] == pytest.approx([at_s for at_s, _ in slow.log])
    assert outcome.holding_usd == pytest.approx(slow.usd["holding"])
    assert outcome.starting_usd == pytest.approx(slow.usd["starting"])
    assert outcome.serving_usd == pytest.approx(slow.usd["serving"])
    assert outcome.waits.total_s == pytest.approx(sum(slow.waits_s))
    assert outcome.cold == len(slow.waits_s)
    assert outcome.missed == slow.missed


@given(REQUESTS, STEPS, STARTS, st.sampled_from([5.0, 30.0, float("inf")]))
@settings(max_examples=400, deadline=None)
def test_fixed_steps_are_followed_as_event_by_event(gaps, steps, starts_s, held_s):
    requests = given_requests(gaps)
    if not requests:
        return
    found = fast(requests, Fixed(steps), starts_s, ASLEEP, held_s)
    slow = Reference(requests, lambda: steps, rises(starts_s), holding(ASLEEP), held_s)
    assert_same(found, slow.run(5000.0))


@given(REQUESTS, STARTS, st.sampled_from([FACTS, ASLEEP, COSTLY_WAITS]))
@settings(max_examples=300, deadline=None)
def test_the_planner_decides_as_event_by_event(gaps, starts_s, facts):
    requests = given_requests(gaps)
    if not requests:
        return
    told = Planner(facts, 0.0)
    slow = Reference(
        requests,
        lambda: told.descent().steps,
        rises(starts_s),
        holding(facts),
        arrived=told.arrived,
        finished=told.finished,
        woke=told.woke,
    )
    planner = Planner(facts, 0.0)
    no_early_starts = Planned(planner)
    no_early_starts.early = lambda: None  # the reference knows none
    assert_same(fast(requests, no_early_starts, starts_s, facts), slow.run(5000.0))
    assert planner.gaps.values() == pytest.approx(told.gaps.values())


@given(REQUESTS, st.integers(0, 400).map(lambda n: n / 4))
@settings(max_examples=200, deadline=None)
def test_a_fixed_idle_time_costs_the_closed_form(gaps, idle_s):
    requests = [(at_s + 1.0, 0.0) for at_s, _ in given_requests(gaps)]
    if not requests:
        return
    outcome, _ = fast(requests, Fixed(((idle_s, "off"),)), [0.0])
    wait_usd = 7.0  # starts take no time here, so that gaps are those of the trace
    tail_s = min(idle_s, 5000.0 - requests[-1][0])
    between = [b - a for (a, _), (b, _) in itertools.pairwise(requests)]
    expected = fixed_usd(between, idle_s, wait_usd, 1.0) + wait_usd + tail_s
    assert outcome.holding_usd + wait_usd * outcome.starts == pytest.approx(expected)


@given(st.lists(st.floats(0.0, 1000.0), max_size=50), st.floats(0.0, 500.0))
def test_no_other_idle_time_would_have_been_cheaper(gaps_s, wake_usd):
    best_s = best_fixed_s(gaps_s, wake_usd, 1.0)
    least = fixed_usd(gaps_s, best_s, wake_usd, 1.0)
    assert all(
        fixed_usd(gaps_s, idle_s, wake_usd, 1.0) >= least - 1e-6
        for idle_s in [0.0, *gaps_s, *(gap_s / 2 for gap_s in gaps_s), 2000.0]
    )


@given(REQUESTS, STEPS, st.integers(0, 240).map(lambda n: n / 8))
@settings(max_examples=300, deadline=None)
def test_no_policy_undercuts_who_starts_before_the_request_comes(gaps, steps, start_s):
    """Waiting costs four times as much as a server here: to make people wait saves nothing."""
    facts = replace(COSTLY_WAITS, sleep=ASLEEP.sleep)
    requests = given_requests(gaps)
    if not requests:
        return
    rise_s: dict[RungName, float] = {"hot": 0.0, "sleep_1": 3.0, "sleep_2": 3.0, "off": start_s}
    rungs = ladder_of(facts, rise_s)
    bound = clairvoyant_early_usd(work(requests, facts), rungs)
    outcome, _ = fast(requests, Fixed(steps), [start_s], facts)
    assert bound <= outcome.total_usd + 1e-6
    assert bound <= clairvoyant(work(requests, facts), rungs).total_usd + 1e-6


@given(st.lists(st.floats(0.0, 1000.0), max_size=40), STEPS, st.floats(0.0, 60.0))
def test_no_steps_undercut_the_clairvoyant_gap_by_gap(gaps_s, steps, start_s):
    from policies.rungs import gap_usd, least_usd

    rise_s: dict[RungName, float] = {"hot": 0.0, "sleep_1": 3.0, "sleep_2": 10.0, "off": start_s}
    rungs = ladder_of(ASLEEP, rise_s)
    names = {rung.name for rung in rungs}
    there = [(after_s, rung) for after_s, rung in steps if rung in names]
    for gap_s in gaps_s:
        assert least_usd(rungs, gap_s) <= gap_usd(rungs, there, gap_s) + 1e-9


def test_one_start_serves_all_who_wait_and_who_comes_later_waits_less():
    outcome, log = fast([(10.0, 5.0), (12.0, 1.0), (40.0, 1.0)], Fixed(((60.0, "off"),)), [20.0])
    assert [what for _, what in log] == ["start", "ready", "off"]
    assert outcome.waits.total_s == 20.0 + 18.0
    assert (outcome.starts, outcome.cold, outcome.cold_gaps) == (1, 2, 0)
    assert outcome.serving_usd == pytest.approx(5.0 + 1.0)
    assert outcome.holding_usd == pytest.approx((40.0 - 35.0) + 60.0)


def test_a_caller_whose_time_is_over_is_missed_and_the_start_served_nothing():
    outcome, _ = fast([(10.0, 5.0)], Fixed(((7.0, "off"),)), [20.0], held_s=4.0)
    assert (outcome.missed, outcome.idle_starts) == (1, 1)
    assert outcome.waits.total_s == 4.0
    assert (outcome.starting_usd, outcome.holding_usd) == (20.0, 7.0)


def test_a_start_right_after_the_stop_is_a_flap():
    outcome, _ = fast([(0.0, 1.0), (30.0, 1.0), (200.0, 1.0)], Fixed(((5.0, "off"),)), [20.0])
    assert (outcome.starts, outcome.flaps) == (3, 1)


def test_the_histogram_loads_again_shortly_before_the_usual_gap():
    every_hour = [(3600.0 * n, 1.0) for n in range(60)]
    rows = work(every_hour)
    rows.end_s = every_hour[-1][0]
    run = Run(rows, Histogram(), rises([20.0]))
    run.finish()
    # Kept for four hours until ten gaps are known; then up from 90 % of the gap on.
    assert run.outcome.early_starts == pytest.approx(48, abs=2)
    assert run.outcome.starts == 1 + run.outcome.early_starts
    assert run.outcome.cold == 1


def spell(at_s: float, until_s: float, count: float) -> Requests:
    rows = Requests(array("d", [at_s]))
    rows.until_s, rows.counts = array("d", [until_s]), array("d", [count])
    return rows


def test_more_servers_are_there_for_the_minutes_that_need_them():
    rows = spell(0.0, 600.0, 600.0 * 20)  # 20 requests a second, 8 to a server
    many = replace(FACTS, max_instances=10)
    run = Run(
        work_of(rows, many, 1000.0, float("inf"), 300.0),
        Fixed(((60.0, "off"),)),
        rises([20.0]),
    )
    run.finish()
    assert run.outcome.starts == 3
    assert run.outcome.serving_usd == pytest.approx(3 * (600.0 - 20.0))
    assert run.outcome.holding_usd == pytest.approx(3 * 60.0)
    assert run.outcome.missed == 0


def test_what_no_server_carries_is_missed():
    run = Run(
        work_of(spell(0.0, 600.0, 600.0 * 20), FACTS, 1000.0, float("inf"), 300.0),
        Fixed(()),
        rises([20.0]),
    )
    run.finish()
    assert run.outcome.missed == pytest.approx(600.0 * 12)
