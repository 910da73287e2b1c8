"""Models and instances as JSON: for callers in /v1/models, for operators in /admin/models."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from backends.cold import ColdModel
from backends.endpoint import Endpoint
from backends.fleet import ModelBackends, Snapshot
from backends.instance import Instance
from config.schema import Config
from policies.waiting import remaining_start_s
from router.demand import quantiles
from router.measures import Measures
from router.planner import Planner
from router.spend import Spend

CREATED = 1_700_000_000  # the API wants a number; a model of ours has no date of its own


def placements(backends: ModelBackends) -> list[str]:
    """Where the model can be answered, in the order in which it is tried."""
    parts = {"hot": backends.hot, "cold": backends.cold, "api": backends.api}
    return [name for name, part in parts.items() if part is not None]


def state(backends: ModelBackends) -> str:
    """One word: hot, a cold model's state, api, or unhealthy."""
    if backends.hot is not None and backends.hot.view().healthy:
        return "hot"
    if backends.cold is not None:
        return backends.cold.view().state.value
    if backends.api is not None:
        return "api"
    return "unhealthy"


def model_object(snapshot: Snapshot, name: str, shown_as: str | None = None) -> dict[str, Any]:
    """OpenAI's model object, with fields of ours that every SDK lets through."""
    backends = snapshot.backends[name]
    return {
        "id": shown_as or name,
        "object": "model",
        "created": CREATED,
        "owned_by": "lamplighter",
        "aliases": list(snapshot.config.models[name].aliases),
        "state": state(backends),
        "placement": placements(backends),
    }


def policy_object(config: Config, name: str, shown_as: str | None = None) -> dict[str, Any]:
    """A policy as callers see it: a model that stands for others."""
    policy = config.policies[name]
    uses = (rule.use.models for rule in policy.first_match if rule.use is not None)
    return {
        "id": shown_as or name,
        "object": "model",
        "created": CREATED,
        "owned_by": "lamplighter",
        "aliases": list(policy.aliases),
        "policy": True,
        "models": sorted({model for models in uses for model in models}),
    }


def model_state(
    snapshot: Snapshot,
    name: str,
    now_s: float,
    in_flight: int,
    waiting: int,
    measures: Measures,
    planner: Planner | None,
) -> dict[str, Any]:
    """All that an operator may want to know of a model. Durations in seconds."""
    backends = snapshot.backends[name]
    cold = backends.cold
    return {
        "model": name,
        "served_as": snapshot.config.served_as(name),
        "state": state(backends),
        "placement": placements(backends),
        "in_flight": in_flight,
        "waiting": waiting,
        "endpoints": [_endpoint(e, now_s) for pool in backends.pools for e in pool.endpoints],
        "instances": instances(cold, now_s) if cold is not None else [],
        "start": _start(cold) if cold is not None else None,
        "demand": demand(measures, name, now_s, in_flight + waiting, whole=False),
        "spend_today_usd": spent_on(measures.spend, measures.spend.today).get(name, {}),
        "decisions": _decisions(planner, now_s) if planner is not None else None,
    }


def _decisions(planner: Planner, now_s: float) -> dict[str, Any]:
    """What would happen next without a request, and why. USD per hour, delay included."""
    placement, descent, early = planner.placement, planner.descent(), planner.prestart()
    prospects = planner.prospects()
    return {
        "placement": {
            "name": placement.name,
            "for_s": round(now_s - placement.since_s, 3),
            "reason": placement.reason,
            "usd_per_hour": {n: round(p.total_usd_per_hour, 6) for n, p in prospects.items()},
        },
        "descent": {
            "steps": [{"after_s": round(after_s, 3), "rung": r} for after_s, r in descent.steps],
            "reason": descent.reason,
        },
        "early_start": _rounded(msgspec.to_builtins(early)) if early is not None else None,
        "budget": msgspec.to_builtins(planner.allowance),
    }


def demand(
    measures: Measures, name: str, now_s: float, requests: int, *, whole: bool = True
) -> dict[str, Any]:
    """What was measured of a model's demand; without every gap and hour unless `whole`.

    `requests` are those in flight and waiting in all processes.
    """
    kept = measures.demand[name]
    snapshot = kept.snapshot(now_s, max(requests - kept.in_progress, 0))
    found: dict[str, Any] = _rounded(msgspec.to_builtins(snapshot))
    gaps = snapshot.gaps
    found["gap"] = _rounded(msgspec.to_builtins(quantiles(gaps))) if gaps else None
    return found if whole else {k: v for k, v in found.items() if k not in ("gaps", "hours")}


def spent_on(spend: Spend, day: int) -> dict[str, dict[str, float]]:
    """USD by model and kind; `day` is counted since the epoch."""
    return {
        model: {kind: round(usd, 9) for kind, usd in by_kind.items()}
        for model, by_kind in spend.day_usd(day).items()
    }


def spend(spend: Spend) -> dict[str, Any]:
    """Every day of the last month in which something was spent, newest first."""
    days = []
    for day in reversed(spend.days):
        by_model = spent_on(spend, day)
        usd = sum(sum(by_kind.values()) for by_kind in by_model.values())
        date = datetime.fromtimestamp(day * 86400, UTC).date().isoformat()
        days.append({"day": date, "usd": round(usd, 9), "models": by_model})
    return {"today_usd": round(spend.today_usd(), 9), "days": days}


def _rounded(value: Any) -> Any:
    """The same with every float to the microsecond, for people."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def _endpoint(endpoint: Endpoint, now_s: float) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.origin.url,
        "healthy": endpoint.breaker.allows(now_s),
        "in_flight": endpoint.in_flight,
        "max_concurrency": endpoint.max_concurrency,
        "weight": endpoint.weight,
    }


def instances(cold: ColdModel, now_s: float) -> list[dict[str, Any]]:
    return [_instance(i, now_s) for i in cold.lifecycle.instances.values()]


def _instance(instance: Instance, now_s: float) -> dict[str, Any]:
    return {
        "id": instance.id,
        "state": instance.state.value,
        "rung": instance.nearest_rung,
        "url": instance.endpoint.origin.url if instance.endpoint else None,
        "in_flight": instance.in_flight,
        "age_s": round(now_s - instance.began_s, 3),
        "stages_s": {
            stage.value: round(at_s - instance.began_s, 3)
            for stage, at_s in instance.reached.items()
        },
    }


def _start(cold: ColdModel) -> dict[str, Any]:
    view = cold.view()
    return {
        "estimate_s": round(remaining_start_s(view.rise_times_s, view.starting_for_s), 3),
        "last_s": [round(t, 3) for t in view.start_times_s],
        "wakes_s": {r: [round(t, 3) for t in times] for r, times in view.wake_times_s.items()},
        "failure": view.failure,
        "refusing_for_s": round(view.refusing_for_s, 3),
    }
