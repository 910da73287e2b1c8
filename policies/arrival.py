"""Where one request goes: the places to try, in order, each with its reason.

What is ready comes first, unless the model is placed at an outside API: then the API does, so
that its own servers fall idle and go. When a start would be needed, the caller's time and money
decide: hold if the start will be over in time, else pay somebody else, and start when what was
paid so is worth a start ("rent before you buy": at most twice what one who knew the demand would
have paid).
"""

import math
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from policies.budget import NORMAL, Allowance
from policies.placement import PlacementName
from policies.rungs import RungName

Kind = Literal["hot", "cold", "api", "overflow"]
Priority = Literal["low", "normal", "high"]


class HotState(Struct, frozen=True):
    """A hot pool now: healthy endpoints, and free places among them (`inf` without a limit)."""

    healthy: int
    free: float


class ColdState(Struct, frozen=True):
    """A cold model now. `refusing_for_s` > 0 after a start that failed for good.

    `eta_s` is the 90th percentile of the time until an instance is ready, whether one starts
    already or not; `asleep` says that one need only be woken, `rung` where the nearest one is.
    """

    ready: int
    free: float
    starting: bool
    refusing_for_s: float
    eta_s: float = 0.0
    asleep: bool = False
    rung: RungName = "off"


class ApiState(Struct, frozen=True):
    """An outside API now. `usd` is what this request would likely cost there."""

    healthy: bool
    usd: float = 0.0


class Terms(Struct, frozen=True):
    """What weighs for one request of a model.

    `left_s` is how long its caller may still be held. `overspent_usd` went to others since the
    last start because no instance was ready in time; `start_usd` is what one start costs.
    """

    left_s: float = math.inf
    priority: Priority = "normal"
    placement: PlacementName = "on_demand"
    allowance: Allowance = NORMAL
    overspent_usd: float = 0.0
    start_usd: float = 0.0
    overflow: bool = False  # whether another model may answer meanwhile


class Step(Struct, frozen=True):
    """One place to ask for a lease, and why.

    `wait` says whether to queue there for room. `start` says whether to start an instance of the
    model's own meanwhile; None when that was not weighed.
    """

    kind: Kind
    wait: bool
    reason: str
    start: bool | None = None


PLAIN = Terms()


def choose(
    hot: HotState | None, cold: ColdState | None, api: ApiState | None, terms: Terms = PLAIN
) -> tuple[Step, ...]:
    """The places to try, in order; None stands for what the model does not have.

    Empty when nothing can answer: then no endpoint is healthy and nothing can be started.
    """
    steps: list[Step] = []
    if hot is not None and hot.free >= 1:
        steps.append(_hot_with_room(hot.healthy))
    steps.extend(_cold_and_others(hot, cold, api, terms))
    if hot is not None and hot.free < 1 and hot.healthy:
        steps.append(Step("hot", True, "every always-on endpoint is full: wait for a place"))
    if not steps and cold is not None:
        steps.append(Step("cold", True, "its last start failed: ask it for the reason"))
    return tuple(steps)


@lru_cache(maxsize=1024)  # what nearly every request gets
def _hot_with_room(healthy: int) -> Step:
    return Step("hot", False, f"{healthy} healthy always-on endpoint(s) with room")


def _cold_and_others(
    hot: HotState | None, cold: ColdState | None, api: ApiState | None, terms: Terms
) -> list[Step]:
    others = _others(cold, api, terms)
    if cold is None or cold.refusing_for_s > 0:
        only_api = hot is None and cold is None
        why = "nothing of its own is configured" if only_api else "nothing of its own can answer"
        return [_because(kind, why) for kind in others]
    if terms.placement == "api" and "api" in others:
        why = "the outside API is cheaper at this demand"
        return [*(_because(kind, why) for kind in others), _cold(hot, cold)]
    if cold.free >= 1:
        return [Step("cold", True, _why_ready(hot, cold)), *map(_because, others)]
    if cold.eta_s <= terms.left_s or not others or cold.ready:
        return [Step("cold", True, _why_hold(hot, cold, terms)), *map(_because, others)]
    start, why = _rent_or_buy(cold, api if "api" in others else None, terms)
    return [*(_because(kind, why, start) for kind in others), _cold(hot, cold)]


def _others(cold: ColdState | None, api: ApiState | None, terms: Terms) -> list[Kind]:
    """Who else could answer.

    Near the budget the API only when it is all that there is, or what the model is placed at.
    """
    kinds: list[Kind] = []
    startable = cold is not None and cold.refusing_for_s <= 0
    avoided = terms.allowance.stance != "normal" and startable and terms.placement != "api"
    if api is not None and api.healthy and not avoided:
        kinds.append("api")
    if terms.overflow:
        kinds.append("overflow")
    return kinds


def _because(kind: Kind, why: str = "", start: bool | None = None) -> Step:
    """A step to somebody else."""
    to = "to the outside API" if kind == "api" else "to another model that is ready"
    return Step(kind, False, f"{to}: {why}" if why else to, start)


def _cold(hot: HotState | None, cold: ColdState) -> Step:
    why = _why_ready(hot, cold) if cold.free >= 1 else _why_cold(hot, cold)
    return Step("cold", True, why)


def _rent_or_buy(cold: ColdState, api: ApiState | None, terms: Terms) -> tuple[bool, str]:
    """Whether to start meanwhile, and why the request goes elsewhere; no `api` if to a model."""
    late = f"a start needs {cold.eta_s:.3g} s (p90) and the caller has {terms.left_s:.3g} s"
    if cold.starting:
        return False, f"{late}; it is on its way"
    if terms.priority == "high":
        return True, f"{late}; high priority: start at once"
    if terms.placement == "always_on":
        return True, f"{late}; the model is to be always on"
    if api is None:
        return True, f"{late}; start meanwhile"
    spent_usd = terms.overspent_usd + api.usd
    worth = f"{spent_usd:.3g} USD went elsewhere, a start costs {terms.start_usd:.3g}"
    if spent_usd >= terms.start_usd:
        return True, f"{late}; {worth}: start"
    return False, f"{late}; {worth}: do not start yet"


def _why_hold(hot: HotState | None, cold: ColdState, terms: Terms) -> str:
    why = _why_cold(hot, cold)
    if cold.ready or math.isinf(terms.left_s) or cold.eta_s > terms.left_s:
        return why
    return f"{why}; {cold.eta_s:.3g} s (p90), the caller has {terms.left_s:.3g} s"


def _instead(hot: HotState | None) -> str:
    if hot is None:
        return ""
    return "always-on endpoints are full: " if hot.healthy else "no always-on endpoint: "


def _why_ready(hot: HotState | None, cold: ColdState) -> str:
    return f"{_instead(hot)}{cold.ready} instance(s) ready with room"


def _why_cold(hot: HotState | None, cold: ColdState) -> str:
    if cold.ready:
        return f"{_instead(hot)}instances are full"
    if cold.starting:
        return f"{_instead(hot)}an instance is starting"
    return f"{_instead(hot)}{'asleep: wake it' if cold.asleep else 'off: start an instance'}"
