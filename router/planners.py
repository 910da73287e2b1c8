"""The planners of a gateway: kept over reloads, told what happens, asked for decisions."""

from collections.abc import Callable, Sequence

from backends.holding import Rung
from backends.instance import Instance, State
from config.schema import Config
from policies.rungs import RungName
from router.demand import Demand
from router.economics import economics
from router.planner import Planner
from router.record import Record


class Planners:
    """One planner for each model that is started on demand or has a budget.

    What else there is needs no decision over time, and pays nothing for it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_model: dict[str, Planner] = {}
        self._woken_from: dict[str, Rung] = {}  # by instance, while it wakes

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
            planner.arrived(record.received_s)

    def finished(self, record: Record) -> None:
        """A request that arrived has ended, at `record.ended_s`."""
        planner = self._by_model.get(record.model)
        if planner is not None and record.ended_s is not None:
            usage = record.usage
            tokens = (usage.input, usage.output) if usage is not None else (0, 0)
            planner.finished(record.ended_s, *tokens)

    def instance_changed(self, model: str, instance: Instance, state: State) -> None:
        """Learn how long starts and wakes take."""
        if state is State.WAKING:
            self._woken_from[instance.id] = instance.rung
        elif state is State.READY:
            rung = self._woken_from.pop(instance.id, "off")
            planner = self._by_model.get(model)
            if planner is not None:
                planner.woke(rung, instance.reached[State.READY] - instance.rose_s)
        else:
            self._woken_from.pop(instance.id, None)


def recall(planner: Planner, demand: Demand) -> None:
    """Let a new planner know what an earlier process has learned."""
    stages: dict[RungName, str] = {"off": "total", "sleep_1": "sleep_1", "sleep_2": "sleep_2"}
    wakes_s = {rung: tuple(demand.starts.get(stage, ())) for rung, stage in stages.items()}
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
