"""The order of places: what is paid for first, then what starts, then what is bought."""

import math

from hypothesis import given
from hypothesis import strategies as st

from policies.arrival import ColdState, HotState, choose

OFF = ColdState(ready=0, free=0, starting=False, refusing_for_s=0)
FAILED = ColdState(ready=0, free=0, starting=False, refusing_for_s=5)


def kinds(*args):
    return [(step.kind, step.wait) for step in choose(*args)]


def test_choose_hot_with_room_comes_first():
    assert kinds(HotState(2, 3), OFF, True) == [("hot", False), ("cold", True), ("api", False)]


def test_choose_hot_full_goes_cold():
    assert kinds(HotState(2, 0), OFF, None) == [("cold", True), ("hot", True)]


def test_choose_hot_full_without_cold_overflows_before_it_waits():
    assert kinds(HotState(2, 0), None, True) == [("api", False), ("hot", True)]


def test_choose_hot_ill_goes_cold():
    assert kinds(HotState(0, 0), OFF, None) == [("cold", True)]


def test_choose_only_api():
    assert kinds(None, None, True) == [("api", False)]


def test_choose_failed_cold_is_asked_for_its_reason_only_when_nothing_else_is_left():
    assert kinds(None, FAILED, True) == [("api", False)]
    assert kinds(None, FAILED, None) == [("cold", True)]


def test_choose_nothing_left_is_empty():
    assert kinds(HotState(0, 0), None, False) == []


hots = st.none() | st.builds(
    HotState, st.integers(0, 5), st.integers(0, 9) | st.just(math.inf)
).filter(lambda h: h.healthy or not h.free)
colds = st.none() | st.builds(
    ColdState, st.integers(0, 3), st.integers(0, 9), st.booleans(), st.floats(0, 60)
)


@given(hots, colds, st.none() | st.booleans())
def test_choose_same_state_same_answer_with_reasons(hot, cold, api):
    steps = choose(hot, cold, api)
    assert steps == choose(hot, cold, api)
    assert all(step.reason for step in steps)
    assert len({(s.kind, s.wait) for s in steps}) == len(steps)
    parts = {"hot": hot, "cold": cold, "api": api or None}
    assert all(parts[s.kind] is not None for s in steps)
