"""Models as somebody says that they are, for explaining what would become of a request then.

Satisfies what `Places` looks at, with no server behind it: nothing here can be leased or started.
A model of which nothing is said is as at rest: always-on servers and outside APIs answer, and what
is started on demand is off.
"""

import math
from collections.abc import Collection, Mapping
from typing import Literal, get_args

from msgspec import Struct

from backends.cold import ColdModel, ColdView
from backends.endpoint import Endpoint
from backends.fleet import ModelBackends, Snapshot
from backends.holding import Rung
from backends.instance import State
from backends.lease import Room
from backends.pool import Pool, PoolView
from config.schema import Config
from config.sources import Cold, Hot
from router.judges import Judge
from router.planners import Planners
from router.routing import NOBODY, Router

Stated = Literal["ready", "full", "starting", "asleep", "off", "failed"]
STATES: tuple[Stated, ...] = get_args(Stated)
REFUSING_S = 30.0  # what is left of the pause after a start that failed


class Impossible(Exception):
    """A model cannot be in that state; the message says why, for people."""


class StatedPool(Pool):
    """Endpoints of which only the view is there."""

    def __init__(self, healthy: int, free: float) -> None:
        super().__init__((), Room(0, 0), _no_time)
        self._view = PoolView(healthy, free)

    def view(self, excluding: Collection[Endpoint] = ()) -> PoolView:
        return self._view


class StatedCold(ColdModel):
    """A cold model of which only the view is there; it has no task, so nothing ever happens."""

    def __init__(self, view: ColdView) -> None:
        self._view = view

    def view(self, excluding: Collection[Endpoint] = ()) -> ColdView:
        return self._view


class StatedFleet(Struct, frozen=True):
    """Satisfies `router.routing.Served`."""

    snapshot: Snapshot


def stated_router(
    config: Config,
    judges: Mapping[str, Judge],
    states: Mapping[str, Stated],
    epoch_s: float,
) -> Router:
    """A router over models in these states, that has seen no request. Raises Impossible."""
    backends = {name: _backends(config, name, states.get(name)) for name in config.models}
    planners = Planners(_no_time)
    planners.follow(config)
    fleet = StatedFleet(Snapshot(config, backends))
    router = Router(
        fleet,
        _no_time,
        lambda: epoch_s,
        planners,
        lambda model: 0.0,
        NOBODY,
    )
    router.follow(config, judges)
    return router


def _backends(config: Config, name: str, state: Stated | None) -> ModelBackends:
    model = config.models[name]
    own = model.hot is not None or model.cold is not None
    if state is not None:
        _check(name, state, model.hot, model.cold)
    api = None
    if model.api is not None:
        down = state == "off" and not own  # a state is that of the model's own servers, if any
        api = StatedPool(0, 0.0) if down else StatedPool(1, math.inf)
    return ModelBackends(
        Room(0, 0),
        hot=_hot(model.hot, state) if model.hot is not None else None,
        cold=_cold(model.cold, state, model.hot is not None) if model.cold is not None else None,
        api=api,
    )


def _check(name: str, state: Stated, hot: Hot | None, cold: Cold | None) -> None:
    if state in ("starting", "asleep", "failed") and cold is None:
        raise Impossible(f"model '{name}' has no 'cold' part, so it cannot be {state}")
    if state == "asleep" and cold is not None and _sleep_rung(cold) is None:
        raise Impossible(f"model '{name}' has no cold.sleep, so it cannot be asleep")
    if state == "full" and hot is None and cold is None:
        raise Impossible(f"model '{name}' has only an outside API, which is never full")


def _hot(hot: Hot, state: Stated | None) -> StatedPool:
    """Down, unless it is said to be full or ready, or nothing is said."""
    if state == "full":
        return StatedPool(len(hot.urls), 0.0)
    if state not in (None, "ready"):
        return StatedPool(0, 0.0)
    limits = [url.max_concurrency for url in hot.urls]
    free = math.inf if None in limits else float(sum(limit or 0 for limit in limits))
    return StatedPool(len(hot.urls), free)


def _cold(cold: Cold, state: Stated | None, has_hot: bool) -> StatedCold:
    """Off, unless something is said; ready servers are always-on ones where there are such."""
    if state in ("ready", "full") and has_hot:
        state = "off"
    sleeps = _sleep_rung(cold)
    most = math.inf if cold.max_concurrency is None else float(cold.max_concurrency)
    ready = state in ("ready", "full")
    rung: Rung = "hot" if ready else (sleeps or "off") if state == "asleep" else "off"
    return StatedCold(
        ColdView(
            state=_STATES[state or "off"],
            ready=int(ready),
            free=most if state == "ready" else 0.0,
            starting_for_s=0.0 if state == "starting" else None,
            start_times_s=(),
            refusing_for_s=REFUSING_S if state == "failed" else 0.0,
            failure="its last start failed" if state == "failed" else None,
            in_flight=0,
            waiting=0,
            sleeping=int(state == "asleep"),
            rung=rung,
            wake_times_s={},
            rungs=("hot", *_sleep_rungs(cold), "off"),
        )
    )


_STATES: Mapping[Stated, State] = {
    "ready": State.READY,
    "full": State.READY,
    "starting": State.PROVISIONING,
    "asleep": State.SLEEPING,
    "off": State.OFF,
    "failed": State.FAILED,
}


def _sleep_rungs(cold: Cold) -> tuple[Rung, ...]:
    levels: dict[Rung, object] = {"sleep_1": cold.sleep.level_1, "sleep_2": cold.sleep.level_2}
    return tuple(rung for rung, level in levels.items() if level is not None)


def _sleep_rung(cold: Cold) -> Rung | None:
    """The level from which it wakes the soonest."""
    return next(iter(_sleep_rungs(cold)), None)


def _no_time() -> float:
    return 0.0
