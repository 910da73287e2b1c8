"""What is decided without a request: placements, warm times, early starts, budgets.

One task looks at every planned model once a second and tells its instances what follows.
"""

import asyncio
import logging
import math
from collections.abc import Callable

from backends.cold import ColdModel
from backends.fleet import Fleet
from config.schema import Config
from policies.budget import Purse, allowance
from router.planner import Planner
from router.planners import Planners

log = logging.getLogger("lamplighter.upkeep")

LOOK_EVERY_S = 1.0


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
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Decide what is due, for every model; one that fails leaves the others alone."""
        config = self._fleet.snapshot.config
        planned = self._planners.items()
        self._tended = {n: self._tended.get(n) or _Tended(self._clock()) for n, _ in planned}
        for name, planner in planned:
            try:
                self._look_at(config, name, planner)
            except Exception:
                log.exception("model %s: upkeep failed", name)

    def _look_at(self, config: Config, name: str, planner: Planner) -> None:
        tended, now_s = self._tended[name], self._clock()
        stance = planner.allowance.stance
        planner.allow(allowance(self._purses(config, name)))
        if now_s >= tended.placed_s + planner.economics.place_every_s:
            self._place(name, planner, tended, now_s)
        cold = self._fleet.snapshot.backends[name].cold
        if cold is not None:
            if planner.allowance.stance != stance:
                cold.hold(0.0)  # no early start any more; what is idle asks anew when to go down
            wanted = self._instances_wanted(config, name, planner)
            if wanted != tended.instances or cold is not tended.cold:
                tended.instances, tended.cold = wanted, cold
                cold.hold_instances(wanted)
            if not wanted:
                self._prestart(name, planner, tended, cold, now_s)

    def _purses(self, config: Config, name: str) -> list[Purse]:
        purses = []
        own, shared = config.models[name].budget.usd_per_day, config.budget.usd_per_day
        if own is not None:
            purses.append(Purse(f"model '{name}'", own, self._spent_usd(name)))
        if shared is not None:
            purses.append(Purse("the gateway", shared, self._spent_usd(None)))
        return purses

    def _place(self, name: str, planner: Planner, tended: "_Tended", now_s: float) -> None:
        before = planner.placement.name
        placement = planner.place(now_s)
        tended.placed_s = now_s
        if placement.name != before:
            log.info("model %s: %s -> %s: %s", name, before, placement.name, placement.reason)

    def _instances_wanted(self, config: Config, name: str, planner: Planner) -> int:
        """How many are to be ready whatever comes: warm times and the placement say so."""
        cold = config.models[name].cold
        if cold is None or planner.allowance.stance == "refusing":
            return 0
        warm = any(window.covers(self._epoch()) for window in cold.warm)
        if planner.placement.name == "always_on":
            return planner.always_on_instances()
        return 1 if warm else 0

    def _prestart(
        self, name: str, planner: Planner, tended: "_Tended", cold: ColdModel, now_s: float
    ) -> None:
        """Start early, once in each gap, when the planner says so and its time is not yet over."""
        idle_since_s = planner.idle_since_s
        if planner.active or idle_since_s is None or idle_since_s == tended.prestarted_gap_s:
            return
        early = planner.prestart()
        if early is not None and 0 <= now_s - idle_since_s - early.after_s < early.hold_s:
            tended.prestarted_gap_s = idle_since_s
            log.info("model %s is started early: %s", name, early.reason)
            cold.hold(now_s + planner.wake_mean_s("off") + early.hold_s)


class _Tended:
    """What upkeep has done for one model."""

    def __init__(self, now_s: float) -> None:
        self.placed_s = now_s
        self.instances = 0
        self.cold: ColdModel | None = None
        self.prestarted_gap_s = -math.inf
