"""What a month of one model costs in each way of serving it, by requests a day.

For planning, before there is traffic to replay: requests come at random (Poisson) and evenly over
day and week, and each takes the same time. Money is USD, a month is 30 days.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, pairwise
from typing import Literal

from msgspec import Struct

DAY_S = 86_400.0
MONTH_DAYS = 30
MONTH_H = 24 * MONTH_DAYS

PLACE_FOR = 0.99  # of the requests an always-on pool has a place free
_TAIL = 12.0  # standard deviations: beyond them nothing is left that a double can hold
_STEPS_PER_DECADE = 40
_SAME = 1e-9  # a smaller difference is the noise of doubles

Placement = Literal["always_on", "on_demand", "api"]


class AlwaysOn(Struct, frozen=True):
    """Servers that are never stopped. `concurrency`: requests at a time to one, `inf` for any."""

    usd_per_hour: float
    concurrency: float


class OnDemand(Struct, frozen=True):
    """Servers that a request starts and that stop `idle_s` after their last one: "serverless".

    Paid from the beginning of a start, which takes `start_s`, to the stop.
    """

    usd_per_hour: float
    concurrency: int
    start_s: float
    idle_s: float


class Api(Struct, frozen=True):
    """An outside API."""

    usd_per_request: float


Way = AlwaysOn | OnDemand | Api


class Use(Struct, frozen=True):
    """How many servers on demand are at work, idle and starting, on average."""

    busy: float
    idle: float
    starting: float
    starts_per_s: float


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
    if math.isinf(concurrency):
        return 1
    places = next(n for n, _, up_to in _poisson(load, _lowest(load)) if up_to >= PLACE_FOR) + 1
    return math.ceil(places / concurrency)


def use_on_demand(rate: float, request_s: float, way: OnDemand) -> Use:
    """Servers on demand for `rate` requests per second, without a limit on their number.

    With requests packed as densely as can be, server j is at work while more than n = c * (j - 1)
    requests are under way, c its concurrency. Their number N is Poisson with the mean rate *
    request_s, whatever the distribution of request times. So server j is idle with the chance
    P(N <= n), its idleness ends rate * P(N = n) times a second, and a gap lasts g = P(N <= n) /
    (rate * P(N = n)) on average: that is exact. The gap is taken as exponential, which is exact
    for j = 1 and nearly so for those that work rarely. Then min(gap, idle_s) is g * (1 -
    exp(-idle_s / g)) on average, and exp(-idle_s / g) of the gaps end in a start. Not counted are
    requests that come while a server starts.
    """
    load = rate * request_s
    always_busy = int(_lowest(load) / way.concurrency)
    busy, idle, starts_per_s = float(always_busy), 0.0, 0.0
    for n, exactly, up_to in _poisson(load, always_busy * way.concurrency):
        if n % way.concurrency == 0 and exactly > 0:
            gaps_per_s = rate * exactly
            gap_s = up_to / gaps_per_s
            busy += 1.0 - up_to
            idle -= up_to * math.expm1(-way.idle_s / gap_s)
            starts_per_s += gaps_per_s * math.exp(-way.idle_s / gap_s)
    return Use(busy, idle, starts_per_s * way.start_s, starts_per_s)


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


def _lowest(mean: float) -> int:
    """Fewer than that are never under way."""
    return max(int(mean - _TAIL * math.sqrt(mean)), 0)


def _poisson(mean: float, first: int) -> Iterator[tuple[int, float, float]]:
    """n, P(N = n) and P(N <= n) from `first` on, below which there must be nothing."""
    up_to = 0.0
    for n in range(first, int(mean + _TAIL * math.sqrt(mean)) + 30):
        exactly = math.exp(n * math.log(mean) - mean - math.lgamma(n + 1))
        up_to = min(up_to + exactly, 1.0)
        yield n, exactly, up_to
