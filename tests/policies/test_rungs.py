"""The ladder is the lower envelope of its rungs' costs, and a gap costs what its seconds cost."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.rungs import (
    Ladder,
    Rung,
    RungName,
    break_even_s,
    gap_usd,
    ladder,
    least_usd,
    spend_gap,
)
from tests.policies.ladders import LADDERS, THREE, breaks_s, some_rungs, two

HOT = Rung("hot", 1.0, 0.0, 0.0)
GAPS_S = st.floats(0.0, 1e5)


def straight_usd(rung: Rung, gap_s: float) -> float:
    """Of a gap that is spent on one rung from its first moment."""
    return rung.hold_usd_s * gap_s + rung.wake_usd


@st.composite
def descents(draw: st.DrawFn, rungs: Ladder) -> list[tuple[float, RungName]]:
    """Any way down, past some rungs perhaps."""
    below = [rung.name for rung in rungs[1:] if draw(st.booleans())]
    times_s = sorted(draw(st.floats(0.0, 1e4)) for _ in below)
    return list(zip(times_s, below, strict=True))


@given(some_rungs(), st.lists(GAPS_S, max_size=5))
def test_no_rung_that_was_left_out_is_ever_the_cheapest(rungs: list[Rung], more: list[float]):
    kept = ladder(rungs)
    crossings = [
        abs(a.wake_usd - b.wake_usd) / abs(a.hold_usd_s - b.hold_usd_s)
        for a, b in itertools.combinations(rungs, 2)
        if a.hold_usd_s != b.hold_usd_s
    ]
    between = [(a + b) / 2 for a, b in itertools.pairwise(sorted(crossings))]
    for gap_s in (0.0, *crossings, *between, *more, 1e9):
        least = min(straight_usd(rung, gap_s) for rung in rungs)
        assert least_usd(kept, gap_s) == pytest.approx(least, rel=1e-9, abs=1e-12)


@given(some_rungs())
def test_a_ladder_begins_hot_and_its_break_evens_ascend(rungs: list[Rung]):
    kept = ladder(rungs)
    assert kept[0].name == "hot"
    assert len(kept) >= 2
    assert kept[-1].hold_usd_s == 0.0
    assert ladder(kept) == kept
    prices = [(rung.hold_usd_s, rung.wake_usd) for rung in kept]
    assert [(rung.hold_usd_s, rung.wake_usd) for rung in ladder(rungs[::-1])] == prices
    times_s = breaks_s(kept)
    assert all(math.isfinite(b_s) for b_s in times_s)
    assert all(a < b for a, b in itertools.pairwise(times_s))
    for upper, lower in itertools.pairwise(kept):
        assert upper.hold_usd_s > lower.hold_usd_s
        assert upper.wake_usd < lower.wake_usd


@pytest.mark.parametrize(
    ("sleep", "kept"),
    [
        (Rung("sleep_1", 0.05, 5.0, 5.0), ("hot", "sleep_1", "off")),
        (Rung("sleep_1", 1.0, 5.0, 5.0), ("hot", "off")),  # no cheaper to hold than hot
        (Rung("sleep_1", 0.05, 130.0, 130.0), ("hot", "off")),  # slower than a start
        (Rung("sleep_1", 0.5, 100.0, 100.0), ("hot", "off")),  # B 200 s, and 40 s from there
        (Rung("sleep_2", 0.0, 20.0, 20.0), ("hot", "sleep_2")),  # holds for nothing
        (Rung("sleep_2", 0.0, 120.0, 120.0), ("hot", "sleep_2")),  # as off, and listed first
    ],
)
def test_rungs_that_another_beats_are_left_out(sleep: Rung, kept: tuple[str, ...]):
    off = Rung("off", 0.0, 120.0, 120.0)
    assert tuple(rung.name for rung in ladder([HOT, sleep, off])) == kept


def test_break_even_by_hand():
    hot, sleep, off = THREE
    assert break_even_s(hot, sleep) == pytest.approx(5 / 0.95)
    assert break_even_s(sleep, off) == pytest.approx(115 / 0.05)
    assert break_even_s(sleep, sleep) == math.inf
    assert break_even_s(hot, Rung("off", 0.0, 0.0, 0.0)) == 0.0


def test_a_gap_by_hand():
    steps: list[tuple[float, RungName]] = [(10.0, "sleep_1"), (100.0, "off")]
    assert gap_usd(THREE, steps, 8.0) == 8.0
    assert gap_usd(THREE, steps, 10.0) == 10.0  # who comes at the moment of a step is in time
    assert gap_usd(THREE, steps, 30.0) == pytest.approx(10 + 20 * 0.05 + 5)
    assert gap_usd(THREE, steps, 1000.0) == pytest.approx(10 + 90 * 0.05 + 120)
    assert gap_usd(THREE, [], 1000.0) == 1000.0
    assert gap_usd(THREE, [(0.0, "off")], 1000.0) == 120.0
    assert spend_gap(THREE, steps, 30.0) == (THREE[1], 11.0)


@given(st.data(), LADDERS, GAPS_S)
def test_a_gap_costs_the_sum_of_its_moments(data: st.DataObject, rungs: Ladder, gap_s: float):
    steps = data.draw(descents(rungs))
    by_name = {rung.name: rung for rung in rungs}
    slices = 500
    held_usd, here = 0.0, rungs[0]
    for n in range(slices):
        at_s = (n + 0.5) * gap_s / slices
        here = next((by_name[name] for t, name in reversed(steps) if t < at_s), rungs[0])
        held_usd += here.hold_usd_s * gap_s / slices
    here = next((by_name[name] for t, name in reversed(steps) if t < gap_s), rungs[0])
    off_by = len(steps) * rungs[0].hold_usd_s * gap_s / slices + 1e-9
    assert gap_usd(rungs, steps, gap_s) == pytest.approx(
        held_usd + here.wake_usd, abs=off_by, rel=1e-9
    )


@given(st.data(), LADDERS, GAPS_S)
def test_nobody_pays_less_than_the_clairvoyant(data: st.DataObject, rungs: Ladder, gap_s: float):
    steps = data.draw(descents(rungs))
    assert least_usd(rungs, gap_s) <= gap_usd(rungs, steps, gap_s) * (1 + 1e-9)


@given(st.data(), LADDERS, GAPS_S, GAPS_S)
def test_a_longer_gap_costs_no_less(data: st.DataObject, rungs: Ladder, one: float, other: float):
    steps = data.draw(descents(rungs))
    shorter, longer = sorted((one, other))
    assert gap_usd(rungs, steps, shorter) <= gap_usd(rungs, steps, longer) * (1 + 1e-9)
    assert least_usd(rungs, shorter) <= least_usd(rungs, longer)


def test_the_clairvoyant_holds_until_break_even():
    rungs = two(60.0)
    assert [least_usd(rungs, gap_s) for gap_s in (0.0, 59.0, 60.0, 61.0)] == [0.0, 59.0, 60.0, 60.0]
