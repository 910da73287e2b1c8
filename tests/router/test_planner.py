"""One model's planner: what it sees of the demand, what it decides, and that it decides alike."""

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.budget import Allowance
from policies.placement import PlacementName, Rules
from policies.rungs import RungName
from router.economics import Economics, SleepRung
from router.planner import OUTPUT_GUESS, RATE_OVER_S, STARTS_REMEMBERED, Planner

START_S = 60.0
# A second of holding costs 1 USD, so that break-even is at a minute and costs are seconds.
FACTS = Economics("m", hold_usd_s=1.0, priced=True, start_s=(START_S,) * 3)
ASLEEP = replace(FACTS, sleep=(SleepRung("sleep_1", 0.1, 6.0),))
SAVING = Allowance("saving", "it has spent 9 of 10 USD today")
REFUSING = Allowance("refusing", "it has spent 10 of 10 USD today")
RULES = Rules(None, False, 10.0, 1.0, 240.0, 0.15, 600.0)
DAY_S = 86400.0

GAPS_S = st.lists(st.floats(0.5, 20_000.0), max_size=120)


def ask(planner: Planner, at_s: float, took_s: float = 1.0, tokens: float = 0.0) -> float:
    """One request alone; when it ended."""
    planner.arrived(at_s)
    planner.finished(at_s + took_s, tokens, tokens)
    return at_s + took_s


def after(facts: Economics, gaps_s: list[float]) -> Planner:
    """A planner that has seen these gaps between single requests."""
    planner = Planner(facts, 0.0)
    now_s = ask(planner, 0.0)
    for gap_s in gaps_s:
        now_s = ask(planner, now_s + gap_s)
    return planner


def steps(planner: Planner) -> list[tuple[float, RungName]]:
    return [(pytest.approx(after_s), name) for after_s, name in planner.descent().steps]


# --- what happens ---------------------------------------------------------------------------------


def test_a_gap_goes_from_the_last_byte_of_all_to_the_next_request():
    planner = Planner(FACTS, 0.0)
    planner.arrived(0.0)
    planner.arrived(5.0)
    planner.finished(10.0)
    assert planner.idle_since_s is None
    planner.finished(30.0)
    assert planner.idle_since_s == 30.0
    planner.arrived(130.0)
    assert planner.gaps.values() == [100.0]
    assert planner.active == 1


def test_gaps_that_no_rule_goes_down_in_are_not_learned():
    planner = after(FACTS, [1.0, 1.1, 1.3])
    assert planner.gaps.floor_s == pytest.approx(1.2)
    assert planner.gaps.values() == pytest.approx([1.3])


def test_a_descent_is_decided_anew_only_when_something_was_learned():
    planner = after(FACTS, [500.0])
    decided = planner.descent()
    assert planner.idle_since_s is not None
    ask(planner, planner.idle_since_s + 1.0)
    assert planner.descent() is decided
    ask(planner, planner.idle_since_s + 500.0)
    assert planner.descent() is not decided


def test_the_end_of_a_request_that_came_before_the_planner_is_not_counted():
    planner = Planner(FACTS, 100.0)
    planner.finished(110.0, 1000.0, 1000.0)
    assert planner.active == 0
    assert planner.idle_since_s is None
    assert planner.output_mean == OUTPUT_GUESS


def test_a_request_received_before_the_last_one_was_told_to_have_ended_makes_no_gap():
    planner = Planner(FACTS, 0.0)
    ask(planner, 0.0, took_s=10.0)
    planner.arrived(9.0)
    planner.finished(40.0)
    assert planner.periods.now.idle_usd == 0.0
    assert planner.gaps.values() == []


def test_the_price_of_a_request_follows_its_size_and_the_answers_before():
    planner = Planner(replace(FACTS, api_usd=(1.0, 10.0)), 0.0)
    assert planner.expected_usd(400) == pytest.approx(100 + 10 * OUTPUT_GUESS)
    for n in range(200):
        planner.arrived(2.0 * n)
        planner.finished(2.0 * n + 1, 5.0, 20.0)
    assert planner.expected_usd(400) == pytest.approx(100 + 10 * 20, rel=0.01)
    assert planner.periods.now.api_usd == pytest.approx(200 * (5 + 200))
    assert Planner(FACTS, 0.0).expected_usd(400) == 0.0


def test_what_went_elsewhere_adds_up_until_an_instance_is_ready():
    planner = Planner(FACTS, 0.0)
    planner.overflowed(10.0)
    planner.overflowed(15.0)
    terms = planner.terms(3.0, "high", overflow=True)
    assert (terms.left_s, terms.priority, terms.overflow) == (3.0, "high", True)
    assert (terms.overspent_usd, terms.start_usd) == (25.0, START_S)
    planner.woke("off", 70.0)
    assert planner.terms(3.0, "normal", overflow=False).overspent_usd == 0.0


# --- starts and wakes -----------------------------------------------------------------------------


def test_starts_are_as_configured_until_a_few_were_measured():
    planner = Planner(replace(FACTS, start_s=(20.0, 40.0, 60.0)), 0.0)
    assert planner.wake_mean_s("off") == pytest.approx(27.0)
    assert planner.eta_s("off", None) == 40.0
    assert planner.eta_s("off", 15.0) == 25.0
    for took_s in (100.0, 101.0):
        planner.woke("off", took_s)
    assert planner.wake_mean_s("off") == pytest.approx(27.0)
    planner.woke("off", 102.0)
    assert planner.wake_mean_s("off") == pytest.approx(101.0)
    assert planner.eta_s("off", None) == 102.0
    assert planner.descent().steps[0][0] == pytest.approx(101.0)
    for _ in range(STARTS_REMEMBERED):
        planner.woke("off", 10.0)
    assert planner.wake_mean_s("off") == pytest.approx(10.0)


def test_wakes_from_sleep_are_measured_apart():
    planner = Planner(ASLEEP, 0.0)
    assert planner.wake_mean_s("sleep_1") == 6.0
    assert steps(planner) == [(6 / 0.9, "sleep_1"), (540.0, "off")]
    for _ in range(3):
        planner.woke("sleep_1", 3.0)
    assert planner.eta_s("sleep_1", None) == 3.0
    assert planner.wake_mean_s("off") == START_S
    assert steps(planner) == [(3 / 0.9, "sleep_1"), (570.0, "off")]


def test_a_sleep_that_wakes_as_slowly_as_a_start_is_left_out():
    planner = Planner(ASLEEP, 0.0)
    for _ in range(3):
        planner.woke("sleep_1", 61.0)
    assert steps(planner) == [(START_S, "off")]


# --- descents -------------------------------------------------------------------------------------


def test_a_descent_is_learned_from_gaps():
    assert steps(after(FACTS, [])) == [(START_S, "off")]
    assert steps(after(FACTS, [5000.0] * 10)) == [(1.2, "off")]
    assert steps(after(FACTS, [50.0] * 20)) == [(START_S, "off")]  # held so far, and no further
    assert steps(after(FACTS, [50.0, 70.0] * 20)) == [(70.0, "off")]
    assert steps(after(replace(FACTS, idle="ski_rental"), [5000.0] * 10)) == [(START_S, "off")]


@pytest.mark.parametrize(
    ("idle", "found"), [(300.0, [(300.0, "off")]), (0.0, [(0.0, "off")]), (math.inf, [])]
)
def test_a_stated_idle_time_is_kept(idle: float, found: list[tuple[float, str]]):
    planner = after(replace(FACTS, idle=idle), [5000.0] * 10)
    assert steps(planner) == found
    assert "as configured" in planner.descent().reason


def test_jitter_is_drawn_anew_for_each_gap_and_each_model():
    def after_s(model: str, gaps: int) -> float:
        facts = replace(FACTS, model=model, idle=100.0, jitter=0.5)
        return after(facts, [50.0] * gaps).descent().steps[0][0]

    drawn = {after_s(model, gaps) for model in ("a", "b", "c") for gaps in range(5)}
    assert len(drawn) == 15
    assert all(100.0 <= s <= 150.0 for s in drawn)
    assert after_s("a", 3) == after_s("a", 3)


def test_a_model_that_is_not_started_learns_nothing():
    planner = after(Economics("m", has_cold=False, api_usd=(1e-6, 1e-6)), [50.0] * 30)
    assert len(planner.gaps) == 0
    assert planner.prestart() is None
    assert planner.placement.name == "api"
    assert planner.place(1000.0).name == "api"


@given(st.sampled_from([FACTS, ASLEEP]), GAPS_S)
def test_a_restart_forgets_no_descent(facts: Economics, gaps_s: list[float]):
    before = after(facts, gaps_s)
    wakes_s: dict[RungName, tuple[float, ...]] = {"off": (50.0, 60.0, 70.0, 80.0)}
    for took_s in wakes_s["off"]:
        before.woke("off", took_s)
    again = Planner(facts, 0.0)
    again.recall(before.gaps.values(), wakes_s)
    assert again.ladder == before.ladder
    assert again.wake_mean_s("off") == before.wake_mean_s("off")
    alike = Planner(facts, 0.0)
    alike.recall(before.gaps.values(), wakes_s)
    assert again.descent() == alike.descent()


@given(GAPS_S)
def test_a_restart_at_the_same_prices_gives_the_same_descent(gaps_s: list[float]):
    before = after(FACTS, gaps_s)
    again = Planner(FACTS, 0.0)
    again.recall(before.gaps.values(), {})
    assert again.descent() == before.descent()


def test_new_prices_keep_what_was_learned():
    planner = after(FACTS, [5000.0] * 10)
    planner.reconfigure(replace(FACTS, hold_usd_s=2.0, start_s=(120.0,) * 3))
    assert steps(planner) == [(2.4, "off")]
    assert len(planner.gaps) == 10
    planner.reconfigure(replace(FACTS, idle=90.0, hold_usd_s=3.0))
    assert steps(planner) == [(90.0, "off")]
    planner.place(3600.0)
    assert planner.prospects()["always_on"].usd_per_hour == pytest.approx(3 * 3600.0)


def test_new_rules_move_a_model_only_where_they_must():
    priced = replace(FACTS, api_usd=(0.0, 1e-9))
    planner = Planner(priced, 0.0)
    play(planner, every_s=30.0, until_s=3 * 3600.0)
    assert planner.placement.name == "api"
    planner.reconfigure(replace(priced, hold_usd_s=1.1))
    assert planner.placement.name == "api"
    planner.reconfigure(replace(priced, rules=replace(RULES, pin="always_on")))
    assert planner.placement.name == "always_on"
    planner.reconfigure(replace(priced, api_usd=None))
    assert planner.placement.name == "always_on"
    planner.reconfigure(replace(priced, priced=False))
    assert planner.placement.name == "on_demand"


# --- budgets --------------------------------------------------------------------------------------


def test_near_the_budget_idle_times_get_shorter():
    impatient = replace(FACTS, delay_usd_s=9.0)
    planner = Planner(impatient, 0.0)
    assert steps(planner) == [(10 * START_S, "off")]
    planner.allow(SAVING)
    assert steps(planner) == [(START_S, "off")]
    planner.allow(Allowance("normal"))
    assert steps(planner) == [(10 * START_S, "off")]


@pytest.mark.parametrize(
    ("idle", "saving_s"), [(3600.0, START_S), (math.inf, START_S), (20.0, 20.0), (0.0, 0.0)]
)
def test_near_the_budget_stated_idle_times_are_cut_to_break_even(idle: float, saving_s: float):
    planner = Planner(replace(FACTS, idle=idle, delay_usd_s=9.0), 0.0)
    planner.allow(SAVING)
    assert steps(planner) == [(saving_s, "off")]


@pytest.mark.parametrize("idle", ["clamped", 3600.0, math.inf])
def test_at_the_budget_what_is_idle_is_stopped(idle: float):
    planner = Planner(replace(ASLEEP, idle=idle), 0.0)
    planner.allow(REFUSING)
    assert planner.descent().steps == ((0.0, "off"),)
    assert planner.descent().reason == REFUSING.reason


# --- placed elsewhere, and more than one server ------------------------------------------------


def test_a_model_at_the_api_holds_nothing_and_learns_on():
    planner = after(replace(FACTS, rules=replace(RULES, pin="api")), [5000.0] * 10)
    assert planner.descent().steps == ((0.0, "off"),)
    assert "outside API" in planner.descent().reason
    planner.place(60_000.0)
    assert planner.periods.prospects()["on_demand"].usd_per_hour > 0
    planner.reconfigure(FACTS)
    assert steps(planner) == [(1.2, "off")]


def test_a_server_beyond_the_first_goes_down_within_its_break_even():
    facts = replace(FACTS, delay_usd_s=0.0, max_instances=3)
    planner = after(facts, [5000.0] * 10)
    assert steps(planner) == [(1.2, "off")]
    drawn = [planner.extra_descent().steps[0][0] for _ in range(50)]
    assert min(drawn) < 0.3 * START_S < 0.7 * START_S < max(drawn) < START_S
    assert Planner(replace(facts, idle=90.0), 0.0).extra_descent().steps == ((90.0, "off"),)
    dearer = Planner(replace(facts, delay_usd_s=1.0), 0.0)
    assert max(dearer.extra_descent().steps[0][0] for _ in range(50)) > 10 * START_S  # who waits
    for stance in (SAVING, REFUSING):
        planner.allow(stance)
        assert (planner.extra_descent().steps[0][0] > 0) == (stance is SAVING)


# --- early starts ---------------------------------------------------------------------------------

HOURLY = [3600.0] * 20


def hourly(**more: object) -> Planner:
    return after(replace(FACTS, delay_usd_s=5.0, **more), HOURLY)


def test_a_model_with_a_habit_is_started_early():
    early = hourly().prestart()
    assert early is not None
    assert early.after_s == pytest.approx(3600.0 - START_S)


def test_no_early_start_where_it_would_serve_nobody():
    assert after(FACTS, HOURLY).prestart() is None  # waiting costs nothing
    assert hourly(idle=math.inf).prestart() is None  # it never goes down
    assert hourly(rules=replace(RULES, pin="api")).prestart() is None
    planner = hourly()
    planner.allow(SAVING)
    assert planner.prestart() is None
    planner.allow(Allowance("normal"))
    assert planner.prestart() is not None


def test_an_early_start_follows_the_next_gap():
    planner = hourly()
    first = planner.prestart()
    assert planner.prestart() is first  # worked out once
    assert planner.idle_since_s is not None
    now_s = planner.idle_since_s
    for _ in range(100):
        now_s = ask(planner, now_s + 1800.0)
    found = planner.prestart()
    assert found is not None
    assert found.after_s == pytest.approx(1800.0 - START_S)


# --- placements -----------------------------------------------------------------------------------


def play(
    planner: Planner,
    every_s: float,
    until_s: float,
    *,
    begin_s: float = 0.0,
    took_s: float = 1.0,
    tokens: float = 100.0,
) -> None:
    """Requests at equal distances, and a choice of placement every five minutes."""
    now_s, place_s = begin_s, begin_s + planner.economics.place_every_s
    while now_s < until_s:
        while place_s <= now_s:
            planner.place(place_s)
            place_s += planner.economics.place_every_s
        ask(planner, now_s, took_s, tokens)
        now_s += every_s


def test_prospects_by_hand():
    planner = Planner(replace(FACTS, idle="ski_rental", api_usd=(0.01, 0.02)), 0.0)
    for n in range(36):
        ask(planner, 100.0 * n, took_s=10.0, tokens=100.0)  # gaps of 90 s, off after 60 s
    planner.place(3600.0)
    found = planner.prospects()
    assert found["always_on"].usd_per_hour == pytest.approx(3600.0)
    assert found["api"].usd_per_hour == pytest.approx(36 * 3.0)
    on_demand = found["on_demand"]
    assert on_demand.usd_per_hour == pytest.approx(36 * 10 + 35 * 120)
    assert on_demand.p99_wait_s == START_S
    assert on_demand.delay_usd_per_hour == 0.0


@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_who_goes_off_at_once_pays_a_start_for_each_request(idle: float):
    """Though nothing is learned from gaps as short as that."""
    planner = Planner(replace(FACTS, idle=idle), 0.0)
    for n in range(600):
        ask(planner, 2.0 * n)
    planner.place(1200.0)
    spent_usd = planner.prospects()["on_demand"].usd_per_hour / 3
    assert spent_usd == pytest.approx(600 + 599 * (idle + START_S))


def test_what_a_model_cannot_have_is_no_prospect():
    for facts, names in (
        (FACTS, {"always_on", "on_demand"}),
        (replace(FACTS, priced=False), {"on_demand"}),
        (replace(FACTS, api_usd=(1.0, 1.0)), {"always_on", "on_demand", "api"}),
        (replace(FACTS, has_cold=False), set()),
    ):
        planner = Planner(facts, 0.0)
        ask(planner, 0.0)
        planner.place(300.0)
        assert set(planner.prospects()) == names


def placements(
    facts: Economics, phases: list[tuple[float, float]]
) -> list[tuple[float, PlacementName]]:
    """(days, requests per second) one after the other; on which days it was moved where.

    A request takes a second at least and has 100 tokens each way; from one per second on they
    are without a gap.
    """
    planner, began_s = Planner(facts, 0.0), 0.0
    moves: list[tuple[float, PlacementName]] = [(0.0, planner.placement.name)]
    for days, per_s in phases:
        for from_s in range(int(began_s), int(began_s + days * DAY_S), 300):
            if per_s >= 1:
                tokens = 100.0 * 300 * per_s
                planner.flowed(from_s, from_s + 300, 300 * per_s, tokens, tokens)
            elif from_s % round(1 / per_s) < 300:
                ask(planner, from_s, 1.0, 100.0)
            name = planner.place(from_s + 300).name
            if name != moves[-1][1]:
                moves.append(((from_s + 300) / DAY_S, name))
        began_s += days * DAY_S
    return moves


def test_a_model_goes_to_the_api_when_it_is_seldom_asked_and_comes_back():
    # A request costs 3 USD there: 10,800 USD in a busy hour, 6 in one that costs 122 on demand.
    facts = replace(FACTS, api_usd=(0.01, 0.02), rules=RULES)
    moves = placements(facts, [(2, 1.0), (25, 1 / 1800), (5, 1.0)])
    assert [name for _, name in moves] == ["on_demand", "api", "on_demand"]
    (entered, _), (left, _) = moves[1:]
    assert 3 < entered < 27  # when the busy days have faded
    assert 27 < left < 29


def test_the_rhythm_of_a_day_does_not_move_a_model():
    facts = replace(FACTS, api_usd=(0.01, 0.02), rules=RULES)
    moves = placements(facts, [(0.4, 1.0), (0.6, 1 / 1800)] * 10)
    assert [name for _, name in moves] == ["on_demand"]


@pytest.mark.parametrize("share", [0.9, 1.0, 1.1])
def test_a_model_whose_costs_are_close_stays_where_it_is(share: float):
    facts = replace(FACTS, api_usd=(0.0, 0.01 * share), rules=RULES)  # 1 USD a second, as hot
    assert placements(facts, [(2, 1.0), (1, 1.0)]) == [(0.0, "on_demand")]


def test_the_rule_by_requests_moves_a_model_without_a_price():
    facts = replace(FACTS, priced=False, rules=replace(RULES, by_qps=True))
    planner = Planner(facts, 0.0)
    planner.flowed(0.0, 900.0, 20 * 900, 0.0, 0.0)
    assert planner.place(900.0).name == "always_on"
    assert planner.place(1800.0).name == "on_demand"


def test_a_request_that_takes_long_is_counted_in_every_period():
    planner = Planner(FACTS, 0.0)
    planner.arrived(0.0)
    for n in range(1, 13):
        planner.place(300.0 * n)
    assert planner.prospects()["on_demand"].usd_per_hour == pytest.approx(3600.0)
    planner.finished(3610.0)
    assert planner.periods.now.busy_s == pytest.approx(10.0)


def test_no_price_for_delay_makes_starts_free_to_wait_for():
    patient, impatient = (
        Planner(replace(FACTS, delay_usd_s=usd, idle=0.0), 0.0) for usd in (0.0, 2.0)
    )
    for planner in (patient, impatient):
        play(planner, 200.0, 7200.0)
    delays = [p.prospects()["on_demand"].delay_usd_per_hour for p in (patient, impatient)]
    assert delays[0] == 0.0
    assert delays[1] == pytest.approx(18 * START_S * 2.0, rel=0.1)


def test_all_who_come_while_it_wakes_weigh():
    """Ten who come together wait ten times as long as one, so it is held ten times as long."""
    facts = replace(FACTS, delay_usd_s=1.0, idle="ski_rental")
    alone, together = after(facts, [5000.0] * 60), Planner(facts, 0.0)
    for n in range(61):
        for _ in range(10):
            together.arrived(5001.0 * n)
        for _ in range(10):
            together.finished(5001.0 * n + 1.0)
    assert alone.descent().steps[0][0] == pytest.approx(2 * START_S)
    assert together.descent().steps[0][0] == pytest.approx(11 * START_S, rel=0.1)
    delays = []
    for planner in (alone, together):
        planner.place(5001.0 * 61)
        delays.append(planner.prospects()["on_demand"].delay_usd_per_hour)
    assert 7 < delays[1] / delays[0] < 10  # the first of them were not weighed so yet


# --- servers --------------------------------------------------------------------------------------


def test_servers_for_a_rate():
    planner = Planner(replace(FACTS, requests_s=8.0, max_instances=3), 0.0)
    found = [planner.instances_for(rate) for rate in (0.0, 8.0, 8.1, 24.0, 99.0)]
    assert found == [1, 1, 2, 3, 3]


def test_an_always_on_pool_is_as_large_as_its_busiest_time():
    facts = replace(FACTS, requests_s=8.0, max_instances=4)
    planner = Planner(facts, 0.0)
    assert planner.always_on_instances() == 1
    planner.flowed(0.0, 300.0, 20 * 300, 0.0, 0.0)
    planner.place(300.0)
    assert planner.always_on_instances() == 3
    planner.reconfigure(replace(facts, max_instances=2))
    assert planner.always_on_instances() == 2


def test_a_short_burst_is_no_rate_that_needs_more_servers():
    planner = Planner(replace(FACTS, requests_s=8.0, max_instances=4), 0.0)
    for _ in range(int(8.0 * RATE_OVER_S)):
        planner.arrived(10.0)
    for _ in range(int(8.0 * RATE_OVER_S)):
        planner.finished(12.0)
    assert planner.always_on_instances() == 1


# --- many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("per_s", [0.5, 5.0, 20.0])
def test_a_flow_is_what_its_requests_would_have_been(per_s: float):
    facts = replace(FACTS, api_usd=(1e-3, 2e-3), requests_s=8.0, max_instances=4, delay_usd_s=1.0)
    one_by_one, flow = Planner(facts, 0.0), Planner(facts, 0.0)
    now_s = 0.0
    for hour in range(2):
        began_s, ended_s = now_s + 400.0, now_s + 3000.0
        count = int((ended_s - began_s) * per_s)
        at_s = [began_s + n / per_s for n in range(count)]
        took_s = 1.5 / per_s  # so that they overlap
        events = sorted(
            [(t, one_by_one.arrived) for t in at_s]
            + [(t + took_s, finish(one_by_one)) for t in at_s],
            key=lambda event: event[0],
        )
        for t, happens in events:
            happens(t)
        flow.flowed(began_s, at_s[-1] + took_s, count, 100.0 * count, 50.0 * count)
        now_s = 3600.0 * (hour + 1)
        one_by_one.place(now_s)
        flow.place(now_s)
    assert flow.always_on_instances() == one_by_one.always_on_instances()
    assert steps(flow) == list(one_by_one.descent().steps)
    exact, found = one_by_one.prospects(), flow.prospects()
    assert found.keys() == exact.keys()
    for name, prospect in found.items():
        assert prospect.usd_per_hour == pytest.approx(exact[name].usd_per_hour, rel=0.01)
        assert prospect.delay_usd_per_hour == pytest.approx(
            exact[name].delay_usd_per_hour, rel=0.01
        )


def finish(planner: Planner) -> Callable[[float], None]:
    return lambda now_s: planner.finished(now_s, 100.0, 50.0)


# --- the same week decides the same ---------------------------------------------------------------


def week(facts: Economics, seed: int, offset_s: float = 0.0) -> list[object]:
    """Every decision of some days of sessions, starts and choices."""
    rng = random.Random(seed)
    planner = Planner(facts, offset_s)
    decided: list[object] = []
    now_s, place_s = offset_s, offset_s + 300.0
    while now_s < offset_s + 3 * DAY_S:
        now_s += rng.expovariate(1 / 3000) if rng.random() < 0.2 else rng.expovariate(1 / 40)
        while place_s <= now_s:
            placement = planner.place(place_s)
            decided.append((placement.name, placement.since_s - offset_s))
            place_s += 300.0
        idle_s = now_s - (planner.idle_since_s or now_s)
        met: RungName = "hot"
        for after_s, rung in planner.descent().steps:
            met = rung if idle_s > after_s else met
        terms = planner.terms(20.0, "normal", False)
        decided.append(
            (met, planner.eta_s(met, None), terms, planner.descent(), planner.prestart())
        )
        if met != "hot":
            planner.woke(met, rng.lognormvariate(4.0, 0.2))
        now_s = ask(planner, now_s, rng.expovariate(1 / 5), rng.randint(10, 500))
    return decided


@pytest.mark.parametrize(
    "facts",
    [
        replace(ASLEEP, jitter=0.3, delay_usd_s=2.0),
        replace(FACTS, api_usd=(1e-3, 1e-2), idle="empirical", rules=RULES),
    ],
    ids=["asleep", "api"],
)
def test_the_same_week_decides_the_same(facts: Economics):
    decided = week(facts, seed=4)
    assert len(decided) > 500
    assert week(facts, seed=4) == decided
    assert week(facts, seed=5) != decided


def test_the_zero_of_the_clock_does_not_matter():
    """A restart of the machine gives another one; a power of two keeps the rounding."""
    facts = replace(ASLEEP, jitter=0.3, delay_usd_s=2.0)
    here = [x[0] for x in week(facts, seed=4) if isinstance(x, tuple)]
    there = [x[0] for x in week(facts, seed=4, offset_s=2.0**20) if isinstance(x, tuple)]
    assert here == there


@given(st.integers(1, 30), st.integers(1, 30))
def test_several_requests_at_once_are_as_many_one_by_one(came: int, more: int) -> None:
    together, single = Planner(FACTS, 0.0), Planner(FACTS, 0.0)
    together.arrived(10.0, came)
    together.finished(25.0, 100.0, 40.0, came + more)  # `more` that it never heard of
    for _ in range(came):
        single.arrived(10.0)
    for _ in range(came + more):
        single.finished(25.0, 100.0, 40.0)
    for planner in (together, single):
        planner.arrived(9000.0)
        planner.place(9300.0)
    assert together.active == single.active == 1
    assert together.output_mean == pytest.approx(single.output_mean)
    assert together.descent() == single.descent()
    assert together.prospects()["on_demand"].usd_per_hour == pytest.approx(
        single.prospects()["on_demand"].usd_per_hour
    )
