"""What is measured of all models in one process, and how it reaches the store.

Owns one `Demand` a model, the `Spend` of all, and the `Store`. In a worker process there is no
store and nothing that costs by the hour: what it saw is taken by `take`, for the owner to `learn`.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from msgspec import Struct

from backends.instance import Instance, State
from config.schema import Cold, Config, Model
from router.demand import SAMPLE_EVERY_S, Demand, Totals
from router.labels import Label
from router.record import Record
from router.spend import Rates, Spend
from router.store import Kept, KeptHour, Row, Store, StoreError, Transition
from router.week import Hour

log = logging.getLogger("lamplighter.measures")

TICK_S = 1.0  # spend is as old as this, and a kill -9 loses as much
HOURS_EVERY_S = 60.0
ROWS_TO_TELL = 20_000  # of a worker, in the half second between two reports

_NOTHING = Totals()
_STAGES = (State.PROVISIONING, State.LOADING, State.WARMING, State.READY)


class Seen(Struct):
    """What a worker tells its owner beside its counters."""

    rows: list[Row] = []
    first_tokens: dict[str, list[float]] = {}  # by model, of streams that waited for no start


class Measures:
    """Of one process, beginning at `epoch_s`, seconds since the epoch.

    `on_drop` hears of a stored request that found no room, `on_gap` of an idle gap that is kept.

    `now_s` is seconds of the router's clock; `epoch_s` the same moment on the wall's.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        epoch_s: float,
        on_drop: Callable[[], None] = lambda: None,
        on_gap: Callable[[str, float], None] = lambda model, gap_s: None,
    ) -> None:
        now_s = clock()
        self.demand: dict[str, Demand] = {}
        self.spend = Spend(now_s, epoch_s)
        self.store: Store | None = None
        self._clock = clock
        self._offset_s = epoch_s - now_s
        self._rows: deque[Row] | None = None
        self._api_usd: dict[str, tuple[float, float]] = {}  # per input and output token
        self._api_counted: dict[str, int] = {}
        self._wakes_from: dict[str, str] = {}  # by instance that wakes: the rung
        self._on_drop = on_drop
        self._on_gap = on_gap
        self._sampled_s = -math.inf
        self._hours_kept_s = now_s

    # --- beginning, reloading, ending -----------------------------------------------------------

    def open(self, config: Config, on_error: Callable[[], None]) -> None:
        """Blocking. Take up what an earlier process learnt; without a file all stays in memory.

        `on_error` hears, in any thread, of each time that the file could not be used.
        """
        path = config.store.path
        if path is None:
            return
        store = Store(str(path), config.store.requests, on_error)
        try:
            self._recall(store.open())
        except StoreError as error:
            on_error()
            log.error(
                "the store %s cannot be used: %s. Demand, start times, spend and requests are "
                "kept in memory until the next start",
                path,
                error,
            )
            return
        self.store = store
        store.begin()

    def _recall(self, kept: Kept) -> None:
        for model, gaps in kept.gaps.items():
            for gap_s in gaps:
                self._of(model).gaps.add(gap_s)
        for (model, stage), times_s in kept.starts.items():
            for seconds in times_s:
                self._of(model).started({stage: seconds})
        for each in kept.hours:
            self._of(each.model).week.hours[each.hour] = Hour(
                each.week, each.seconds, each.requests
            )
        self.spend.restore(kept.spend)

    def follow(self, config: Config, *, worker: bool = False) -> None:
        """Measure these models from now on, at these prices."""
        for name in config.models:
            self._of(name)
        self.spend.follow({n: _rates(m) for n, m in config.models.items()}, self._clock())
        self._api_usd = {
            name: (model.api.price.input / 1e6, model.api.price.output / 1e6)
            for name, model in config.models.items()
            if model.api is not None
        }
        keep_s = config.store.requests
        if self.store is not None:
            self.store.keep_s = keep_s
            self._rows = self.store.rows if keep_s > 0 else None
        elif not worker or config.store.path is None or keep_s <= 0:
            self._rows = None
        elif self._rows is None:
            self._rows = deque(maxlen=ROWS_TO_TELL)

    def close(self) -> None:
        """Blocking. Write what waits to be written."""
        if self.store is not None:
            self._keep_hours(self.store)
            self.store.close()

    def _of(self, model: str) -> Demand:
        demand = self.demand.get(model)
        if demand is None:
            demand = self.demand[model] = Demand()
        return demand

    # --- at each request ------------------------------------------------------------------------

    def arrived(self, record: Record) -> None:
        now_s = record.since_s
        gap_s = self.demand[record.model].arrived(now_s)
        if gap_s is not None:
            self._on_gap(record.model, gap_s)
            if self.store is not None:
                self.store.gap(now_s + self._offset_s, record.model, gap_s)

    def finished(self, record: Record) -> None:
        """A request that arrived has ended, at `record.ended_s`; notes what an API charged."""
        demand = self.demand[record.model]
        assert record.ended_s is not None
        demand.finished(record.ended_s)
        if record.first_token_s is not None:
            demand.first_token(record.first_token_s - record.since_s, cold=record.cold_start)
        usage = record.usage
        if usage is not None and record.placement == "api":
            per_input, per_output = self._api_usd.get(record.answered_by, (0.0, 0.0))
            record.usd = usage.input * per_input + usage.output * per_output
        if self._rows is not None:
            self._keep(self._rows, _row(record, self._offset_s))

    def _keep(self, rows: deque[Row], row: Row) -> None:
        if len(rows) == rows.maxlen:
            self._on_drop()
        rows.append(row)

    def label(self, label: Label) -> None:
        """Something was learned of a cascade."""
        if self.store is not None:
            self.store.label(label)

    # --- of instances ---------------------------------------------------------------------------

    def instance_changed(self, model: str, instance: Instance, state: State) -> Mapping[str, float]:
        """The stages of the start or of the wake that ended with this state, in seconds."""
        id, rung, now_s = instance.id, instance.rung, self._clock()
        self.spend.instance_changed(model, id, state.value, rung, now_s)
        if self.store is not None:
            at_s = now_s + self._offset_s
            self.store.transition(Transition(at_s, model, id, state.value, rung))
        from_rung = self._wakes_from.pop(id, None)
        if state is State.WAKING:
            self._wakes_from[id] = rung
        if state is not State.READY:
            return {}
        if instance.endpoint is not None:
            instance.endpoint.on_busy = partial(self._busy, id)
        stages = _start(instance) if from_rung is None else {from_rung: now_s - instance.rose_s}
        self._of(model).started(stages)
        if self.store is not None:
            for stage, seconds in stages.items():
                self.store.start(now_s + self._offset_s, model, stage, seconds)
        return stages

    # --- now and then ---------------------------------------------------------------------------

    def take(self, epoch_s: float) -> Seen:
        """In a worker: what was seen since this was asked last."""
        self._offset_s = epoch_s - self._clock()
        rows = list(self._rows or ())
        if self._rows is not None:
            self._rows.clear()
        taken = ((model, demand.take_first_tokens()) for model, demand in self.demand.items())
        return Seen(rows, {model: times_s for model, times_s in taken if times_s})

    def learn(self, seen: Seen) -> None:
        """In the owner: what a worker saw."""
        for model, times_s in seen.first_tokens.items():
            for after_s in times_s:
                self._of(model).first_token(after_s, cold=False)
        if self._rows is not None:
            for row in seen.rows:
                self._keep(self._rows, row)

    def tick(self, epoch_s: float, api_pico: Mapping[str, int]) -> None:
        """Every second. `api_pico` is what APIs charged so far, in picodollars by model."""
        now_s = self._clock()
        self._offset_s = epoch_s - now_s
        for model, pico in api_pico.items():
            self.spend.api(model, pico - self._api_counted.get(model, 0), now_s)
            self._api_counted[model] = pico
        self.spend.settle(now_s, epoch_s)
        if self.store is None:
            self.spend.take_unsaved()
        elif not self.store.behind:
            for amount in self.spend.take_unsaved():
                self.store.spent(amount)
            self.store.hurry()

    @property
    def sample_due(self) -> bool:
        return self._clock() - self._sampled_s >= SAMPLE_EVERY_S

    def sample(
        self, epoch_s: float, totals: Mapping[str, Totals], elsewhere: Callable[[str], int]
    ) -> None:
        """Note the counters of all processes; `elsewhere` gives a model's requests in others."""
        self._sampled_s = now_s = self._clock()
        for model, demand in self.demand.items():
            demand.sample(now_s, epoch_s, totals.get(model, _NOTHING), elsewhere(model))
        store = self.store
        if store is not None and not store.behind and now_s - self._hours_kept_s >= HOURS_EVERY_S:
            self._hours_kept_s = now_s
            self._keep_hours(store)

    def _keep_hours(self, store: Store) -> None:
        for model, demand in self.demand.items():
            for number in demand.week.take_changed():
                hour = demand.week.hours[number]
                store.hour(KeptHour(model, number, hour.week, hour.seconds, hour.requests))

    def _busy(self, instance_id: str, busy: bool) -> None:
        self.spend.busy(instance_id, busy, self._clock())


def _rates(model: Model) -> Rates:
    always_on = sum(item.gpu_hour for item in model.hot.urls) if model.hot is not None else 0.0
    if model.cold is None:
        return Rates(always_on=always_on)
    return Rates(model.cold.gpu_hour, _asleep(model.cold), always_on)


def _asleep(cold: Cold) -> dict[str, float]:
    levels = {"sleep_1": cold.sleep.level_1, "sleep_2": cold.sleep.level_2}
    return {rung: level.share for rung, level in levels.items() if level is not None}


def _start(instance: Instance) -> dict[str, float]:
    """Seconds of each stage of a start, and of the whole of it; empty for one that slept."""
    reached = instance.reached
    if State.SLEEPING in reached:  # it turned back before it slept
        return {}
    known = [(stage, reached[stage]) for stage in _STAGES if stage in reached]
    stages = {s.value: b - a for (s, a), (_, b) in zip(known, known[1:], strict=False)}
    return {**stages, "total": reached[State.READY] - instance.began_s}


def _row(record: Record, offset_s: float) -> Row:
    usage, first_s, since_s = record.usage, record.first_token_s, record.since_s
    return Row(
        since_s + offset_s,
        record.model,
        usage.input if usage is not None else None,
        usage.output if usage is not None else None,
        usage.cached if usage is not None else None,
        record.priority,
        record.deadline_s,
        (record.ended_s or since_s) - since_s,
        record.placement,
        record.cold_start,
        record.waited_s,
        first_s - since_s if first_s is not None else None,
        record.usd,
        record.outcome,
        record.answered_by,
        "; ".join(record.reasons),
        record.bytes_in,
        record.asked,
    )
