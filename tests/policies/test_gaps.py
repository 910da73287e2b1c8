"""The last gaps, beside a plain list."""

import random

from hypothesis import given
from hypothesis import strategies as st

from policies.gaps import REMEMBERED, Gaps

GAPS_S = st.lists(st.floats(0.0, 1e6) | st.integers(0, 5).map(float), max_size=3 * REMEMBERED)


@given(GAPS_S, st.floats(0.0, 10.0), st.floats(0.0, 1e6))
def test_gaps_are_what_a_plain_list_would_be(values: list[float], floor_s: float, at_s: float):
    gaps = Gaps(floor_s)
    kept = [gaps.add(value) for value in values]
    assert kept == [value > floor_s for value in values]
    above = [value for value in values if value > floor_s]
    last = above[-REMEMBERED:]
    assert gaps.seen == len(above)
    assert len(gaps) == len(last)
    assert gaps.values() == last
    assert gaps.ascending == sorted(last)
    assert gaps.at_most(at_s) == sum(value <= at_s for value in last)
    sums = gaps.sums()
    assert len(sums) == len(last) + 1
    assert all(sums[n] == sum(sorted(last)[:n]) for n in range(0, len(sums), 20))


@given(GAPS_S, st.floats(0.0, 10.0))
def test_gaps_can_be_given_at_once(values: list[float], floor_s: float):
    one_by_one = Gaps(floor_s)
    for value in values:
        one_by_one.add(value)
    at_once = Gaps(floor_s, values)
    assert at_once.values() == one_by_one.values()
    assert at_once.seen == one_by_one.seen


def test_a_raised_floor_keeps_what_is_known():
    gaps = Gaps(1.0, [2.0, 3.0])
    gaps.floor_s = 5.0
    assert not gaps.add(4.0)
    assert gaps.values() == [2.0, 3.0]


def test_the_oldest_goes_when_a_new_one_comes():
    gaps = Gaps()
    rng = random.Random(4)
    values = [float(rng.randint(1, 400)) for _ in range(3 * REMEMBERED)]
    for n, value in enumerate(values):
        gaps.add(value)
        last = values[max(n + 1 - REMEMBERED, 0) : n + 1]
        assert gaps.seen == n + 1
        assert gaps.ascending == sorted(last)
        assert gaps.values() == last
