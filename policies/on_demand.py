"""How many servers work, idle and start when a request that finds none starts one.

For planning (`policies.costs`): requests come at random, at a rate that does not change.
"""

import math
from collections.abc import Iterator
from itertools import count

from msgspec import Struct

_TAIL = 12.0  # standard deviations: beyond them is less than _RARE
_RARE = 1e-30
_SAME = 1e-9  # a smaller relative difference is noise


class OnDemand(Struct, frozen=True):
    """Servers that a request starts and that stop `idle_s` after their last one: "serverless".

    Paid from the beginning of a start, which takes `start_s`, to the stop. `concurrency`:
    requests at a time to one.
    """

    usd_per_hour: float
    concurrency: int
    start_s: float
    idle_s: float


class Use(Struct, frozen=True):
    """Servers at work, idle and starting, on average."""

    busy: float
    idle: float
    starting: float
    starts_per_s: float


class Gap(Struct, frozen=True):
    """How long a server stays idle: its mean, and the mean of its square. Seconds."""

    mean_s: float
    square_s2: float


def use_on_demand(rate: float, request_s: float, way: OnDemand) -> Use:
    """The servers that `rate` requests per second keep, each request taking `request_s`.

    N requests under way (Poisson: M/G/infinity) are packed as densely as can be, so server j, of
    concurrency c, is at work while N > n = c * (j - 1); of idle servers the last to become idle
    works first. The gaps of server j are then the times in which N, fallen to n, comes back to
    n + 1. Gaps above `idle_s` end in a start. Mean and number of the gaps are exact; of their
    distribution see `_phases`. Against simulations the servers are right within 1 % for
    exponential request times and within 3 % for equal ones. Not counted are requests that come
    while a server starts.
    """
    load = rate * request_s
    always_busy = int(_lowest(load) / way.concurrency)
    busy, idle, starts_per_s = float(always_busy), 0.0, 0.0
    first = always_busy * way.concurrency
    under_way, gaps = _poisson(load, first), _gaps(rate, request_s, first)
    for (n, exactly, up_to), gap in zip(under_way, gaps, strict=False):  # gaps never end
        if n % way.concurrency == 0 and exactly > 0:
            gaps_per_s = rate * exactly
            phases = _phases(rate, gap)
            busy += 1.0 - up_to
            idle -= gaps_per_s * sum(p * x * math.expm1(-way.idle_s / x) for p, x in phases)
            starts_per_s += gaps_per_s * sum(p * math.exp(-way.idle_s / x) for p, x in phases)
    return Use(busy, idle, starts_per_s * way.start_s, starts_per_s)


def places_for(load: float, share: float) -> int:
    """Places so many that this share of requests finds one free; `load` requests on average.

    An arrival sees the number of the others as it is on average.
    """
    return next(n for n, _, up_to in _poisson(load, _lowest(load)) if up_to >= share) + 1


def _lowest(mean: float) -> int:
    """Fewer than that are never under way."""
    return max(int(mean - _TAIL * math.sqrt(mean)), 0)


def _poisson(mean: float, first: int) -> Iterator[tuple[int, float, float]]:
    """n, P(N = n) and P(N <= n) from `first` on, below which there must be nothing."""
    up_to = 0.0
    for n in count(first):
        exactly = math.exp(n * math.log(mean) - mean - math.lgamma(n + 1))
        if n > mean and exactly < _RARE:
            return
        up_to = min(up_to + exactly, 1.0)
        yield n, exactly, up_to


def _gaps(rate: float, request_s: float, first: int) -> Iterator[Gap]:
    """How long N takes from n to n + 1, for n from `first` on, with exponential request times.

    N stays at n for 1 / (rate + n / request_s) on average. Then one came; or one ended, and N has
    to come from n - 1 to n first.
    """
    mean_s = square_s2 = 0.0
    if first > 0:  # far below the mean N rises like a straight line
        mean_s = 1 / (rate - (first - 1) / request_s)
        square_s2 = 2 * mean_s**2
    for n in count(first):
        leaves_per_s = rate + n / request_s
        rises, falls = rate / leaves_per_s, n / request_s / leaves_per_s
        below_s, below_s2 = mean_s, square_s2
        mean_s = (1 / leaves_per_s + falls * below_s) / rises
        square_s2 = 2 / leaves_per_s**2 + 2 * falls / leaves_per_s * (below_s + mean_s)
        square_s2 = (square_s2 + falls * (below_s2 + 2 * below_s * mean_s)) / rises
        yield Gap(mean_s, square_s2)


def _phases(rate: float, gap: Gap) -> tuple[tuple[float, float], ...]:
    """A gap as a mixture of exponential ones: the chance of each, and its mean in seconds.

    Such a gap is a mixture of exponentials (Keilson, "Markov Chain Models", 1979, section 5.1).
    The two that have its mean, its square and its rate of ending at once, which is `rate`, are the
    nodes of a Gauss quadrature with the moments rate, 1, mean and square / 2.
    """
    mean_s, half_s2 = gap.mean_s, gap.square_s2 / 2
    spread = rate * mean_s - 1
    product = half_s2 - mean_s**2  # of the two means, times the spread
    if spread < _SAME or product <= 0:  # one exponential, but for noise
        return ((1.0, mean_s),)
    product /= spread
    half_sum = (rate * half_s2 - mean_s) / spread / 2
    long_s = half_sum + math.sqrt(max(half_sum**2 - product, 0.0))
    short_s = product / long_s
    often = (1 - rate * short_s) / (long_s - short_s) * long_s
    return (often, long_s), (1 - often, short_s)
