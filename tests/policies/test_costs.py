"""The cost of a month, and where ways cross; the published example among them."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.costs import AlwaysOn, Api, Way, crossovers, month_usd, request_usd, servers_needed
from policies.on_demand import OnDemand

PUBLISHED_SERVER = AlwaysOn(32.0, math.inf)
REQUEST_S = 5.0
A_DAY = st.floats(1, 1e6)
PRICES = st.floats(0.01, 100)


def serverless(idle_s: float = 0.0, start_s: float = 0.0) -> OnDemand:
    """An A100-40GB at $0.001 a second."""
    return OnDemand(3.6, 1, start_s, idle_s)


def published(idle_s: float) -> float:
    """Where the server of the published example becomes the cheaper one."""
    ways: dict[str, Way] = {"always_on": PUBLISHED_SERVER, "on_demand": serverless(idle_s)}
    (crossing,) = crossovers(ways, REQUEST_S, 1, 1e7)  # type: ignore[arg-type]
    assert (crossing.below, crossing.above) == ("on_demand", "always_on")
    return crossing.requests_a_day


def test_the_published_costs_of_a_month() -> None:
    assert month_usd(serverless(), 1000, REQUEST_S) == pytest.approx(150.0)
    assert month_usd(PUBLISHED_SERVER, 1000, REQUEST_S) == 23_040.0


def test_computing_alone_crosses_far_above_the_published_range() -> None:
    assert published(idle_s=0.0) == pytest.approx(153_600, rel=1e-6)


def test_keeping_servers_for_10_to_60_s_gives_the_published_range() -> None:
    assert published(idle_s=10.0) == pytest.approx(101_500, rel=0.01)
    assert published(idle_s=60.0) == pytest.approx(70_100, rel=0.01)


def test_eight_requests_at_a_time_are_too_few_for_the_published_range() -> None:
    assert 8 * 86_400 / REQUEST_S == 138_240  # requests a day that keep eight GPUs busy
    assert servers_needed(70_000 * REQUEST_S / 86_400, 8) == 2


def test_an_api_is_paid_by_token() -> None:
    assert request_usd(1000, 300, 0.2, 0.6) == pytest.approx(0.00038)
    assert month_usd(Api(0.00038), 1000, REQUEST_S) == pytest.approx(11.4)


def test_always_on_servers_are_added_as_the_load_grows() -> None:
    way = AlwaysOn(1.0, 8)
    costs = [month_usd(way, a_day, REQUEST_S) for a_day in (1, 50_000, 70_000, 1_000_000)]
    assert [usd / 720 for usd in costs] == [1, 1, 2, 10]


@given(st.one_of(st.builds(AlwaysOn, PRICES, st.integers(1, 64)), st.builds(Api, PRICES)), A_DAY)
def test_more_requests_never_cost_less(way: Way, a_day: float) -> None:
    assert month_usd(way, a_day, REQUEST_S) <= month_usd(way, a_day * 1.5, REQUEST_S)


@given(st.builds(OnDemand, PRICES, st.integers(1, 8), st.just(0.0), st.floats(0, 1e4)), A_DAY)
def test_without_paid_starts_more_requests_on_demand_never_cost_less(
    way: OnDemand, a_day: float
) -> None:
    assert month_usd(way, a_day, REQUEST_S) <= month_usd(way, a_day * 1.5, REQUEST_S) * (1 + 1e-9)


@given(PRICES, PRICES, st.floats(0, 600), st.floats(0, 600))
def test_at_a_crossover_the_cheaper_way_changes(
    always_usd: float, demand_usd: float, start_s: float, idle_s: float
) -> None:
    always, demand = AlwaysOn(always_usd, 16), OnDemand(demand_usd, 1, start_s, idle_s)
    found = crossovers({"always_on": always, "on_demand": demand}, REQUEST_S, 1, 1e6)
    ways: dict[str, Way] = {"always_on": always, "on_demand": demand}
    for crossing in found:
        for name, factor in ((crossing.below, 1 - 1e-6), (crossing.above, 1 + 1e-6)):
            other = "on_demand" if name == "always_on" else "always_on"
            a_day = crossing.requests_a_day * factor
            usd = month_usd(ways[name], a_day, REQUEST_S)
            assert usd <= month_usd(ways[other], a_day, REQUEST_S) * (1 + 1e-6)
    for one, after in zip(found, found[1:], strict=False):
        assert one.above == after.below


@given(PRICES, st.floats(0.1, 10))
def test_two_ways_in_proportion_never_cross(usd: float, ratio: float) -> None:
    assume(abs(ratio - 1) > 1e-6)
    per_request = usd * REQUEST_S / 3600 * ratio
    ways: dict[str, Way] = {"on_demand": OnDemand(usd, 1, 0.0, 0.0), "api": Api(per_request)}
    assert crossovers(ways, REQUEST_S, 1, 1e6) == []  # type: ignore[arg-type]


def test_two_ways_that_cost_the_same_never_cross() -> None:
    ways: dict[str, Way] = {"on_demand": serverless(), "api": Api(0.005)}
    assert crossovers(ways, REQUEST_S, 1, 1e7) == []  # type: ignore[arg-type]
