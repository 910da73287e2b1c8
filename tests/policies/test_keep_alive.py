"""The keep-alive rules: what they promise whatever comes, and what they cost on sparse demand."""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import keep_alive
from policies.gaps import Gaps
from policies.keep_alive import (
    CREDIT_WAKES,
    FLOOR_SHARE,
    LONGEST_HOLD,
    Learned,
    Rule,
    descend,
    descend_at_random,
    fixed,
    floor_s,
    jittered,
)
from policies.rungs import Ladder, Rung, gap_usd, least_usd
from tests.policies.ladders import CREDIT, LADDERS, THREE, Gone, breaks_s, two
from tests.policies.sparse import sparse_gaps

RULES: tuple[Rule, ...] = ("clamped", "empirical", "ski_rental")
ROUNDING = 1 + 1e-9

# A model's gaps as runs of equal ones, in break-even times of the last rung.
RUNS = st.lists(
    st.tuples(
        st.sampled_from([0.021, 0.05, 0.3, 0.99, 1.01, 2.5, 3.99, 4.01, 30.0])
        | st.floats(0.001, 10),
        st.integers(1, 40),
    ),
    max_size=25,
)


def spread(runs: Sequence[tuple[float, int]], b_s: float) -> list[float]:
    return [share * b_s for share, count in runs for _ in range(count)]


# --- fixed ----------------------------------------------------------------------------------------


def test_fixed_goes_straight_to_the_last_rung():
    assert fixed(THREE, 300.0).steps == ((300.0, "off"),)
    assert fixed(THREE, 0.0).steps == ((0.0, "off"),)
    assert "300" in fixed(THREE, 300.0).reason


def test_fixed_never_stays():
    assert fixed(THREE, math.inf).steps == ()
    assert fixed(THREE, math.inf).reason


# --- all rules that weigh -------------------------------------------------------------------------


@given(st.sampled_from(RULES), LADDERS, RUNS)
def test_thresholds_and_rungs_ascend_and_have_reasons(
    rule: Rule, rungs: Ladder, runs: list[tuple[float, int]]
):
    gone = Gone(rule, rungs).through(spread(runs, breaks_s(rungs)[-1]))
    decided = descend(rule, rungs, gone.gaps, gone.learned)
    times_s = [after_s for after_s, _ in decided.steps]
    assert all(a < b for a, b in itertools.pairwise(times_s))
    order = [rung.name for rung in rungs[1:]]
    names = [name for _, name in decided.steps]
    assert names == sorted(names, key=order.index)
    assert names[-1] == order[-1]
    assert all(name in decided.reason for name in names)
    breaks = dict(zip(order, breaks_s(rungs), strict=True))
    if rule == "clamped":  # moved to a neighbour's time perhaps, and in its own band even so
        for after_s, name in decided.steps:
            assert FLOOR_SHARE * breaks[name] <= after_s * ROUNDING
            assert after_s <= LONGEST_HOLD * breaks[name] * ROUNDING


@given(st.sampled_from(RULES), LADDERS, RUNS)
def test_the_same_history_gives_the_same_answer(
    rule: Rule, rungs: Ladder, runs: list[tuple[float, int]]
):
    gaps_s = spread(runs, breaks_s(rungs)[-1])
    one, other = Gone(rule, rungs).through(gaps_s), Gone(rule, rungs).through(gaps_s)
    asked_often = descend(rule, rungs, one.gaps, one.learned)
    assert descend(rule, rungs, one.gaps, one.learned) == asked_often
    assert descend(rule, rungs, other.gaps, other.learned) == asked_often


def test_before_anything_is_known_every_rule_goes_down_at_break_even():
    for rule in RULES:
        assert Gone(rule, two(60.0)).steps == ((60.0, "off"),)
        decided = descend(rule, two(60.0), Gaps(), Learned())
        assert "break-even" in decided.reason


@given(st.sampled_from(RULES), LADDERS, RUNS, st.integers(-12, 12))
def test_the_unit_of_money_does_not_matter(
    rule: Rule, rungs: Ladder, runs: list[tuple[float, int]], power: int
):
    k = 2.0**power  # exact in binary
    dearer = tuple(Rung(r.name, r.hold_usd_s * k, r.wake_s, r.wake_usd * k) for r in rungs)
    gaps_s = spread(runs, breaks_s(rungs)[-1])
    assert Gone(rule, dearer).through(gaps_s).steps == Gone(rule, rungs).through(gaps_s).steps


@given(st.sampled_from(RULES), LADDERS, RUNS, st.integers(-12, 12))
def test_the_unit_of_time_does_not_matter(
    rule: Rule, rungs: Ladder, runs: list[tuple[float, int]], power: int
):
    k = 2.0**power
    slower = tuple(Rung(r.name, r.hold_usd_s / k, r.wake_s * k, r.wake_usd) for r in rungs)
    gaps_s = spread(runs, breaks_s(rungs)[-1])
    here = Gone(rule, rungs).through(gaps_s).steps
    there = Gone(rule, slower).through([gap_s * k for gap_s in gaps_s]).steps
    assert there == tuple((after_s * k, name) for after_s, name in here)


# Multiples of 50, so that floors are whole and equal costs are equal.
PRICES = st.integers(1, 40).map(lambda n: 50.0 * n)
WHOLE_GAPS = st.lists(st.integers(1, 4000).map(float), min_size=10, max_size=60)


@given(st.sampled_from(["empirical", "ski_rental"]), WHOLE_GAPS, PRICES, st.integers(1, 8))
def test_who_holds_dearer_holds_no_longer(rule: Rule, gaps_s: list[float], wake: float, k: int):
    def after_s(hold: float) -> float:
        rungs = (Rung("hot", hold, 0.0, 0.0), Rung("off", 0.0, 1.0, wake * 8))
        return descend(rule, rungs, Gaps(0.0, gaps_s), Learned()).steps[0][0]

    assert after_s(8.0) <= after_s(8.0 / k)


@given(st.sampled_from(["empirical", "ski_rental"]), WHOLE_GAPS, PRICES, PRICES)
def test_who_wakes_dearer_holds_no_shorter(rule: Rule, gaps_s: list[float], a: float, b: float):
    cheap, dear = (
        descend(rule, two(wake), Gaps(0.0, gaps_s), Learned()).steps[0][0]
        for wake in sorted((a, b))
    )
    assert cheap <= dear


# --- ski rental -----------------------------------------------------------------------------------


@given(LADDERS, st.lists(st.floats(0.0, 1e6), min_size=1))
def test_ski_rental_never_costs_more_than_twice_the_clairvoyant(rungs: Ladder, gaps_s: list[float]):
    steps = Gone("ski_rental", rungs).steps
    edges_s = [b_s * share for b_s in breaks_s(rungs) for share in (1.0, 1.0000001)]
    for gap_s in (*gaps_s, *edges_s):
        assert gap_usd(rungs, steps, gap_s) <= 2 * least_usd(rungs, gap_s) * ROUNDING


# --- the empirical optimum ------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 1000.0), min_size=10, max_size=40), st.floats(1.0, 500.0))
def test_empirical_finds_what_would_have_been_cheapest(gaps_s: list[float], b_s: float):
    rungs, gaps = two(b_s), Gaps(0.0, gaps_s)

    def cost_usd(after_s: float) -> float:
        return sum(gap_usd(rungs, [(after_s, "off")], gap_s) for gap_s in gaps_s)

    ((found_s, _),) = descend("empirical", rungs, gaps, Learned()).steps
    grid = [*gaps_s, *(gap_s * 0.999 for gap_s in gaps_s), b_s, 2 * b_s, 1e4]
    lowest_s = FLOOR_SHARE * b_s
    least = min(cost_usd(after_s) for after_s in (lowest_s, *(t for t in grid if t > lowest_s)))
    assert cost_usd(found_s) <= least * ROUNDING
    assert found_s >= lowest_s


def test_empirical_of_memoryless_gaps_is_all_or_nothing():
    often = [-10.0 * math.log(1 - (n + 0.5) / 100) for n in range(100)]  # 10 s on average
    assert descend("empirical", two(100.0), Gaps(0.0, often), Learned()).steps[0][0] == max(often)
    seldom = [gap_s * 100 for gap_s in often]
    ((after_s, _),) = descend("empirical", two(100.0), Gaps(0.0, seldom), Learned()).steps
    assert after_s == FLOOR_SHARE * 100.0


# --- clamped: never much more than twice the clairvoyant ------------------------------------------


@settings(max_examples=60)
@given(LADDERS, RUNS)
def test_clamped_costs_at_most_twice_the_clairvoyant_and_its_credit(
    rungs: Ladder, runs: list[tuple[float, int]]
):
    gone = Gone("clamped", rungs)
    for gap_s in spread(runs, breaks_s(rungs)[-1]):
        gone.gap(gap_s)
        assert gone.lost_wakes <= CREDIT + 1e-6


def nasty_gaps_s(gone: Gone) -> list[float]:
    """What may hurt most just now: at once after a step, and around each break-even time."""
    steps_s = [after_s for after_s, _ in gone.steps]
    breaks = breaks_s(gone.rungs)
    around = [b_s * share for b_s in breaks for share in (0.999, 1.001, 4.001, 20.0)]
    return [floor_s(gone.rungs) * 1.01, *(after_s * 1.0001 for after_s in steps_s), *around]


@settings(max_examples=40)
@given(LADDERS, st.data())
def test_clamped_keeps_its_bound_against_one_who_sees_its_thresholds(
    rungs: Ladder, data: st.DataObject
):
    gone = Gone("clamped", rungs)
    for _ in range(data.draw(st.integers(1, 12), "phases")):
        which = data.draw(st.integers(0, 20), "gap")
        for _ in range(data.draw(st.integers(1, 30), "times")):
            choice = nasty_gaps_s(gone)
            gone.gap(choice[which % len(choice)])
            assert gone.lost_wakes <= CREDIT + 1e-6


@pytest.mark.parametrize("rungs", [two(100.0), THREE], ids=["two", "three"])
def test_clamped_keeps_its_bound_against_the_greediest(rungs: Ladder):
    """Each gap is one of those that cost most beyond twice the clairvoyant: all credit is lost."""
    rng = random.Random(4)
    gone = Gone("clamped", rungs)
    worst = 0.0
    for _ in range(400):
        steps = gone.steps
        lost_wakes = {
            gap_s: (gap_usd(rungs, steps, gap_s) - 2 * least_usd(rungs, gap_s)) / rungs[-1].wake_usd
            for gap_s in nasty_gaps_s(gone)
        }
        gone.gap(max(lost_wakes, key=lambda gap_s: lost_wakes[gap_s] + 0.2 * rng.random()))
        worst = max(worst, gone.lost_wakes)
    assert CREDIT_WAKES <= worst <= CREDIT


B_S = 100.0
FLOOR_S = FLOOR_SHARE * B_S
SHORT, JUST_OVER, LONG = FLOOR_S * 1.01, B_S * 1.01, 30 * B_S


@pytest.mark.parametrize(
    "gaps_s",
    [
        [LONG] * 200 + [SHORT] * 2000,
        ([LONG] * 200 + [SHORT] * 200) * 5,
        ([LONG] * 30 + [SHORT] * 27) * 20,
        [LONG, SHORT] * 1000,
        [JUST_OVER, SHORT, SHORT] * 500,
        [2.5 * B_S] * 200 + [4.01 * B_S] * 400,  # learned to hold long, for nothing
        ([3.9 * B_S] * 9 + [4.1 * B_S] * 7) * 60,
        [LONG] * 12 + [SHORT] * 20 + [3 * B_S] * 40 + [JUST_OVER] * 80 + [SHORT] * 160,
    ],
    ids=[
        "long then short", "regimes", "quick regimes", "alternating", "mostly short",
        "a little longer", "around the longest hold", "many regimes",
    ],
)  # fmt: skip
def test_clamped_by_hand(gaps_s: list[float]):
    gone = Gone("clamped", two(B_S))
    for gap_s in gaps_s:
        gone.gap(gap_s)
        assert gone.lost_wakes <= CREDIT
    assert gone.ratio < 2.0


def test_clamped_loses_little_when_the_demand_changes():
    gone = Gone("clamped", two(B_S)).through([LONG] * 300)
    assert gone.steps[0][0] == FLOOR_S
    before_usd, before_least_usd = gone.paid_usd, gone.least_usd
    gone.through([0.3 * B_S] * 300)
    assert gone.steps[0][0] > 0.3 * B_S
    lost_wakes = (gone.paid_usd - before_usd - (gone.least_usd - before_least_usd)) / B_S
    assert lost_wakes < 120  # until the half of what it remembers is of the new sort


def test_clamped_falls_back_to_break_even_and_comes_back():
    gone = Gone("clamped", two(B_S)).through([LONG] * 12)
    gone.learned.credit = -1.0
    assert gone.steps == ((B_S, "off"),)
    decided = descend("clamped", gone.rungs, gone.gaps, gone.learned)
    assert "learning has cost" in decided.reason
    gone.through([0.6 * B_S] * 2)  # held by break-even, at half of what it may cost
    assert gone.learned.credit > 0
    assert "learning has cost" not in descend("clamped", two(B_S), gone.gaps, gone.learned).reason


def test_clamped_follows_break_even_while_that_would_have_been_cheaper_by_far():
    gone = Gone("clamped", two(B_S)).through([LONG] * 12)
    gone.learned.behind = CREDIT_WAKES + 1.0
    assert gone.steps == ((B_S, "off"),)
    gone.gap(LONG)  # costs 2 starts; by what was learned it had cost 1.02
    assert gone.learned.behind == pytest.approx(CREDIT_WAKES + 0.02)
    gone.gap(LONG)
    assert gone.steps == ((FLOOR_S, "off"),)


def test_clamped_leaves_break_even_when_it_has_earned_it():
    gone = Gone("clamped", two(B_S)).through([LONG] * 3)  # each saves 0.98 wakes
    assert gone.steps == ((B_S, "off"),)
    assert "nothing much better" in descend("clamped", two(B_S), gone.gaps, gone.learned).reason
    gone.gap(LONG)
    assert gone.steps == ((FLOOR_S, "off"),)
    assert "last 4 gaps" in descend("clamped", two(B_S), gone.gaps, gone.learned).reason


def test_a_rung_that_earned_its_time_takes_along_one_that_did_not():
    """Off after 60 s would have saved 4.4 starts, to sleep by then only 2 wakes."""
    rungs = (
        Rung("hot", 1.0, 0.0, 0.0),
        Rung("sleep_1", 0.5, 50.0, 50.0),  # B 100 s
        Rung("off", 0.0, 300.0, 300.0),  # B 500 s
    )
    gone = Gone("clamped", rungs).through([60.0, 2000.0, 60.0] * 5)
    assert gone.steps == ((60.0, "off"),)


def test_a_rung_that_earned_its_time_takes_along_the_one_below_it():
    """Hot for 160 s would have saved 5 wakes from sleep, but less than 2 starts."""
    rungs = (
        Rung("hot", 1.0, 0.0, 0.0),
        Rung("sleep_1", 0.5, 50.0, 50.0),  # B 100 s
        Rung("off", 0.0, 125.0, 125.0),  # B 150 s
    )
    gone = Gone("clamped", rungs).through([160.0] * 2 + [50.0] * 50 + [130.0] * 6)
    assert gone.steps == ((160.0, "off"),)


def test_clamped_never_holds_longer_than_four_break_evens():
    often = [-0.9 * B_S * math.log(1 - (n + 0.5) / 200) for n in range(200)]
    gaps = Gaps(FLOOR_S, often)
    assert descend("empirical", two(B_S), gaps, Learned()).steps[0][0] > LONGEST_HOLD * B_S
    ((after_s, _),) = descend("clamped", two(B_S), gaps, Learned()).steps
    assert 3 * B_S < after_s <= LONGEST_HOLD * B_S


def test_new_prices_are_learned_for_at_once():
    gone = Gone("clamped", two(B_S)).through([LONG] * 100)
    assert descend("clamped", two(2 * B_S), gone.gaps, gone.learned).steps == ((4.0, "off"),)
    assert gone.steps == ((2.0, "off"),)


def test_gaps_that_everybody_holds_through_give_no_credit():
    gone = Gone("clamped", two(B_S)).through([FLOOR_S] * 1000)
    assert gone.learned.credit == CREDIT_WAKES
    assert gone.gaps.seen == 0


@given(LADDERS, RUNS)
def test_what_was_learned_survives_another_unit_of_money(
    rungs: Ladder, runs: list[tuple[float, int]]
):
    gone = Gone("clamped", rungs).through(spread(runs, breaks_s(rungs)[-1]))
    dearer = tuple(Rung(r.name, r.hold_usd_s * 4, r.wake_s, r.wake_usd * 4) for r in rungs)
    assert descend("clamped", dearer, gone.gaps, gone.learned).steps == gone.steps


# --- clamped: what it costs on sparse demand ------------------------------------------------------


@pytest.mark.parametrize(
    ("wake_s", "at_most"), [(30.0, 1.25), (60.0, 1.45), (180.0, 1.55), (600.0, 1.55)]
)
def test_clamped_is_near_the_clairvoyant_on_sparse_demand(wake_s: float, at_most: float):
    clamped = total_ratio(lambda: Gone("clamped", two(wake_s)))
    assert clamped <= at_most
    assert clamped <= 1.01 * total_ratio(lambda: Gone("ski_rental", two(wake_s)))


def test_clamped_is_near_the_clairvoyant_on_a_ladder_of_three():
    assert total_ratio(lambda: Gone("clamped", THREE)) <= 1.35


def test_learning_at_every_eighth_gap_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch):
    now_and_then = total_ratio(lambda: Gone("clamped", two(180.0)))
    monkeypatch.setattr(keep_alive, "LEARN_EVERY", 1)
    each_time = total_ratio(lambda: Gone("clamped", two(180.0)))
    assert now_and_then <= each_time * 1.02
    assert now_and_then != each_time


def total_ratio(begin: Callable[[], Gone]) -> float:
    """Cost by that of the clairvoyant, over all models together."""
    models = [begin().through(gaps_s) for gaps_s in sparse_gaps()]
    return sum(m.paid_usd for m in models) / sum(m.least_usd for m in models)


# --- jitter ---------------------------------------------------------------------------------------


@given(st.floats(0.0, 1e6), st.floats(0.0, 1.0), st.text(max_size=8), st.integers(0, 10**6))
def test_jitter_lengthens_by_at_most_its_share(
    after_s: float, share: float, model: str, occasion: int
):
    later_s = jittered(after_s, share, model, occasion)
    assert after_s <= later_s <= after_s * (1 + share) * ROUNDING
    assert later_s == jittered(after_s, share, model, occasion)


def test_jitter_spreads_models_and_occasions():
    for drawn in (
        [jittered(1.0, 1.0, f"model-{n}", 7) - 1.0 for n in range(200)],
        [jittered(1.0, 1.0, "model", n) - 1.0 for n in range(200)],
    ):
        tenths = [sum(n <= 10 * x < n + 1 for x in drawn) for n in range(10)]
        assert all(8 <= count <= 36 for count in tenths)  # 20 on average
    neighbours = [jittered(1.0, 1.0, f"model-{n}", 7) - 1.0 for n in range(10)]
    assert max(neighbours) - min(neighbours) > 0.5


def test_no_jitter_leaves_everything_as_it_is():
    assert jittered(300.0, 0.0, "m", 3) == 300.0
    assert jittered(math.inf, 0.5, "m", 3) == math.inf


@given(st.text(min_size=1, max_size=8))
def test_random_ski_rental_costs_little_more_than_expected_on_any_gap(model: str) -> None:
    rungs = two(60.0)
    descents = [descend_at_random(rungs, model, n) for n in range(2000)]
    for gap_s in (10.0, 30.0, 59.0, 61.0, 1e4):
        assert all(0 <= d.steps[0][0] < 60.0 for d in descents)
        mean_usd = sum(gap_usd(rungs, d.steps, gap_s) for d in descents) / len(descents)
        assert mean_usd <= 1.58 * 1.15 * least_usd(rungs, gap_s)
