"""Steps down the ladder, and what is held."""

import math

from hypothesis import given
from hypothesis import strategies as st

from backends.holding import LADDER, Descent, Held, Hold, Wakes

times = st.floats(0, 1e9)


@given(times, times, times)
def test_at_the_time_of_a_step_its_rung_is_due(since_s: float, first_s: float, more_s: float):
    """To the last bit: what is not due then would be looked at again at once, for ever."""
    descent = Descent(((first_s, "sleep_1"), (first_s + more_s, "off")))
    for rung in LADDER[:-1]:
        due_s = descent.next_step_s(since_s, rung)
        if due_s < math.inf:
            assert LADDER.index(descent.rung_at(since_s, due_s)) > LADDER.index(rung)


def test_descent_lists_rungs_by_time() -> None:
    descent = Descent(((10.0, "sleep_1"), (50.0, "off")))
    assert [descent.rung_at(5.0, now_s) for now_s in (5, 14.9, 15, 54.9, 55, 1e9)] == [
        "hot",
        "hot",
        "sleep_1",
        "sleep_1",
        "off",
        "off",
    ]
    assert descent.next_step_s(5.0, "hot") == 15.0
    assert descent.next_step_s(5.0, "sleep_1") == descent.next_step_s(5.0, "sleep_2") == 55.0
    assert descent.next_step_s(5.0, "off") == math.inf


def test_held_for_ever_takes_no_step() -> None:
    assert Held(math.inf).descent(0.0) == ()
    assert Held(3.0).descent(0.0) == ((3.0, "off"),)


def test_hold_keeps_the_more_of_both() -> None:
    hold = Hold(until_s=10.0, instances=0)
    assert [hold.kept(now_s) for now_s in (0.0, 9.9, 10.0)] == [1, 1, 0]
    hold.instances = 3
    assert [hold.kept(now_s) for now_s in (0.0, 10.0)] == [3, 3]
    hold.end()
    assert hold.kept(0.0) == 0


def test_wakes_are_remembered_for_each_rung() -> None:
    wakes = Wakes()
    for n in range(30):
        wakes.woke("sleep_1", float(n))
    wakes.woke("sleep_2", 99.0)
    assert wakes.times_s == {"sleep_1": tuple(map(float, range(10, 30))), "sleep_2": (99.0,)}
