"""How two records of decisions are compared, and that the demand is the same for the same seed."""

from itertools import pairwise

import pytest

from load_tests.agreement.__main__ import table
from load_tests.agreement.decisions import Decisions, Event, Served, agreement, paired
from load_tests.agreement.demand import HABITS, asks

START, OFF = Event(10.0, "start"), Event(30.0, "off")


def moved(event: Event, seconds: float) -> Event:
    return Event(event.at_s + seconds, event.what)


def test_decisions_within_a_second_are_the_same():
    assert paired([START, OFF], [moved(START, 0.9), moved(OFF, -0.9)]) == [(0, 0), (1, 1)]


@pytest.mark.parametrize("late_s", [-1.1, 1.1])
def test_decisions_further_apart_are_not(late_s):
    found = agreement("m", Decisions([START, OFF]), Decisions([START, moved(OFF, late_s)]))
    assert found.same == {"start": 1, "off": 0}
    assert [(d.live, d.replayed) for d in found.differences] == (
        [(f"nearest {-late_s:+.3f} s", "off"), ("off", f"nearest {late_s:+.3f} s")]
        if late_s < 0
        else [("off", f"nearest {late_s:+.3f} s"), (f"nearest {-late_s:+.3f} s", "off")]
    )


def test_another_order_is_a_difference():
    at_once = [Event(10.0, "off"), Event(10.1, "start")]
    found = agreement("m", Decisions(at_once), Decisions([Event(10.0, "start"), moved(OFF, -19.9)]))
    assert sum(found.same.values()) == 1
    assert len(found.differences) == 2


def test_a_decision_that_only_one_made_is_a_difference():
    found = agreement("m", Decisions([START]), Decisions([START, OFF]))
    assert found.replayed["off"] == 1
    [difference] = found.differences
    assert (difference.live, difference.replayed) == ("never", "off")


def test_a_request_elsewhere_or_without_a_start_is_a_difference():
    live = [Served(1.0, "cold", True), Served(2.0, "api", False), Served(3.0, "cold", False)]
    other = [Served(1.0, "cold", False), Served(2.0, "cold", False), Served(3.0, "cold", False)]
    found = agreement("m", Decisions([], live), Decisions([], other))
    assert (found.live["requests"], found.same["requests"]) == (3, 2)
    assert (found.live["met a start"], found.same["met a start"]) == (1, 0)
    assert [d.at_s for d in found.differences] == [1.0, 2.0]


def test_requests_that_are_missing_are_no_agreement():
    with pytest.raises(ValueError, match="zip"):
        agreement("m", Decisions([], [Served(1.0, "cold", True)]), Decisions())


def test_the_table_has_every_difference():
    found = agreement("m", Decisions([START]), Decisions([moved(START, 0.5), OFF]))
    lines = "\n".join(table([found]))
    assert "500.0 ms" in lines
    assert "m at 30.000 s, off: live never; replay off" in lines


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.model)
def test_the_same_seed_asks_the_same_in_order(habit):
    once, again = list(asks(habit, 600.0, 7)), list(asks(habit, 600.0, 7))
    assert once == again
    assert once != list(asks(habit, 600.0, 8))
    assert all(a.at_s <= b.at_s for a, b in pairwise(once))
    assert 20 < len(once) < 2000
    assert all(ask.at_s < 600.0 for ask in once)
