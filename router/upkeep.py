"""What is decided without a request: placements, warm times, early starts, budgets.

One task looks at every planned model once a second, and when something is due, and tells its
instances what follows. Placements are chosen when the wall clock reaches a multiple of
`placement.every`, whenever the gateway was started, so that a replay looks at the same periods.
"""

import asyncio
import logging
import math
from collections.abc import Callable

from backends.cold import ColdModel
from backends.fleet import Fleet
from config.schema import Config
from policies.budget import ALL_MODELS, Purse
from router.planner import Planner
from router.planners import Planners

log = logging.getLogger("lamplighter.upkeep")

LOOK_EVERY_S = 1.0
SHORTEST_PAUSE_S = 0.001


class Upkeep:
    """`spent_usd` gives what a model has spent today (UTC), None asks for all; `epoch` the date."""

    def __init__(
        self,
        fleet: Fleet,
        planners: Planners,
        clock: Callable[[], float],
        epoch: Callable[[], float],
        spent_usd: Callable[[str | None], float],
    ) -> None:
        self._fleet = fleet
        self._planners = planners
        self._clock = clock
        self._epoch = epoch
        self._spent_usd = spent_usd
        self._tended: dict[str, _Tended] = {}

    async def run(self) -> None:
        while True:
            due_in_s = self.look()
            await asyncio.sleep(due_in_s)

    def look(self) -> float:
        """Decide what is due, for every model; one that fails leaves the others alone.

        Seconds until it should look again: `LOOK_EVERY_S`, or less when something is due sooner.
        """
        config = self._fleet.snapshot.config
        planned = self._planners.items()
        self._tended = {n: self._tended.get(n) or _Tended(self._period(p)) for n, p in planned}
        due_in_s, shared = LOOK_EVERY_S, self._shared(config)
        for name, planner in planned:
            try:
                self._look_at(config, name, planner, shared)
                due_in_s = min(due_in_s, self._due_in_s(planner, self._tended[name]))
            except Exception:
                log.exception("model %s: upkeep failed", name)
        return max(due_in_s, SHORTEST_PAUSE_S)

    def _due_in_s(self, planner: Planner, tended: "_Tended") -> float:
        """Seconds until the next choice of a placement, or until the early start in this gap."""
        every_s, idle_since_s = planner.economics.place_every_s, planner.idle_since_s
        due_in_s = every_s - self._epoch() % every_s
        if idle_since_s is not None and tended.may_prestart(planner):
            early = planner.prestart()
            due_s = idle_since_s + early.after_s if early is not None else -math.inf
            if due_s > self._clock():
                return min(due_in_s, due_s - self._clock())
        return due_in_s

    def _period(self, planner: Planner) -> float:
        """The number of the period between two choices."""
        return self._epoch() // planner.economics.place_every_s

    def _look_at(self, config: Config, name: str, planner: Planner, shared: Purse | None) -> None:
        tended, now_s = self._tended[name], self._clock()
        before = planner.allowance.stance, planner.placement.name
        planner.spent(self._spent_usd(name), shared)
        period = self._period(planner)
        if period != tended.period:
            tended.period = period
            late_s = self._epoch() % planner.economics.place_every_s
            # As of the moment at which it was due: a shortest stay of two periods is two periods.
            self._place(name, planner, now_s - late_s if late_s < LOOK_EVERY_S else now_s)
        cold = self._fleet.snapshot.backends[name].cold
        if cold is not None:
            planner.offer(cold.view().rungs)
            if (planner.allowance.stance, planner.placement.name) != before:
                cold.hold(0.0)  # no early start any more; what is idle asks anew when to go down
            wanted = planner.instances_wanted(warm=self._is_warm(config, name))
            if wanted != tended.instances or cold is not tended.cold:
                tended.instances, tended.cold = wanted, cold
                cold.hold_instances(wanted)
            if not wanted:
                self._prestart(name, planner, tended, cold, now_s)

    def _shared(self, config: Config) -> Purse | None:
        usd_per_day = config.budget.usd_per_day
        if usd_per_day is None:
            return None
        return Purse(ALL_MODELS, usd_per_day, self._spent_usd(None))

    def _place(self, name: str, planner: Planner, now_s: float) -> None:
        before = planner.placement.name
        placement = planner.place(now_s)
        if placement.name != before:
            log.info("model %s: %s -> %s: %s", name, before, placement.name, placement.reason)

    def _is_warm(self, config: Config, name: str) -> bool:
        cold = config.models[name].cold
        return cold is not None and cold.is_warm_at(self._epoch())

    def _prestart(
        self, name: str, planner: Planner, tended: "_Tended", cold: ColdModel, now_s: float
    ) -> None:
        """Start early, once in each gap, when the planner says so and its time is not yet over."""
        idle_since_s = planner.idle_since_s
        if idle_since_s is None or not tended.may_prestart(planner):
            return
        early = planner.prestart()
        if early is None:
            return
        due_s = idle_since_s + early.after_s
        if due_s <= now_s < due_s + early.hold_s:
            tended.prestarted_gap_s = idle_since_s
            log.info("model %s is started early: %s", name, early.reason)
            cold.hold(due_s + planner.wake_mean_s("off") + early.hold_s)


class _Tended:
    """What upkeep has done for one model."""

    def __init__(self, period: float) -> None:
        self.period = period  # in which its placement was chosen last
        self.instances = 0
        self.cold: ColdModel | None = None
        self.prestarted_gap_s = -math.inf

    def may_prestart(self, planner: Planner) -> bool:
        """Whether it is idle, and was not started early in this gap yet."""
        return not planner.active and planner.idle_since_s != self.prestarted_gap_s
