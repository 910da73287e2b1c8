"""Where one request may go now: the plan, and the lease that the plan's first success gives."""

import math
from collections.abc import Callable, Collection, Iterator

from msgspec import Struct

from backends.cold import ColdModel, ColdView
from backends.endpoint import Endpoint
from backends.fleet import ModelBackends, Snapshot
from backends.lease import (
    Lease,
    NoEndpoint,
    QueueFull,
    StartFailed,
    Unavailable,
    WaitExpired,
)
from backends.pool import Pool
from policies.arrival import ApiState, ColdState, HotState, Priority, Step, choose
from policies.rungs import RungName
from policies.waiting import LONGEST_RETRY_AFTER_S, remaining_start_s, retry_after_s
from router.errors import BudgetSpent, GatewayError, ModelStarting, ModelUnavailable, Saturated
from router.pins import Pin
from router.planner import Planner
from router.planners import Planners


class Place(Struct, frozen=True):
    """One step of the plan, for the model itself or for another one that answers instead.

    `instead_of` is the model whose own start the step weighed: another one's, if it overflows.
    """

    model: str
    step: Step
    backends: ModelBackends
    instead_of: str


class Asked(Struct, frozen=True):
    """What of a request weighs in its placement. `deadline_s` is a time of the clock.

    `overflow` stands in place of the model's own; `affinity` is shared with requests that should
    meet the same server.
    """

    size: int
    deadline_s: float
    priority: Priority = "normal"
    overflow: tuple[str, ...] | None = None
    affinity: str | None = None


class Places:
    """The places for one request. `tried` holds endpoints that failed it already."""

    __slots__ = ("_asked", "_clock", "_model", "_planners", "_snapshot", "tried")

    def __init__(
        self,
        snapshot: Snapshot,
        model: str,
        asked: Asked,
        planners: Planners,
        clock: Callable[[], float],
    ) -> None:
        self.tried: set[Endpoint] = set()
        self._snapshot = snapshot
        self._model = model
        self._asked = asked
        self._planners = planners
        self._clock = clock

    def plan(self) -> Iterator[Place]:
        """In order of preference; for each model by its state when the plan comes to it."""
        for model in self._with_fallbacks():
            for step in self._steps(model):
                if step.kind == "overflow":
                    yield from self._overflow(model, step)
                else:
                    yield self._place(model, step)

    def _steps(self, model: str) -> tuple[Step, ...]:
        backends = self._snapshot.backends[model]
        planner = self._planners.get(model)
        if planner is None:
            return choose(*states(backends, self.tried))
        if planner.allowance.stance == "refusing":
            return ()
        hot, cold, api = states(backends, self.tried, planner)
        if api is not None:
            api = ApiState(api.healthy, planner.expected_usd(self._asked.size))
        left_s = max(self._asked.deadline_s - self._clock(), 0.0)
        overflow = bool(self._overflow_of(model))
        rung: RungName = cold.rung if cold is not None else "off"
        terms = planner.terms(left_s, self._asked.priority, overflow, rung)
        return choose(hot, cold, api, terms)

    def _overflow_of(self, model: str) -> tuple[str, ...]:
        if self._asked.overflow is not None and model == self._model:
            return self._asked.overflow
        return self._snapshot.config.models[model].overflow

    def _overflow(self, model: str, because: Step) -> Iterator[Place]:
        """Places at other models that can answer at once, in the order of the configuration."""
        for other in self._overflow_of(model):
            for step in self._spare_steps(other):
                if _answers_at_once(step, self._snapshot.backends[other]):
                    reason = f"{because.reason}; '{other}' is ready"
                    step = Step(step.kind, False, reason, because.start)
                    yield Place(other, step, self._snapshot.backends[other], model)

    def _spare_steps(self, other: str) -> tuple[Step, ...]:
        """The places of a model for another one's requests: its budgets hold for them too."""
        planner = self._planners.get(other)
        stance = planner.allowance.stance if planner is not None else "normal"
        if stance == "refusing":
            return ()
        hot, cold, api = states(self._snapshot.backends[other], self.tried)
        return choose(hot, cold, api if stance == "normal" else None)

    def cold(self, model: str) -> ColdModel | None:
        return self._snapshot.backends[model].cold

    def status(self) -> str:
        """What a request for this model waits for now."""
        cold = self._snapshot.backends[self._model].cold
        view = cold.view() if cold is not None else None
        if view is None or view.starting_for_s is None:
            return f"waiting model={self._model}"
        left_s = remaining_start_s(view.rise_times_s, view.starting_for_s)
        return f"starting model={self._model} stage={view.state} eta={left_s:.0f}s"

    def wait_s(self) -> float:
        """How long until somebody can begin to answer; inf when nobody can."""
        for place in self.plan():
            if place.step.kind == "cold":
                _, cold, _ = states(place.backends, self.tried, self._planners.get(place.model))
                return cold.eta_s if cold is not None else 0.0
            return 0.0
        return math.inf

    def elsewhere(self, endpoint: Endpoint, *, at_once: bool) -> bool:
        """Whether another endpoint could take over from this one; `at_once` without a start."""
        excluded = self.tried | {endpoint}
        for model in self._with_fallbacks():
            hot, cold, api = states(self._snapshot.backends[model], excluded)
            if at_once and cold is not None and cold.free < 1:
                cold = None
            if any(
                not (at_once and step.wait and step.kind == "hot")
                for step in choose(hot, cold, api)
            ):
                return True
        return False

    def lease_now(self) -> tuple[Place, Lease] | None:
        """A lease that needs no waiting, if the plan begins with such; the usual case."""
        backends = self._snapshot.backends[self._model]
        steps = self._steps(self._model)
        pool = _pool(backends, steps[0]) if steps and not steps[0].wait else None
        lease = pool.try_lease(self.tried, self._asked.affinity) if pool is not None else None
        return (self._place(self._model, steps[0]), lease) if lease is not None else None

    async def lease(self, size: int, deadline_s: float) -> tuple[Place, Lease]:
        """The first lease that the plan gives. Raises the GatewayError that says why none did."""
        refusal: tuple[Place, Unavailable] | None = None
        for place in self.plan():
            try:
                lease = await self._ask(place, size, deadline_s)
            except Unavailable as error:
                refusal = refusal or (place, error)
                continue
            if lease is not None:
                return place, lease
        if refusal is None:
            raise self.nothing_left()
        raise explain(*refusal)

    async def pinned(self, pin: Pin, size: int, deadline_s: float) -> tuple[Place, Lease] | None:
        """A lease at the endpoint that made a stored response; None when it is gone."""
        backends = self._snapshot.backends.get(pin.model)
        if backends is None:
            return None
        try:
            kind, lease = await backends.lease_at(pin.endpoint, size, deadline_s - self._clock())
        except Unavailable:
            return None
        return self._place(pin.model, Step(kind, False, "it made this response")), lease

    def _place(self, model: str, step: Step) -> Place:
        return Place(model, step, self._snapshot.backends[model], model)

    async def _ask(self, place: Place, size: int, deadline_s: float) -> Lease | None:
        backends, step = place.backends, place.step
        timeout_s = max(deadline_s - self._clock(), 0.0)
        if step.kind == "cold":
            assert backends.cold is not None
            return await backends.cold.lease(
                size, timeout_s, frozenset(self.tried), affinity=self._asked.affinity
            )
        pool = _pool(backends, step)
        assert pool is not None
        if step.wait:
            return await pool.lease(size, timeout_s, frozenset(self.tried), self._asked.affinity)
        return pool.try_lease(self.tried, self._asked.affinity)

    def _with_fallbacks(self) -> Iterator[str]:
        """The model, then its fallbacks, then theirs: each once."""
        config = self._snapshot.config
        seen = [self._model]
        for model in seen:
            yield model
            following = (config.resolve(name) for name in config.models[model].fallback)
            seen.extend(m for m in following if m is not None and m not in seen)

    def nothing_left(self) -> GatewayError:
        """What a caller is told for whom there is no place at all."""
        planner = self._planners.get(self._model)
        if planner is not None and planner.allowance.stance == "refusing":
            raised = "raise budget.usd_per_day or wait until midnight UTC"
            return BudgetSpent(
                f"{planner.allowance.reason}; {raised}", retry_after_s=LONGEST_RETRY_AFTER_S
            )
        pools = [p for m in self._with_fallbacks() for p in self._snapshot.backends[m].pools]
        wait_s = min((p.next_probe_s() for p in pools), default=1.0)
        return ModelUnavailable(
            f"no endpoint of model '{self._model}' is healthy",
            code="no_endpoints",
            retry_after_s=retry_after_s(wait_s),
        )


def states(
    backends: ModelBackends, excluded: Collection[Endpoint], planner: Planner | None = None
) -> tuple[HotState | None, ColdState | None, ApiState | None]:
    """What the model has now; with a planner also how long a start or a wake would take."""
    hot = cold = api = None
    if backends.hot is not None:
        pool = backends.hot.view(excluded)
        hot = HotState(pool.healthy, pool.free)
    if backends.cold is not None:
        cold = _cold_state(backends.cold.view(excluded), planner)
    if backends.api is not None:
        api = ApiState(backends.api.view(excluded).healthy > 0)
    return hot, cold, api


def _cold_state(view: ColdView, planner: Planner | None) -> ColdState:
    eta_s = 0.0
    if planner is not None and view.free < 1 and not view.ready:
        eta_s = view.device_wait_s + planner.eta_s(view.rung, view.starting_for_s)
    return ColdState(
        ready=view.ready,
        free=view.free,
        starting=view.starting_for_s is not None,
        refusing_for_s=view.refusing_for_s,
        eta_s=eta_s,
        asleep=view.sleeping > 0,
        rung=view.rung,
    )


def answers_now(backends: ModelBackends) -> bool:
    """Whether a request would be answered without a start and without waiting for room."""
    hot, cold, api = states(backends, ())
    own = hot is not None and hot.free >= 1 or cold is not None and cold.free >= 1
    return own or (api is not None and api.healthy)


def _pool(backends: ModelBackends, step: Step) -> Pool | None:
    """The always-on pool or the outside API that the step means, if it means one."""
    return backends.pool(step.kind) if step.kind != "overflow" else None


def _answers_at_once(step: Step, backends: ModelBackends) -> bool:
    if step.kind == "cold":
        return backends.cold is not None and backends.cold.view().free >= 1
    return not step.wait and step.kind != "overflow"


def explain(place: Place, refusal: Unavailable) -> GatewayError:
    """What a caller is told who got no lease at this place."""
    model = f"model '{place.model}'"
    after_s = retry_after_s(refusal.retry_after_s)
    match refusal:
        case QueueFull():
            return Saturated(f"{model}: {refusal}; try again later", retry_after_s=after_s)
        case WaitExpired(starting=True):
            return _starting(place, refusal)
        case WaitExpired():
            message = f"{model} {refusal}, and this request's time to wait is over"
            return Saturated(message, code="queue_timeout", retry_after_s=after_s)
        case StartFailed():
            return ModelUnavailable(f"{model} {refusal}", retry_after_s=after_s)
        case NoEndpoint():
            message = f"{model}: {refusal}"
            return ModelUnavailable(message, code="no_endpoints", retry_after_s=after_s)
        case _:
            return ModelUnavailable(f"{model} {refusal}", retry_after_s=after_s)


def _starting(place: Place, refusal: WaitExpired) -> ModelStarting:
    cold = place.backends.cold
    view: ColdView | None = cold.view() if cold else None
    left_s = remaining_start_s(view.rise_times_s, view.starting_for_s) if view else None
    if left_s is not None:
        left_s += refusal.retry_after_s or 0.0  # until it has memory to start in
    after_s = retry_after_s(left_s)
    return ModelStarting(
        f"model '{place.model}' {refusal}; about {after_s} s are left. Try again then, "
        "or allow more time (max_wait in the configuration, the timeout in the client)",
        retry_after_s=after_s,
    )
