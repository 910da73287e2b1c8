"""The models that may answer a request, each with its state, its price and its wait, as of now."""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from backends.fleet import ModelBackends, Snapshot
from backends.instance import State as InstanceState
from config.policy import Use
from config.schema import Config
from policies.arrival import ApiState, ColdState, HotState
from policies.facts import Count
from router.explanation import Candidate, HowGuessed, Role, State, Way
from router.places import states
from router.planner import OUTPUT_GUESS, Planner
from router.planners import Planners
from router.prices import Prices

Named = tuple[str, Role, float | None]  # a model, what it is there for, its share of a split


def named(config: Config, model: str, use: Use | None, overflow: tuple[str, ...]) -> list[Named]:
    """Each model once: those of `use`, then the fallbacks of `model`, then who answers for those.

    `overflow` is that of `model`.
    """
    found: dict[str, Named] = {}
    for each in (*_used(model, use), *_others(config, model, overflow)):
        found.setdefault(each[0], each)
    return list(found.values())


def _used(model: str, use: Use | None) -> Iterator[Named]:
    if use is not None and use.split is not None:
        total = sum(item.weight for item in use.split)
        yield from ((item.model, "split", item.weight / total) for item in use.split)
    elif use is not None and use.cascade is not None:
        small, large = use.cascade
        yield from ((small, "small", None), (large, "large", None))
    else:
        yield model, "model", None


def _others(config: Config, model: str, overflow: tuple[str, ...]) -> Iterator[Named]:
    seen = [model]
    for each in seen:
        following = (config.resolve(name) for name in config.models[each].fallback)
        seen.extend(name for name in following if name is not None and name not in seen)
    yield from ((name, "fallback", None) for name in seen[1:])
    others = (name for each in seen[1:] for name in config.models[each].overflow)
    yield from ((name, "overflow", None) for name in (*overflow, *others))


class AnswerTokens(Struct, frozen=True):
    """What is known of an answer's length: its tokens, or the most that the caller allows."""

    count: int | None
    how: Literal["known", "max_tokens"]


class Candidates:
    """Reads the states of models; changes nothing of them."""

    def __init__(self, snapshot: Snapshot, planners: Planners) -> None:
        self._snapshot = snapshot
        self._planners = planners
        self._prices = Prices(snapshot.config, planners)

    def candidate(
        self, model: str, role: Role, weight: float | None, prompt: Count, answer: AnswerTokens
    ) -> Candidate:
        planner = self._planners.get(model)
        expected, guessed_by = self._output(model, answer)
        input_tokens, output_tokens = float(prompt.tokens), float(expected)
        ways = tuple(_ways(self._snapshot.backends[model], planner))
        own = [way for way in ways if way.kind != "api"] or list(ways)
        soonest = min(own, key=lambda way: (way.wait_s is None, way.wait_s))
        return Candidate(
            model=model,
            role=role,
            weight=weight,
            state=soonest.state,
            wait_s=soonest.wait_s,
            usd=self._prices.expected_usd(model, input_tokens, output_tokens),
            priced_by=self._prices.basis(model),
            api_usd=self._prices.api_usd(model, input_tokens, output_tokens),
            gpu_s=_gpu_s(planner, input_tokens, output_tokens),
            start_usd=_start_usd(self._snapshot.backends[model], planner, soonest),
            input_tokens=prompt.tokens,
            counted_by=prompt.how,
            output_tokens=expected,
            guessed_by=guessed_by,
            ways=ways,
        )

    def _output(self, model: str, answer: AnswerTokens) -> tuple[int, HowGuessed]:
        if answer.count is not None and answer.how == "known":
            return answer.count, "known"
        mean = self._prices.output_tokens(model, None)
        expected = self._prices.output_tokens(model, answer.count)
        if expected < mean:
            return round(expected), "max_tokens"
        return round(mean), "guess" if mean == OUTPUT_GUESS else "mean"


def _gpu_s(planner: Planner | None, input_tokens: float, output_tokens: float) -> float | None:
    if planner is None or not planner.economics.has_cold:
        return None
    return planner.economics.service_s(input_tokens, output_tokens)


def _start_usd(backends: ModelBackends, planner: Planner | None, soonest: Way) -> float:
    """0 for what is ready or on its way."""
    if planner is None or backends.cold is None or soonest.kind != "cold":
        return 0.0
    if soonest.state not in ("off", "asleep"):
        return 0.0
    return planner.wake_mean_s(backends.cold.view().rung) * planner.economics.hold_usd_s


def _ways(backends: ModelBackends, planner: Planner | None) -> Iterator[Way]:
    hot, cold, api = states(backends, frozenset(), planner)
    if hot is not None:
        yield _way("hot", _pool_state(hot), 0.0)
    if cold is not None and backends.cold is not None:
        state = _cold_state(cold, backends.cold.view().state)
        yield _way("cold", state, cold.eta_s)
    if api is not None:
        yield _way("api", _pool_state(api), 0.0)


def _way(kind: Literal["hot", "cold", "api"], state: State, wait_s: float) -> Way:
    """Nobody can tell when a server that is full has room, or one that is down answers again."""
    unknown = state in ("full", "down", "failed")
    return Way(kind, state, None if unknown else wait_s)


def _pool_state(pool: HotState | ApiState) -> State:
    if isinstance(pool, ApiState):
        return "ready" if pool.healthy else "down"
    if not pool.healthy:
        return "down"
    return "ready" if pool.free >= 1 else "full"


def _cold_state(cold: ColdState, nearest: InstanceState) -> State:
    if cold.refusing_for_s > 0:
        return "failed"
    if cold.ready:
        return "ready" if cold.free >= 1 else "full"
    if cold.starting:
        return "waking" if nearest is InstanceState.WAKING else "starting"
    if cold.asleep:
        return "asleep"
    return "draining" if nearest is InstanceState.DRAINING else "off"
