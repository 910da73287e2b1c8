"""Early starts: only where the gaps that were seen pay for them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gaps import Gaps
from policies.prestart import EARNED_STARTS, Prestart, Prices, prestart

HOUR_S = 3600.0
PRICES = Prices(start_s=60.0, hold_usd_s=1.0, delay_usd_s=10.0)
GAPS_S = st.lists(st.floats(1.0, 5000.0), min_size=10, max_size=40)


def saved_usd(
    gaps_s: list[float], off_after_s: float, prices: Prices, after_s: float, hold_s: float
) -> float:
    """What an early start would have saved: each gap as it would have gone, and as it went."""
    total_usd = 0.0
    ready_s = after_s + prices.start_s
    until_s = ready_s + max(hold_s, off_after_s)
    for gap_s in gaps_s:
        if gap_s <= max(off_after_s, after_s):
            continue  # it came before
        start_usd = prices.start_s * prices.hold_usd_s
        without_usd = start_usd + prices.start_s * prices.delay_usd_s
        if gap_s <= ready_s:
            early_usd = start_usd + (ready_s - gap_s) * prices.delay_usd_s
        elif gap_s <= until_s:
            early_usd = start_usd + (gap_s - ready_s) * prices.hold_usd_s
        else:
            early_usd = start_usd + (until_s - ready_s) * prices.hold_usd_s + without_usd
        total_usd += without_usd - early_usd
    return total_usd


def periodic(every_s: float, share: float, count: int = 40) -> list[float]:
    rng = random.Random(4)
    return [every_s * (1 + share * rng.uniform(-1, 1)) for _ in range(count)]


def test_prestart_of_a_job_that_comes_every_hour():
    found = prestart(Gaps(0.0, periodic(HOUR_S, 0.01)), 5.0, PRICES)
    assert found is not None
    ready_s = found.after_s + PRICES.start_s
    assert HOUR_S * 0.98 <= ready_s <= HOUR_S * 1.005
    assert ready_s + found.hold_s >= HOUR_S
    assert "40 such gaps" in found.reason


def test_no_prestart_for_gaps_without_a_habit():
    rng = random.Random(4)
    gaps_s = [rng.expovariate(1 / HOUR_S) for _ in range(200)]
    assert prestart(Gaps(0.0, gaps_s), 5.0, PRICES) is None


@given(GAPS_S, st.floats(0.0, 500.0), st.floats(1.0, 600.0))
def test_no_prestart_when_nobody_minds_waiting(
    gaps_s: list[float], off_after_s: float, start_s: float
):
    assert prestart(Gaps(0.0, gaps_s), off_after_s, Prices(start_s, 1.0, 0.0)) is None


def test_no_prestart_of_what_starts_at_once():
    assert prestart(Gaps(0.0, periodic(HOUR_S, 0.01)), 5.0, Prices(0.0, 1.0, 10.0)) is None


@pytest.mark.parametrize(("count", "known"), [(9, False), (10, True)])
def test_no_prestart_before_enough_is_known(count: int, known: bool):
    short = [3.0] * 50  # that it does not go off in
    gaps = Gaps(0.0, short + periodic(HOUR_S, 0.001, count))
    assert (prestart(gaps, 5.0, PRICES) is not None) is known


@given(GAPS_S, st.floats(0.0, 500.0), st.floats(1.0, 600.0), st.floats(0.01, 50.0))
def test_prestart_saves_what_it_says_and_earns_it(
    gaps_s: list[float], off_after_s: float, start_s: float, delay: float
):
    prices = Prices(start_s, 1.0, delay)
    found = prestart(Gaps(0.0, gaps_s), off_after_s, prices)
    if found is None:
        return
    saved = saved_usd(gaps_s, off_after_s, prices, found.after_s, found.hold_s)
    assert saved >= EARNED_STARTS * start_s * (1 - 1e-9)
    said = float(found.reason.split()[4])
    assert said == pytest.approx(saved, rel=0.006)
    assert found.after_s >= off_after_s
    assert found.hold_s >= off_after_s  # its own thresholds hold it so long anyway
    assert prestart(Gaps(0.0, gaps_s), off_after_s, prices) == found


@given(GAPS_S, st.floats(0.0, 500.0), st.floats(1.0, 600.0), st.floats(0.01, 50.0))
def test_prestart_stays_when_waiting_gets_dearer(
    gaps_s: list[float], off_after_s: float, start_s: float, delay: float
):
    gaps = Gaps(0.0, gaps_s)
    if prestart(gaps, off_after_s, Prices(start_s, 1.0, delay)) is not None:
        assert prestart(gaps, off_after_s, Prices(start_s, 1.0, 2 * delay)) is not None


@given(GAPS_S, st.floats(0.0, 500.0), st.floats(1.0, 600.0), st.floats(0.01, 50.0))
def test_prestart_stays_when_holding_gets_cheaper(
    gaps_s: list[float], off_after_s: float, start_s: float, delay: float
):
    gaps = Gaps(0.0, gaps_s)
    if prestart(gaps, off_after_s, Prices(start_s, 1.0, delay)) is not None:
        assert prestart(gaps, off_after_s, Prices(start_s, 0.5, delay)) is not None


def habits(seed: int) -> list[float]:
    """Gaps of a model with one to three habits, and some noise."""
    rng = random.Random(seed)
    centres = [rng.uniform(300, 20_000) for _ in range(rng.randint(1, 3))]
    spread = rng.choice([0.005, 0.02, 0.1])
    return [
        rng.expovariate(1 / 3000)
        if rng.random() < 0.2
        else rng.choice(centres) * rng.gauss(1, spread)
        for _ in range(150)
    ]


def test_prestart_is_nearly_the_best_of_all():
    """Against every start and hold of a fine grid, over models with habits."""
    found_usd = best_usd = 0.0
    for seed in range(12):
        gaps_s = [max(gap_s, 1.0) for gap_s in habits(seed)]
        found = prestart(Gaps(0.0, gaps_s), 5.0, PRICES)
        grid = [
            saved_usd(gaps_s, 5.0, PRICES, after_s, hold_s)
            for after_s in sorted({max(gap_s - 60.0, 5.0) for gap_s in gaps_s})
            for hold_s in (15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0)
        ]
        best = max(grid)
        best_usd += best if best > EARNED_STARTS * 60.0 else 0.0
        if found is not None:
            found_usd += saved_usd(gaps_s, 5.0, PRICES, found.after_s, found.hold_s)
    assert found_usd >= 0.85 * best_usd
    assert best_usd > 0


def test_prestart_is_a_start_that_ends_just_before_the_arrival():
    gaps = Gaps(0.0, [1000.0] * 20)
    assert prestart(gaps, 5.0, PRICES) == Prestart(
        940.0, 60.0, "it would have saved 1.2e+04 USD over the last 20 such gaps"
    )
