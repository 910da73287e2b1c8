"""Greedy-dual: who makes room on a device."""

import heapq
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from policies.eviction import GIB, pick, priority, rest_s


class Resident(Struct, frozen=True):
    instance_id: str
    memory: int = 8 * GIB
    host_memory: int = 8 * GIB
    frequency: int = 1
    start_cost_s: float = 20.0
    clock: float = 0.0
    idle_s: float | None = 100.0
    can_sleep: bool = False


def ids(residents: Sequence[Resident], needed: int = 1, host_free: float = 0.0) -> list[str]:
    return [victim.instance_id for victim in pick(residents, needed, host_free)]


def test_priority_is_the_formula_of_the_paper():
    resident = Resident("a", memory=4 * GIB, frequency=6, start_cost_s=10.0, clock=2.5)
    assert priority(resident) == 2.5 + 6 * 10.0 / 4


def test_pick_takes_what_is_used_seldom_cheap_to_load_or_large():
    base = Resident("z", frequency=5)
    assert ids([base, replace(base, instance_id="a", frequency=4)]) == ["a"]
    assert ids([base, replace(base, instance_id="a", start_cost_s=10.0)]) == ["a"]
    assert ids([base, replace(base, instance_id="a", memory=9 * GIB)]) == ["a"]
    assert ids([base, replace(base, instance_id="a", clock=-0.1)]) == ["a"]


def test_pick_of_equals_the_one_that_is_idle_longest():
    assert ids([Resident("a", idle_s=1.0), Resident("b", idle_s=2.0)]) == ["b"]


def test_pick_takes_idle_ones_before_those_that_serve():
    serving = Resident("a", frequency=0, idle_s=None)
    assert ids([serving, Resident("b", frequency=100)]) == ["b"]
    assert ids([serving, Resident("b")], needed=16 * GIB) == ["b", "a"]


def test_pick_takes_nobody_when_all_are_not_enough():
    assert ids([Resident("a"), Resident("b")], needed=16 * GIB + 1) == []


def test_pick_spares_a_small_one_when_a_large_one_must_go_anyway():
    small = Resident("small", memory=2 * GIB, frequency=0)
    large = Resident("large", memory=40 * GIB, frequency=9)
    assert ids([small, large], needed=40 * GIB) == ["large"]
    assert ids([small, large], needed=41 * GIB) == ["small", "large"]


def test_pick_puts_to_sleep_while_host_memory_lasts():
    able = [Resident(name, can_sleep=True) for name in "abc"]
    found = pick(able, 24 * GIB, 17 * GIB)
    assert [(v.instance_id, v.to) for v in found] == [
        ("a", "sleep_1"),
        ("b", "sleep_1"),
        ("c", "off"),
    ]
    assert [v.to for v in pick([Resident("a")], 1, float("inf"))] == ["off"]


def test_rest_is_a_tenth_of_a_start_and_over_at_once_for_who_serves():
    assert rest_s(Resident("a", idle_s=0.5)) == 1.5
    assert rest_s(Resident("a", idle_s=2.0)) == 0.0
    assert rest_s(Resident("a", idle_s=None)) == 0.0


some_residents = st.lists(
    st.builds(
        Resident,
        instance_id=st.uuids().map(str),
        memory=st.integers(1, 64).map(lambda n: n * GIB),
        host_memory=st.integers(0, 64).map(lambda n: n * GIB),
        frequency=st.integers(0, 1000),
        start_cost_s=st.floats(0.1, 600.0),
        clock=st.floats(0.0, 1e6),
        idle_s=st.none() | st.floats(0.0, 1e6),
        can_sleep=st.booleans(),
    ),
    max_size=8,
)


@given(some_residents, st.integers(1, 200).map(lambda n: n * GIB), st.floats(0, 200 * GIB))
def test_pick_frees_enough_and_no_one_too_many(residents, needed, host_free):
    by_id = {r.instance_id: r for r in residents}
    victims = pick(residents, needed, host_free)
    if not victims:
        assert sum(r.memory for r in residents) < needed
        return
    gone = [by_id[v.instance_id] for v in victims]
    freed = sum(r.memory for r in gone)
    assert freed >= needed
    assert all(freed - r.memory < needed for r in gone)
    asleep = [by_id[v.instance_id] for v in victims if v.to == "sleep_1"]
    assert sum(r.host_memory for r in asleep) <= host_free
    assert all(r.can_sleep for r in asleep)


@given(some_residents, st.integers(1, 200).map(lambda n: n * GIB))
def test_pick_does_not_depend_on_the_order_in_which_residents_come(residents, needed):
    assert pick(residents, needed) == pick(residents[::-1], needed)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200),
    st.integers(2, 4),
    st.lists(st.floats(1.0, 100.0), min_size=6, max_size=6),
)
def test_a_trace_is_evicted_as_by_the_textbook(trace, places, costs):
    """One place each, one request at a time: against greedy-dual as it is usually written."""
    assert evicted_by_policy(trace, places, costs) == evicted_by_textbook(trace, places, costs)


def evicted_by_policy(trace: list[int], places: int, costs: list[float]) -> list[str]:
    there: dict[str, Resident] = {}
    clock, gone = 0.0, []
    for time, model in enumerate(trace):
        name = str(model)
        if name not in there and len(there) == places:
            idle = [replace(r, idle_s=float(time - r.idle_s)) for r in there.values()]
            [victim] = pick(idle, GIB)
            clock = max(clock, priority(there.pop(victim.instance_id)))
            gone.append(victim.instance_id)
        known = there.get(name, Resident(name, memory=GIB, start_cost_s=costs[model], frequency=0))
        used = known.frequency + 1
        there[name] = replace(known, frequency=used, clock=clock, idle_s=time)
    return gone


def evicted_by_textbook(trace: list[int], places: int, costs: list[float]) -> list[str]:
    heap: list[tuple[float, int, str]] = []  # priority, last use, name
    uses: dict[str, int] = {}
    inflation, gone = 0.0, []
    for time, model in enumerate(trace):
        name = str(model)
        if name in uses:
            heap = [entry for entry in heap if entry[2] != name]
            heapq.heapify(heap)
        elif len(uses) == places:
            inflation, _, victim = heapq.heappop(heap)
            del uses[victim]
            gone.append(victim)
        uses[name] = uses.get(name, 0) + 1
        heapq.heappush(heap, (inflation + uses[name] * costs[model], time, name))
    return gone
