"""The planners of a gateway: kept over reloads, told what happens, asked for decisions."""

from collections.abc import Callable, Mapping, Sequence

from backends.holding import Rung
from config.schema import Config
from policies.rungs import RungName
from router.demand import Demand
from router.economics import economics
from router.planner import Planner
from router.record import Record

# The whole of a start or of a wake, by the rung that it leaves.
_STAGES: Mapping[RungName, str] = {"off": "total", "sleep_1": "sleep_1", "sleep_2": "sleep_2"}


class Planners:
    """One planner for each model that is started on demand or has a budget.

    What else there is needs no decision over time, and pays nothing for it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_model: dict[str, Planner] = {}

    def follow(self, config: Config) -> None:
        """A new configuration: what was learned of a model stays as long as the model does."""
        kept: dict[str, Planner] = {}
        for name, model in config.models.items():
            if model.cold is None and not config.is_budgeted(name):
                continue
            facts, planner = economics(config, name), self._by_model.get(name)
            if planner is None:
                planner = Planner(facts, self._clock())
            else:
                planner.reconfigure(facts)
            kept[name] = planner
        self._by_model = kept

    def get(self, model: str) -> Planner | None:
        return self._by_model.get(model)

    def items(self) -> Sequence[tuple[str, Planner]]:
        return list(self._by_model.items())

    def holding(self, model: str) -> "PlannedHolding":
        """What the states of a cold model ask when it falls idle."""
        return PlannedHolding(self, model)

    def arrived(self, record: Record) -> None:
        planner = self._by_model.get(record.model)
        if planner is not None:
            planner.arrived(record.since_s)

    def finished(self, record: Record) -> None:
        """A request that arrived has ended, at `record.ended_s`."""
        planner = self._by_model.get(record.model)
        if planner is not None and record.ended_s is not None:
            usage = record.usage
            tokens = (usage.input, usage.output) if usage is not None else (0, 0)
            planner.finished(record.ended_s, *tokens)

    def rose(self, model: str, stages_s: Mapping[str, float]) -> None:
        """Learn from the stages of a start or a wake, as `Measures.instance_changed` gives them."""
        planner = self._by_model.get(model)
        if planner is not None:
            for rung, stage in _STAGES.items():
                if stage in stages_s:
                    planner.woke(rung, stages_s[stage])


def recall(planner: Planner, demand: Demand) -> None:
    """Let a new planner know what an earlier process has learned."""
    wakes_s = {rung: tuple(demand.starts.get(stage, ())) for rung, stage in _STAGES.items()}
    planner.recall(demand.gaps.values(), {rung: times for rung, times in wakes_s.items() if times})


class PlannedHolding:
    """Satisfies `backends.holding.Holding`."""

    def __init__(self, planners: Planners, model: str) -> None:
        self._planners = planners
        self._model = model

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        planner = self._planners.get(self._model)
        if planner is None:
            return ()
        several = planner.active and planner.economics.max_instances > 1
        return (planner.extra_descent() if several else planner.descent()).steps
