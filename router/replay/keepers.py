"""Who decides in a replay: the live router's own planner, or a rule that it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from policies.arrival import ApiState, ColdState, Step, choose
from policies.rungs import RungName
from router.planner import Planner
from router.replay.work import Caller

Steps = Sequence[tuple[float, RungName]]
ONE_BY_ONE = 200  # requests up to which each is told to the planner


@dataclass(frozen=True, slots=True)
class Passed:
    """Requests of a session since its keeper heard of any, besides the one that began it.

    `tokens`, in and out, are those of all of them. `over`: the last byte of all has gone.
    """

    since_s: float
    now_s: float
    requests: float
    tokens: tuple[float, float]
    over: bool


class Holding(Protocol):
    """What one server asks."""

    def descent(self) -> Steps: ...
    def early(self) -> tuple[float, float] | None:
        """Seconds into the gap at which to start before anybody asks, and until which to hold."""

    def woke(self, rung: RungName, took_s: float) -> None: ...


class Keeper(Holding, Protocol):
    """Of a model. `began` and `passed` frame a session: some request is under way all the time."""

    def extra_descent(self) -> Steps:
        """That of the servers beyond the first."""

    def began(self, now_s: float) -> None: ...
    def passed(self, passed: Passed) -> None: ...


class Fixed:
    """Satisfies `Keeper`: fixed steps, `()` for never; callers are held, come what may."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def descent(self) -> Steps:
        return self._steps

    def extra_descent(self) -> Steps:
        return self.descent()

    def early(self) -> tuple[float, float] | None:
        return None

    def woke(self, rung: RungName, took_s: float) -> None:
        pass

    def began(self, now_s: float) -> None:
        pass

    def passed(self, passed: Passed) -> None:
        pass


class Planned:
    """Satisfies `Keeper`: asks the planner that a gateway would ask."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._mean = (0.0, 0.0)  # tokens of a request

    def descent(self) -> Steps:
        return self.planner.descent().steps

    def extra_descent(self) -> Steps:
        return self.planner.extra_descent().steps

    def early(self) -> tuple[float, float] | None:
        early = self.planner.prestart()
        if early is None:
            return None
        return early.after_s, early.after_s + self.planner.wake_mean_s("off") + early.hold_s

    def woke(self, rung: RungName, took_s: float) -> None:
        self.planner.woke(rung, took_s)

    def began(self, now_s: float) -> None:
        self.planner.arrived(now_s)

    def passed(self, passed: Passed) -> None:
        """One request stays under way until the session is over; many flow."""
        planner, requests = self.planner, passed.requests
        since_s, now_s = passed.since_s, passed.now_s
        if requests > 0:
            self._mean = (passed.tokens[0] / requests, passed.tokens[1] / requests)
        into, out = self._mean
        if requests > ONE_BY_ONE and now_s > since_s:
            planner.finished(since_s, into, out)
            count = requests if passed.over else requests - 1.0
            planner.flowed(since_s, now_s, count, into * count, out * count)
            if not passed.over:
                planner.arrived(now_s)
            return
        whole = max(round(requests), 0)
        if whole:
            planner.arrived(since_s, whole)
        planner.finished(now_s, into, out, whole + 1 if passed.over else whole)

    def steps(self, rung: RungName, rising_for_s: float | None, caller: Caller) -> Sequence[Step]:
        """Where a request may go; `rising_for_s` when its server is on the way from that rung."""
        planner = self.planner
        cold = ColdState(
            ready=0,
            free=0.0,
            starting=rising_for_s is not None,
            refusing_for_s=0.0,
            eta_s=planner.eta_s(rung, rising_for_s),
            asleep=rung not in ("off", "hot"),
        )
        api = None
        if planner.economics.api_usd is not None:
            api = ApiState(True, caller.usd)
        terms = planner.terms(caller.held_s, caller.priority, False, rung)  # type: ignore[arg-type]
        return choose(None, cold, api, terms)


class Extra:
    """Satisfies `Holding` for the servers of a model beyond the first one."""

    def __init__(self, keeper: Keeper) -> None:
        self.descent = keeper.extra_descent
        self.woke = keeper.woke

    def early(self) -> tuple[float, float] | None:
        return None
