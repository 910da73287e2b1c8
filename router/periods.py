"""What a model's demand was, and what each placement would have cost at it.

Demand is added up in periods, one from choice to choice; older ones weigh less.
"""

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from policies.placement import PlacementName, Prospect
from policies.rungs import Ladder, Rung, RungName, spend_gap
from router.economics import Economics

HORIZON_S = 7 * 86400.0  # of what is the highest; sums fade
HALF_LIFE_S = 3 * 86400.0  # long beside a day, whose rhythm is not to move a model
SLOW_SHARE = 0.01  # of requests that meet a wake, from which on the p99 wait is that of a wake


class Period(Struct):
    """The demand of one stretch of time.

    `idle_usd`, `slow` and the delays are what an on-demand instance would have cost between
    requests, and how many requests would have met a wake, whatever served them really.
    """

    began_s: float
    length_s: float = 0.0
    requests: float = 0.0
    busy_s: float = 0.0  # of instances
    peak_instances: int = 0
    idle_usd: float = 0.0
    slow: float = 0.0
    delay_s: float = 0.0
    longest_delay_s: float = 0.0
    api_usd: float = 0.0


class Periods:
    """The periods of one model; `now` is the one that is being filled."""

    def __init__(self, economics: Economics, now_s: float) -> None:
        self.economics = economics
        self.now = Period(now_s)
        self._last = Period(now_s)
        self._sum = Period(now_s)  # of those that ended, as they weigh when the last one began
        self.linger_s = 0.0  # how long a server beyond the first is held that has nothing to do
        self._instances = _Highest()
        self._lingering = _Highest()
        self._delay_s = _Highest()

    def gap(self, gap_s: float, rungs: Ladder, steps: Sequence[tuple[float, RungName]]) -> Rung:
        """Add what a gap costs the device on demand; the rung that the arrival would have met."""
        met, held_usd = spend_gap(rungs, steps, gap_s)
        self.now.idle_usd += held_usd + met.wake_s * self.economics.hold_usd_s
        return met

    def busy(self, length_s: float, instances: int) -> None:
        self.now.busy_s += length_s * instances
        self.now.peak_instances = max(self.now.peak_instances, instances)

    def close(self, now_s: float) -> None:
        """End the period and begin the next one."""
        self._last, self.now = self.now, Period(now_s)
        self._last.length_s = now_s - self._last.began_s
        self._linger(now_s)
        self._add(self._last)
        self._instances.add(now_s, self._last.peak_instances)
        self._delay_s.add(now_s, self._last.longest_delay_s)

    def _linger(self, now_s: float) -> None:
        """Add to the period that ended what servers beyond the first cost while they were idle."""
        last = self._last
        self._lingering.add(now_s, last.peak_instances, self.linger_s)
        held_s = max(self._lingering.value - 1, 0.0) * last.length_s
        busy_s = max(last.busy_s - last.length_s, 0.0)
        last.idle_usd += max(held_s - busy_s, 0.0) * self.economics.hold_usd_s

    def peak_instances(self) -> int:
        """Most servers that were needed at a time, as far back as is remembered."""
        return max(int(self._instances.value), self.now.peak_instances)

    def qps(self) -> float:
        """Requests per second in the last whole period."""
        return self._last.requests / self._last.length_s if self._last.length_s else 0.0

    def prospects(self) -> dict[PlacementName, Prospect]:
        """By placement; empty before the first period has ended."""
        total = self._sum
        if not total.length_s:
            return {}
        hold_usd_s = self.economics.hold_usd_s
        hours = total.length_s / 3600
        slow = total.requests and total.slow / total.requests > SLOW_SHARE
        always_on = max(self.peak_instances(), 1) * hold_usd_s * 3600
        on_demand = Prospect(
            (total.busy_s * hold_usd_s + total.idle_usd) / hours,
            total.delay_s * self.economics.delay_usd_s / hours,
            self._delay_s.value if slow else 0.0,
        )
        return {
            "always_on": Prospect(always_on),
            "on_demand": on_demand,
            "api": Prospect(total.api_usd / hours),
        }

    def _add(self, period: Period) -> None:
        """Each period weighs half for every `HALF_LIFE_S` of its age."""
        total = self._sum
        weight = 0.5 ** ((period.began_s - total.began_s) / HALF_LIFE_S)
        self._sum = Period(
            period.began_s,
            length_s=weight * total.length_s + period.length_s,
            requests=weight * total.requests + period.requests,
            busy_s=weight * total.busy_s + period.busy_s,
            idle_usd=weight * total.idle_usd + period.idle_usd,
            slow=weight * total.slow + period.slow,
            delay_s=weight * total.delay_s + period.delay_s,
            api_usd=weight * total.api_usd + period.api_usd,
        )


class _Highest:
    """The highest of the values within a horizon; 0 when there are none."""

    def __init__(self) -> None:
        self._falling: deque[tuple[float, float]] = deque()  # those with no higher one after them

    @property
    def value(self) -> float:
        return self._falling[0][1] if self._falling else 0.0

    def add(self, now_s: float, value: float, horizon_s: float = HORIZON_S) -> None:
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((now_s, value))
        while self._falling[0][0] < now_s - horizon_s:
            self._falling.popleft()
