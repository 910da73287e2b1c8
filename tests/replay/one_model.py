"""One cold model of a gateway under a simulated clock: the real parts that decide, no server.

Lifecycle, planner, upkeep and the choice of places are the gateway's own; launches, wakes and
answers only take time. What was decided is written down.
"""

import asyncio
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from types import SimpleNamespace
from typing import Any

from backends.endpoint import Endpoint
from backends.fleet import Snapshot
from backends.holding import Rung
from backends.instance import ColdSettings, Instance, State
from backends.lease import Lease, Room, Waiter, WaitQueue
from backends.lifecycle import Lifecycle
from backends.upstream import Origin
from backends.view import view
from config.load import parse
from load_tests.agreement.decisions import Decisions, Event, Served
from load_tests.agreement.replayed import Rise
from policies.arrival import Priority, Step
from router.measures import Measures
from router.places import Asked, Places
from router.planners import Planners
from router.record import Record
from router.upkeep import Upkeep
from router.usage import Usage

MODEL = "m"
UNSTEADY_S = 0.0004
WHAT = {State.PROVISIONING: "start", State.WAKING: "wake", State.DRAINING: "off"}


@dataclass(frozen=True)
class Call:
    """A request; `held_s` is how long its caller waits."""

    at_s: float
    service_s: float
    tokens: tuple[int, int]
    size: int
    held_s: float = math.inf
    priority: Priority = "normal"


class OneModel:
    """Satisfies `Effects`; `starts_s` are how long its starts take, one after the other."""

    def __init__(self, text: str, epoch_s: float, starts_s: Sequence[float]) -> None:
        self.now_s = 0.0
        self.decisions = Decisions()
        self.rises: list[Rise] = []
        self.config = parse(text, "test", {})
        cold = self.config.models[MODEL].cold
        assert cold is not None
        self._wake_s = cold.sleep.level_1.wake if cold.sleep.level_1 is not None else 0.0
        self._starts_s = iter(starts_s)
        self._timers: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._waiting: dict[Waiter, tuple[Call, Record, Iterator[Step]]] = {}
        self.planners = Planners(self.clock)
        self.planners.follow(self.config)
        self._measures = Measures(self.clock, epoch_s)
        self._measures.follow(self.config)
        rungs: tuple[Rung, ...] = ("sleep_1",) if cold.sleep.level_1 is not None else ()
        self.machine = Lifecycle(
            MODEL,
            ColdSettings(300.0, 10.0, 1, None, rungs),
            self.planners.holding(MODEL),
            WaitQueue(Room(10_000, 1 << 40)),
            self,
            self.clock,
            itertools.count(1),
        )
        api = SimpleNamespace(view=lambda excluding: SimpleNamespace(healthy=1, free=math.inf))
        backends: Any = SimpleNamespace(
            hot=None,
            cold=SimpleNamespace(
                view=lambda excluding=(): view(self.machine, self.now_s, excluding),
                hold=lambda until_s: self.post(self.machine.hold, until_s),
                hold_instances=lambda number: self.post(self.machine.hold_instances, number),
            ),
            api=api if self.config.models[MODEL].api is not None else None,
        )
        self._snapshot = Snapshot(self.config, {MODEL: backends})
        fleet: Any = SimpleNamespace(snapshot=self._snapshot)
        self._upkeep = Upkeep(
            fleet, self.planners, self.clock, lambda: epoch_s + self._wall_s(), lambda model: 0.0
        )

    def clock(self) -> float:
        return self.now_s

    def _wall_s(self) -> float:
        """As it is read: a bit later than the other clock, now more and now less."""
        return self.now_s + UNSTEADY_S * (1.0 + math.sin(self.now_s))

    def run(self, calls: Sequence[Call], end_s: float) -> Decisions:
        """All that is decided until then."""
        asyncio.set_event_loop(self._loop)
        for call in calls:
            self.call_later(call.at_s, self._ask, call)
        self._look()
        while self._timers and self._timers[0][0] < end_s:
            self.now_s, _, event, args = heappop(self._timers)
            event(*args)
            self._hand_over()
        self._loop.close()
        self.decisions.requests.sort(key=lambda served: served.at_s)
        return self.decisions

    def _look(self) -> None:
        planner = self.planners.get(MODEL)
        assert planner is not None
        before = planner.placement.name
        due_in_s = self._upkeep.look()
        if planner.placement.name != before:
            self._note(planner.placement.name)
        self.call_later(due_in_s, self._look)

    # --- requests -------------------------------------------------------------------------------

    def _ask(self, call: Call) -> None:
        record = Record("", "chat", self.now_s, model=MODEL)
        self.planners.arrived(record)
        asked = Asked(call.size, self.now_s + call.held_s, call.priority)
        places = Places(self._snapshot, MODEL, asked, self.planners, self.clock)
        self._go(call, record, (place.step for place in places.plan()))

    def _go(self, call: Call, record: Record, steps: Iterator[Step]) -> None:
        """To the next place; nowhere when none is left."""
        step = next(steps, None)
        if step is None:
            self.decisions.requests.append(Served(call.at_s, "", False))
            self._end(record, None)
        elif step.kind == "api":
            self._go_outside(call, record, step.start)
        else:
            self._wait(call, record, steps)

    def _wait(self, call: Call, record: Record, steps: Iterator[Step]) -> None:
        waiter = self._waiter(call)
        self._waiting[waiter] = call, record, steps
        self.machine.acquire(waiter)
        if math.isfinite(call.held_s):
            self.call_later(call.held_s, self._expire, waiter)

    def _go_outside(self, call: Call, record: Record, start: bool | None) -> None:
        planner = self.planners.get(MODEL)
        assert planner is not None
        if start is not None:
            planner.overflowed(planner.expected_usd(call.size))
        if start:
            self.machine.wake()
        self.decisions.requests.append(Served(call.at_s, "api", False))
        self.call_later(call.service_s, self._end, record, call)

    def _waiter(self, call: Call) -> Waiter:
        waiter = Waiter.__new__(Waiter)  # its own beginning asks for a loop that runs
        waiter.future = self._loop.create_future()
        waiter.size, waiter.since_s = call.size, self.now_s
        waiter.until_s, waiter.excluding, waiter.in_queue = self.now_s + call.held_s, (), False
        waiter.affinity = None
        return waiter

    def _expire(self, waiter: Waiter) -> None:
        if waiter in self._waiting:
            call, record, steps = self._waiting.pop(waiter)
            waiter.future.cancel()
            self.machine.abandon(waiter)
            self._go(call, record, steps)

    def _hand_over(self) -> None:
        for waiter in [waiter for waiter in self._waiting if waiter.future.done()]:
            call, record, _ = self._waiting.pop(waiter)
            lease = waiter.future.result()
            self.decisions.requests.append(Served(call.at_s, "cold", lease.cold_start))
            self.call_later(call.service_s, self._served, lease, record, call)

    def _served(self, lease: Lease, record: Record, call: Call) -> None:
        lease.succeeded()
        lease.release()
        self._end(record, call)

    def _end(self, record: Record, call: Call | None) -> None:
        record.ended_s = self.now_s
        record.usage = Usage(*call.tokens, 0) if call is not None else None
        self.planners.finished(record)

    # --- effects --------------------------------------------------------------------------------

    def launch(self, instance: Instance, within_s: float) -> None:
        took_s = next(self._starts_s)
        self.rises.append(Rise(self.now_s, self.now_s + took_s))
        self.call_later(took_s, self._ready, instance)

    def _ready(self, instance: Instance) -> None:
        endpoint = Endpoint(instance.id, Origin("http://127.0.0.1:9/v1"))
        self.machine.became_ready(instance.id, endpoint)

    def stop(self, instance: Instance) -> None:
        self.post(self.machine.exited, instance.id, "")

    def kill(self, instance: Instance) -> None:
        raise AssertionError("nothing fails here")

    def verify(self, instance: Instance) -> None:
        raise AssertionError("nothing fails here")

    def sleep(self, instance: Instance, rung: Rung) -> None:
        self.post(self.machine.fell_asleep, instance.id)

    def wake_up(self, instance: Instance, within_s: float) -> None:
        self.call_later(self._wake_s, self.machine.woke, instance.id)

    def post(self, event: Callable[..., None], *args: object) -> None:
        self.call_later(0.0, event, *args)

    def call_later(self, delay_s: float, event: Callable[..., None], *args: object) -> None:
        heappush(self._timers, (self.now_s + delay_s, next(self._numbers), event, args))

    def changed(self, instance: Instance, state: State) -> None:
        self.planners.rose(MODEL, self._measures.instance_changed(MODEL, instance, state))
        what = instance.rung if state is State.SLEEPING else WHAT.get(state)
        if what is not None:
            self._note(what)

    def _note(self, what: str) -> None:
        self.decisions.events.append(Event(self.now_s, what))
