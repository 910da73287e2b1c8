"""What a model's demand was, and what each placement would have cost at it.

Demand is kept in periods, one from choice to choice; older ones weigh less.
"""

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from policies.placement import PlacementName, Prospect
from policies.rungs import Ladder, Rung, RungName
from router.economics import Economics

HORIZON_S = 7 * 86400.0
HALF_LIFE_S = 6 * 3600.0
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
        self._past: deque[Period] = deque()

    def gap(self, gap_s: float, rungs: Ladder, steps: Sequence[tuple[float, RungName]]) -> Rung:
        """Add what a gap costs the device on demand; the rung that the arrival would have met."""
        by_name = {rung.name: rung for rung in rungs}
        here, since_s, usd = rungs[0], 0.0, 0.0
        for after_s, name in steps:
            if after_s >= gap_s:
                break
            usd += here.hold_usd_s * (after_s - since_s)
            here, since_s = by_name[name], after_s
        usd += here.hold_usd_s * (gap_s - since_s) + here.wake_s * self.economics.hold_usd_s
        self.now.idle_usd += usd
        if here.name != "hot":
            self.now.slow += 1
            self.now.delay_s += here.wake_s
        return here

    def busy(self, length_s: float, instances: int) -> None:
        self.now.busy_s += length_s * instances
        self.now.peak_instances = max(self.now.peak_instances, instances)

    def close(self, now_s: float) -> None:
        """End the period; what is older than the horizon is forgotten."""
        self.now.length_s = now_s - self.now.began_s
        self._past.append(self.now)
        while self._past[0].began_s < now_s - HORIZON_S:
            self._past.popleft()
        self.now = Period(now_s)

    def peak_instances(self) -> int:
        """Most servers that were needed at a time, as far back as is remembered."""
        return max((period.peak_instances for period in (*self._past, self.now)), default=0)

    def qps(self) -> float:
        """Requests per second in the last whole period."""
        last = self._past[-1] if self._past else self.now
        return last.requests / last.length_s if last.length_s else 0.0

    def prospects(self) -> dict[PlacementName, Prospect]:
        """By placement; empty before the first period has ended."""
        total = self._total()
        if not total.length_s:
            return {}
        hold_usd_s = self.economics.hold_usd_s
        hours = total.length_s / 3600
        slow = total.requests and total.slow / total.requests > SLOW_SHARE
        always_on = max(self.peak_instances(), 1) * hold_usd_s * 3600
        on_demand = Prospect(
            (total.busy_s * hold_usd_s + total.idle_usd) / hours,
            total.delay_s * self.economics.delay_usd_s / hours,
            total.longest_delay_s if slow else 0.0,
        )
        return {
            "always_on": Prospect(always_on),
            "on_demand": on_demand,
            "api": Prospect(total.api_usd / hours),
        }

    def _total(self) -> Period:
        """All periods as one, each weighed by half for every `HALF_LIFE_S` of its age."""
        total = Period(0.0)
        last_s = self._past[-1].began_s if self._past else 0.0
        for period in self._past:
            weight = 0.5 ** ((last_s - period.began_s) / HALF_LIFE_S)
            total.length_s += weight * period.length_s
            total.requests += weight * period.requests
            total.busy_s += weight * period.busy_s
            total.idle_usd += weight * period.idle_usd
            total.slow += weight * period.slow
            total.delay_s += weight * period.delay_s
            total.api_usd += weight * period.api_usd
            total.longest_delay_s = max(total.longest_delay_s, period.longest_delay_s)
        return total
