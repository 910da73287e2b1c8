"""What a month of one model costs in each way of serving it, by requests a day.

For planning, before there is traffic to replay: requests come at random (Poisson) and evenly over
day and week, and each takes the same time. Money is USD, a month is 30 days.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, pairwise
from typing import Literal

from msgspec import Struct

from policies.on_demand import OnDemand, places_for, use_on_demand

DAY_S = 86_400.0
MONTH_DAYS = 30
MONTH_H = 24 * MONTH_DAYS

PLACE_FOR = 0.99  # of the requests an always-on pool has a place free
_STEPS_PER_DECADE = 40
_SAME = 1e-9  # a smaller difference is the noise of doubles

Placement = Literal["always_on", "on_demand", "api"]


class AlwaysOn(Struct, frozen=True):
    """Servers that are never stopped. `concurrency`: requests at a time to one, `inf` for any."""

    usd_per_hour: float
    concurrency: float


class Api(Struct, frozen=True):
    """An outside API."""

    usd_per_request: float


Way = AlwaysOn | OnDemand | Api


class Crossover(Struct, frozen=True):
    """Below this many requests a day one way is cheaper, above it the other."""

    requests_a_day: float
    below: Placement
    above: Placement


def month_usd(way: Way, requests_a_day: float, request_s: float) -> float:
    """A month in one way; `request_s` is what one request takes at a server that is ready."""
    if isinstance(way, Api):
        return way.usd_per_request * requests_a_day * MONTH_DAYS
    rate = requests_a_day / DAY_S
    if isinstance(way, AlwaysOn):
        servers: float = servers_needed(rate * request_s, way.concurrency)
    else:
        use = use_on_demand(rate, request_s, way)
        servers = use.busy + use.idle + use.starting
    return servers * way.usd_per_hour * MONTH_H


def request_usd(
    input_tokens: float, output_tokens: float, input_usd: float, output_usd: float
) -> float:
    """One request at an outside API with prices per million tokens."""
    return (input_tokens * input_usd + output_tokens * output_usd) / 1e6


def servers_needed(load: float, concurrency: float) -> int:
    """The fewest servers at which 99 % of requests find a place.

    `load` is the mean number of requests under way; their number is Poisson (M/G/infinity), and
    an arrival sees it as it is on average.
    """
    return 1 if math.isinf(concurrency) else math.ceil(places_for(load, PLACE_FOR) / concurrency)


def crossovers(
    ways: Mapping[Placement, Way], request_s: float, low: float, high: float
) -> list[Crossover]:
    """Where one of two ways becomes the cheaper one, between `low` and `high` requests a day.

    For each pair of ways, ascending; there may be several where servers are added one by one.
    """
    found = []
    for one, other in combinations(ways, 2):

        def lead(requests_a_day: float, one: Placement = one, other: Placement = other) -> bool:
            """Whether `one` is the cheaper of the two."""
            costs = [month_usd(ways[name], requests_a_day, request_s) for name in (one, other)]
            return costs[0] < costs[1] * (1 - _SAME)

        for at, leads in _changes(lead, low, high):
            above, below = (one, other) if leads else (other, one)
            found.append(Crossover(at, below, above))
    return sorted(found, key=lambda crossover: crossover.requests_a_day)


def _changes(
    lead: Callable[[float], bool], low: float, high: float
) -> Iterator[tuple[float, bool]]:
    """Each place where `lead` changes, and to what."""
    steps = math.ceil(math.log10(high / low) * _STEPS_PER_DECADE)
    grid = [low * (high / low) ** (step / steps) for step in range(steps + 1)]
    for (left, before), (right, after) in pairwise((x, lead(x)) for x in grid):
        if before != after:
            while right / left > 1 + _SAME:
                middle = math.sqrt(left * right)
                left, right = (middle, right) if lead(middle) == before else (left, middle)
            yield right, after
