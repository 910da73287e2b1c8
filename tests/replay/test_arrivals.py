"""Requests drawn from rates: how many, where, and that long gaps alone tell what all gaps tell."""

import math
from itertools import pairwise
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.replay.arrivals import Family, Form, draw, long_gaps, spells
from router.replay.gamma import above, below, upper_quantile

FAMILIES: list[Family] = ["gamma", "weibull"]
SHAPES = st.floats(0.15, 50.0)


@given(st.sampled_from(FAMILIES), SHAPES, st.integers(0, 300), st.integers())
@settings(deadline=None)
def test_a_window_has_its_requests_in_order_and_within(family, shape, count, seed):
    times = list(draw(Random(seed), Form(family, shape), count, 1200.0, 600.0))
    assert len(times) == count
    assert all(1200.0 <= at_s <= 1800.0 for at_s in times)
    assert times == sorted(times)


@pytest.mark.parametrize("shape", [0.0067, 0.1521])  # the most bunched of ServeGen
def test_gaps_too_small_for_a_double_do_no_harm(shape):
    times = list(draw(Random(1), Form("gamma", shape), 50, 0.0, 600.0))
    assert len(times) == 50
    assert all(math.isfinite(at_s) for at_s in times)


@pytest.mark.parametrize(("family", "shape"), [("gamma", 0.3), ("weibull", 0.4), ("gamma", 4.0)])
def test_forms_have_the_mean_and_the_tail_that_they_say(family, shape):
    form, rng = Form(family, shape), Random(7)
    drawn = [form.draw(rng) for _ in range(40_000)]
    assert fmean(drawn) == pytest.approx(1.0, rel=0.05)
    assert fmean(gap > 1.5 for gap in drawn) == pytest.approx(form.tail(1.5), abs=0.01)
    short = [gap for gap in drawn if gap <= 1.5]
    assert fmean(short) == pytest.approx(form.mean_up_to(1.5), rel=0.05)


@given(st.sampled_from(FAMILIES), SHAPES, st.floats(1e-6, 0.999))
def test_longer_by_undoes_tail(family, shape, share):
    form = Form(family, shape)
    assert form.tail(form.longer_by(share)) == pytest.approx(share, rel=1e-5)


def test_gamma_shares_are_those_of_tables():
    assert below(1.0, 2.0) == pytest.approx(1 - math.exp(-2))
    assert below(2.5, 1.0) == pytest.approx(0.15085496391539036)
    assert above(0.5, 3.841458820694124 / 2) == pytest.approx(0.05)  # chi squared, one degree
    assert upper_quantile(0.5, 0.05) == pytest.approx(3.841458820694124 / 2)


@pytest.mark.parametrize(
    ("family", "shape"), [("gamma", 0.8), ("gamma", 0.05), ("weibull", 0.2), ("weibull", 0.5)]
)
def test_long_gaps_are_as_many_and_as_long_as_among_all(family, shape):
    form, rng, count, floor_s = Form(family, shape), Random(3), 1200, 2.0
    whole, long = [], []
    for _ in range(400):
        times = [0.0, *draw(rng, form, count - 1, 0.0, 600.0), 600.0]
        gaps = [b - a for a, b in pairwise(times) if b - a > floor_s]
        whole.append((len(gaps), sum(gaps)))
        gaps = long_gaps(rng, form, count, 600.0, floor_s)
        long.append((len(gaps), sum(gaps)))
        assert all(gap > floor_s for gap in gaps)
    for drawn, expected in zip(zip(*long, strict=True), zip(*whole, strict=True), strict=True):
        assert fmean(drawn) == pytest.approx(fmean(expected), rel=0.04)


@given(st.sampled_from(FAMILIES), SHAPES, st.integers(0, 50_000), st.integers())
@settings(deadline=None, max_examples=60)
def test_spells_hold_all_requests_and_lie_apart(family, shape, count, seed):
    found = list(spells(Random(seed), Form(family, shape), count, 600.0, 600.0, 5.0))
    assert sum(requests for _, _, requests in found) == count
    for (_, until_s, _), (at_s, _, _) in pairwise(found):
        assert at_s - until_s > 5.0 - 1e-6
    assert all(600.0 <= at_s <= until_s <= 1200.0 + 1e-6 for at_s, until_s, _ in found)
