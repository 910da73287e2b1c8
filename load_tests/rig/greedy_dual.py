"""Evictions of a device, as /admin/devices tells them, held against a greedy-dual of their own.

Nothing is imported from the gateway: what its policy computes is computed here a second time, from
the callers' own counts where they have them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

GIB = 2**30
CLOSE = 1e-6

Eviction = Mapping[str, Any]


def faults(
    evictions: Sequence[Eviction], answered: Mapping[str, int], max_wait_s: float
) -> list[str]:
    """What is not as greedy-dual has it, in words; `answered` are calls by instance.

    The evictions must be all there were, in order, each with `at_s`, when it was decided.
    """
    found: list[str] = []
    for eviction in evictions:
        found += _order(eviction)
        found += _frequency(eviction, answered)
    found += _clock(evictions)
    found += _turns(evictions, max_wait_s)
    return found


def priority(candidate: Mapping[str, Any]) -> float:
    cost: float = candidate["requests"] * candidate["start_s"] / (candidate["memory"] / GIB)
    return float(candidate["clock"]) + cost


def _order(eviction: Eviction) -> Iterable[str]:
    """One place each: the lowest goes. Who must make room though it serves has a turn's reason."""
    lowest = min(eviction["candidates"], key=priority)
    own = next(c for c in eviction["candidates"] if c["instance"] == eviction["instance"])
    if not eviction["served"] and priority(own) > priority(lowest) + CLOSE:
        yield f"{own['instance']} went before {lowest['instance']}, which is worth less"
    for candidate in eviction["candidates"]:
        if abs(candidate["priority"] - priority(candidate)) > CLOSE:
            yield f"the priority of {candidate['instance']} is not {priority(candidate)}"


def _frequency(eviction: Eviction, answered: Mapping[str, int]) -> Iterable[str]:
    """An idle one that went was used just as often as callers had answers of it."""
    own = next(c for c in eviction["candidates"] if c["instance"] == eviction["instance"])
    seen = answered.get(own["instance"], 0)
    if not eviction["served"] and own["requests"] != seen:
        yield f"{own['instance']} counts {own['requests']} requests, its callers {seen}"


def _clock(evictions: Sequence[Eviction]) -> Iterable[str]:
    """Every clock is the highest priority that went before, and so it never falls."""
    values = {0.0}
    clock = 0.0
    for eviction in evictions:
        for candidate in eviction["candidates"]:
            if not any(abs(candidate["clock"] - value) < CLOSE for value in values):
                yield f"{candidate['instance']} has the clock {candidate['clock']}, no one's"
        clock = max(clock, eviction["priority"])
        values.add(clock)


def _turns(evictions: Sequence[Eviction], max_wait_s: float) -> Iterable[str]:
    turns = [e["at_s"] for e in evictions if e["served"]]
    for sooner, later in pairwise(turns):
        if later - sooner < max_wait_s - 0.1:  # as exactly as `ago_s` can be read over HTTP
            yield f"two turns within {later - sooner:.2f} s"


def fruitless(evictions: Iterable[Eviction], answered: Mapping[str, int]) -> int:
    """Starts that served nobody before they were undone: what thrashing is made of."""
    return sum(answered.get(eviction["instance"], 0) == 0 for eviction in evictions)


def by_model(evictions: Iterable[Eviction]) -> dict[str, int]:
    return dict(Counter(e["instance"].split("@")[0] for e in evictions))
