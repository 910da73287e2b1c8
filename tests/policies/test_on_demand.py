"""Servers on demand: the formulas against exact cases and against a simulation."""

import heapq
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.on_demand import OnDemand, places_for, use_on_demand

RATES = st.floats(1e-5, 100)  # requests per second
REQUESTS_S = st.floats(0.01, 600)
LOADS = st.tuples(RATES, REQUESTS_S).filter(lambda load: load[0] * load[1] < 2000)
CONCURRENCY = st.integers(1, 64)
TIMES_S = st.floats(0, 1e5)


def on_demand(concurrency: int = 1, start_s: float = 0.0, idle_s: float = 0.0) -> OnDemand:
    return OnDemand(1.0, concurrency, start_s, idle_s)


def simulated(
    rate: float, request_s: float, way: OnDemand, *, equal: bool, requests: int = 100_000
) -> tuple[float, float, float]:
    """Busy and idle servers on average and starts per second, with one seed."""
    rng = random.Random(4)
    now_s = busy_s = idle_s = 0.0
    under_way, starts = 0, 0
    ends: list[float] = []
    idle_since_s: dict[int, float] = {}  # by the number of a server
    for _ in range(requests):
        now_s += rng.expovariate(rate)
        while ends and ends[0] <= now_s:
            ended_s = heapq.heappop(ends)
            under_way -= 1
            if under_way % way.concurrency == 0:
                idle_since_s[under_way // way.concurrency] = ended_s
        if under_way % way.concurrency == 0:
            gap_s = now_s - idle_since_s.get(under_way // way.concurrency, -math.inf)
            starts += gap_s > way.idle_s
            idle_s += min(gap_s, way.idle_s)
        under_way += 1
        lasts_s = request_s if equal else rng.expovariate(1 / request_s)
        busy_s += lasts_s
        heapq.heappush(ends, now_s + lasts_s)
    return busy_s / now_s, idle_s / now_s, starts / now_s


@pytest.mark.parametrize("equal", [False, True], ids=["exponential", "equal"])
@pytest.mark.parametrize("load", [0.01, 0.5, 2.0, 8.0, 40.0])
@pytest.mark.parametrize("idle_s", [5.0, 60.0])
def test_servers_are_as_many_as_in_a_simulation(load: float, idle_s: float, equal: bool) -> None:
    way = on_demand(idle_s=idle_s)
    use = use_on_demand(load / 5.0, 5.0, way)
    busy, idle, starts_per_s = simulated(load / 5.0, 5.0, way, equal=equal)
    assert use.busy + use.idle == pytest.approx(busy + idle, rel=0.04 if equal else 0.02)
    assert use.starts_per_s == pytest.approx(starts_per_s, rel=0.15)


def test_one_request_at_a_time_and_no_keeping_is_one_start_a_request() -> None:
    use = use_on_demand(0.5, 4.0, on_demand(start_s=20.0))
    assert use.busy == pytest.approx(2.0)
    assert use.idle == 0.0
    assert use.starts_per_s == pytest.approx(0.5)
    assert use.starting == pytest.approx(10.0)


def test_a_rare_request_finds_the_server_of_the_last_one_by_the_exponential_law() -> None:
    use = use_on_demand(1 / 600, 1e-3, on_demand(idle_s=300.0))
    assert use.starts_per_s * 600 == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert use.idle == pytest.approx(1 - math.exp(-0.5), rel=1e-4)


@given(LOADS, CONCURRENCY, TIMES_S)
def test_work_is_done_by_enough_servers_and_no_more_starts_than_requests(
    load: tuple[float, float], concurrency: int, idle_s: float
) -> None:
    rate, request_s = load
    use = use_on_demand(rate, request_s, on_demand(concurrency, 20.0, idle_s))
    assert use.busy >= rate * request_s / concurrency * (1 - 1e-6)
    assert use.busy <= rate * request_s * (1 + 1e-6)
    assert use.idle >= 0
    assert 0 <= use.starts_per_s <= rate * (1 + 1e-6)
    assert use.starting == pytest.approx(use.starts_per_s * 20.0)


@given(LOADS, TIMES_S, TIMES_S)
def test_who_keeps_longer_pays_more_and_starts_less(
    load: tuple[float, float], one_s: float, other_s: float
) -> None:
    short, long = (
        use_on_demand(*load, on_demand(idle_s=idle_s)) for idle_s in sorted((one_s, other_s))
    )
    assert short.idle <= long.idle * (1 + 1e-9)
    assert short.starts_per_s >= long.starts_per_s * (1 - 1e-9)


@given(LOADS, CONCURRENCY)
def test_more_at_a_time_needs_no_more_servers(load: tuple[float, float], concurrency: int) -> None:
    few, many = (
        use_on_demand(*load, on_demand(number)) for number in (concurrency, 2 * concurrency)
    )
    assert many.busy <= few.busy * (1 + 1e-9)


@pytest.mark.parametrize(("rate", "request_s"), [(1e-9, 1e-9), (1e-5, 1e-6), (115.0, 86_400.0)])
def test_extremes_stay_in_bounds(rate: float, request_s: float) -> None:
    use = use_on_demand(rate, request_s, on_demand(1, 10.0, 100.0))
    assert use.busy == pytest.approx(rate * request_s, rel=1e-3)
    assert 0 <= use.starts_per_s <= rate


@pytest.mark.parametrize(("load", "places"), [(1e-6, 1), (1.0, 5), (8.0, 16), (100.0, 125)])
def test_places_are_enough_for_99_of_100(load: float, places: int) -> None:
    """By hand, from tables of the Poisson distribution."""
    assert places_for(load, 0.99) == places
