"""Models that share a device, under a clock of the test: real lifecycles, engines that only count.

Everything happens inside one turn of an event loop, which futures need and which never comes back
to them: what they got is looked at after every event.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.devices import Device, Limits
from backends.endpoint import Endpoint
from backends.evictions import Evicted, Eviction, Victim
from backends.holding import Held, Rung
from backends.instance import ColdSettings, Failure, Instance, State
from backends.lease import Lease, Room, Unavailable, Waiter, WaitQueue
from backends.lifecycle import Lifecycle
from backends.occupancy import Resident
from backends.upstream import Origin
from policies import eviction

GIB = 2**30
TICK_S = 1e-9  # no clock stands still, and who compares sums of times relies on that


class Time:
    """Events in order of their time, and of their posting at the same time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.after_each: list[Callable[[], None]] = []
        self._events: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._numbers = itertools.count()

    def clock(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, event: Callable[..., object], *args: object) -> None:
        at_s = self.now_s + max(delay_s, 0.0)
        heapq.heappush(self._events, (at_s, next(self._numbers), event, args))

    def advance(self, seconds: float, most: int = 200_000) -> None:
        """Let time pass; a world that does not come to rest is an error."""
        until_s = self.now_s + seconds
        for _ in range(most):
            if not self._events or self._events[0][0] > until_s:
                self.now_s = until_s
                return
            at_s, _, event, args = heapq.heappop(self._events)
            self.now_s = max(self.now_s, at_s) + TICK_S
            event(*args)
            for check in self.after_each:
                check()
        raise AssertionError(f"still busy at {self.now_s} s")


@dataclass
class Call:
    """One caller, who keeps its lease for so long, and gives up waiting at some time."""

    model: "SharedModel"
    waiter: Waiter
    serve_s: float
    lease: Lease | None = None
    refusal: BaseException | None = None
    waited_s: float = math.nan
    left: bool = False

    @property
    def pending(self) -> bool:
        return self.lease is None and self.refusal is None and not self.left


@dataclass
class Engine:
    """What a process takes of the machine: kept apart from all that the device believes."""

    memory: int
    host_memory: int = 0


@dataclass
class Ledger:
    """What greedy-dual must know of an instance, counted by the test itself."""

    uses: int = 0
    clock: float = 0.0


class SharedModel:
    """One model: its lifecycle, and engines that load, sleep and stop in given times."""

    def __init__(self, world: "World", name: str, **settings: Any) -> None:
        self.world = world
        self.name = name
        self.load_s = settings.pop("load_s", 10.0)
        self.stop_s = settings.pop("stop_s", 1.0)
        self.sleep_s = settings.pop("sleep_s", 2.0)
        idle_s = settings.pop("idle_s", math.inf)
        self.fails: list[bool] = []  # whether the next loads fail, False by default
        self.last_load_s: float | None = None
        self.engines: dict[str, Engine] = {}
        self.ledger: dict[str, Ledger] = {}
        values: dict[str, Any] = {
            "start_within_s": 300.0,
            "stop_within_s": 5.0,
            "max_instances": 1,
            "max_concurrency": None,
            "memory": 16 * GIB,
            "host_memory": 16 * GIB,
            **settings,
        }
        self.machine = Lifecycle(
            name,
            ColdSettings(**values),
            Held(idle_s),
            WaitQueue(Room(100_000, 1 << 40)),
            self,
            world.time.clock,
            itertools.count(1),
            world.device,
        )
        self.machine.tenancy.join()

    # --- effects -----------------------------------------------------------------------------

    def launch(self, instance: Instance, within_s: float) -> None:
        self.engines[instance.id] = Engine(self.machine.settings.memory)
        fails = self.fails.pop(0) if self.fails else False
        after = self._failed if fails else self._loaded
        self.world.time.call_later(self.load_s, after, instance)

    def _loaded(self, instance: Instance) -> None:
        if instance.id in self.engines and instance.state is not State.DRAINING:
            limit = self.machine.settings.max_concurrency
            endpoint = Endpoint(instance.id, Origin("http://127.0.0.1:9/v1"), max_concurrency=limit)
            self.post(self.machine.became_ready, instance.id, endpoint)

    def _failed(self, instance: Instance) -> None:
        if self.engines.pop(instance.id, None):
            self.post(self.machine.start_failed, instance.id, Failure("boom", False))

    def stop(self, instance: Instance) -> None:
        self.world.time.call_later(self.stop_s, self._gone, instance)

    def kill(self, instance: Instance) -> None:
        self.world.time.call_later(0.0, self._gone, instance)

    def die(self, instance: Instance) -> None:
        """By itself."""
        self._gone(instance)

    def _gone(self, instance: Instance) -> None:
        if self.engines.pop(instance.id, None) is None:
            return
        if instance.endpoint is None:
            stopped = Failure("it was stopped while it started", permanent=True)
            self.post(self.machine.start_failed, instance.id, stopped)
        else:
            self.post(self.machine.exited, instance.id, "gone")

    def sleep(self, instance: Instance, rung: Rung) -> None:
        assert instance.in_flight == 0, f"{instance.id} sleeps while it serves"
        if rung == "sleep_1":
            self.engines[instance.id].host_memory = self.machine.settings.host_memory
        self.world.time.call_later(self.sleep_s, self._asleep, instance)

    def _asleep(self, instance: Instance) -> None:
        if instance.id in self.engines and instance.falling:
            self.engines[instance.id].memory = 0
            self.post(self.machine.fell_asleep, instance.id)

    def wake_up(self, instance: Instance, within_s: float) -> None:
        self.engines[instance.id].memory = self.machine.settings.memory
        self.world.time.call_later(self.sleep_s, self._awake, instance)

    def _awake(self, instance: Instance) -> None:
        if instance.id in self.engines and instance.state is State.WAKING:
            self.engines[instance.id].host_memory = 0
            self.post(self.machine.woke, instance.id)

    def verify(self, instance: Instance) -> None: ...

    def post(self, event: Callable[..., None], *args: object) -> None:
        self.world.time.call_later(0.0, event, *args)

    def call_later(self, delay_s: float, event: Callable[..., None], *args: object) -> None:
        self.world.time.call_later(delay_s, event, *args)

    def changed(self, instance: Instance, state: State) -> None:
        if state is State.READY:
            self.ledger[instance.id] = Ledger(0, self.world.clock_by_hand)
            if State.WAKING not in instance.reached:
                self.last_load_s = self.world.time.now_s - instance.began_s
        self.machine.tenancy.memory.poke()

    # --- for the test ------------------------------------------------------------------------

    def ask(
        self, serve_s: float = 1.0, patience_s: float = math.inf, only: str | None = None
    ) -> Call:
        """`only` at one certain instance."""
        now_s = self.world.time.now_s
        call = Call(self, Waiter(1, now_s, (), now_s + patience_s), serve_s)
        self.world.calls.append(call)
        self.world.pending.append(call)
        self.post(self.machine.acquire, call.waiter, only)
        if patience_s != math.inf:
            self.world.time.call_later(patience_s, self.leave, call)
        return call

    def leave(self, call: Call) -> None:
        if call.pending and not call.waiter.future.done():
            call.left = True
            call.waiter.future.cancel()
            self.post(self.machine.abandon, call.waiter)

    def priority(self, instance_id: str) -> float:
        """Greedy-dual's, by what the test has counted."""
        ledger, settings = self.ledger[instance_id], self.machine.settings
        cost_s = settings.start_guess_s if self.last_load_s is None else self.last_load_s
        return ledger.clock + ledger.uses * cost_s / (settings.memory / GIB)

    @property
    def instances(self) -> list[Instance]:
        return list(self.machine.instances.values())

    @property
    def ready(self) -> bool:
        return bool(self.machine.instances.ready)


@dataclass
class World:
    """A device and the models on it."""

    memory: int = 32 * GIB
    host_memory: float = 0.0
    max_wait_s: float = 30.0
    eviction: Eviction = eviction
    time: Time = field(default_factory=Time)
    calls: list[Call] = field(default_factory=list)
    pending: list[Call] = field(default_factory=list)
    models: dict[str, SharedModel] = field(default_factory=dict)
    clock_by_hand: float = 0.0  # greedy-dual's
    gone: list[Evicted] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = Limits(self.memory, self.host_memory, self.max_wait_s)
        self.device = Device("gpu0", limits, self.eviction, self.time.clock, self.time.call_later)
        self.time.after_each += [self._move_clock, self._hand_over, self.check]

    def model(self, name: str, **settings: Any) -> SharedModel:
        self.models[name] = SharedModel(self, name, **settings)
        return self.models[name]

    def advance(self, seconds: float) -> None:
        self.time.advance(seconds)

    def ready(self) -> list[str]:
        return [name for name, model in self.models.items() if model.ready]

    def victims(self) -> list[str]:
        return [each.instance_id for each in self.gone]

    def _move_clock(self) -> None:
        last = self.device.evictions.last
        for evicted in itertools.islice(last, len(self.gone), None):
            model = self.models[evicted.instance_id.split("@")[0]]
            by_hand = model.priority(evicted.instance_id)
            assert math.isclose(by_hand, evicted.priority)
            self.clock_by_hand = max(self.clock_by_hand, by_hand)
            self.gone.append(evicted)
        assert math.isclose(self.device.clock, self.clock_by_hand)

    def _hand_over(self) -> None:
        """See who was served, and give the leases back in time."""
        for call in [c for c in self.pending if c.waiter.future.done()]:
            self.pending.remove(call)
            future = call.waiter.future
            if future.cancelled():
                continue
            call.refusal = future.exception()
            if call.refusal is not None:
                assert isinstance(call.refusal, Unavailable)
                continue
            call.lease = future.result()
            call.waited_s = self.time.now_s - call.waiter.since_s
            ledger = call.model.ledger[call.lease.endpoint.id]
            ledger.uses, ledger.clock = ledger.uses + 1, self.clock_by_hand
            self.time.call_later(call.serve_s, call.lease.release)

    def engines(self) -> Iterator[Engine]:
        for model in self.models.values():
            yield from model.engines.values()

    def check(self) -> None:
        """What must hold at every moment."""
        assert sum(e.memory for e in self.engines()) <= self.device.limits.memory
        assert sum(e.host_memory for e in self.engines()) <= self.device.limits.host_memory
        for model in self.models.values():
            for instance in model.instances:
                if instance.in_flight:
                    assert model.engines.get(instance.id, Engine(1)).memory > 0

    def at_rest(self) -> None:
        """Nothing is owed to anybody."""
        device: Any = self.device
        assert not self.pending, [c.model.name for c in self.pending]
        assert not device.waiting
        assert not device._granted
        assert not device.evictions
        assert all(i.in_flight == 0 for m in self.models.values() for i in m.instances)
        held = sum(e.memory for e in self.engines())
        assert self.device.used == held
        assert self.device.host_used == sum(e.host_memory for e in self.engines())


class Reference:
    """Satisfies `Eviction`: asks the policy, and holds every answer against a plain one."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.picks = 0

    def priority(self, resident: Resident) -> float:
        return eviction.priority(resident)

    def rest_s(self, resident: Resident) -> float:
        return eviction.rest_s(resident)

    def pick(
        self, residents: Sequence[Resident], needed: int, host_free: float
    ) -> Sequence[Victim]:
        picked = eviction.pick(residents, needed, host_free)
        assert self.world is not None
        by_hand = [self._by_hand(self.world.models[r.model], r) for r in residents]
        assert [v.instance_id for v in picked] == _plain(by_hand, needed)
        self.picks += bool(picked)
        return picked

    def _by_hand(self, model: SharedModel, resident: Resident) -> tuple[Any, ...]:
        """The order of one resident by what the test has counted: lowest first."""
        assert self.world is not None
        instance = model.machine.instances[resident.instance_id]
        serves = instance.in_flight > 0 or any(c.model is model for c in self.world.pending)
        idle_s = 0.0 if serves else self.world.time.now_s - instance.idle_since_s
        priority = model.priority(resident.instance_id)
        return (serves, priority, -idle_s, resident.instance_id, model.machine.settings.memory)


def _plain(candidates: Sequence[tuple[Any, ...]], needed: int) -> list[str]:
    """Greedy-dual as one would write it down: evict the lowest until it fits, spare the rest."""
    left = sorted(candidates)
    going: list[tuple[Any, ...]] = []
    while left and sum(c[-1] for c in going) < needed:
        going.append(left.pop(0))
    if sum(c[-1] for c in going) < needed:
        return []
    for each in list(reversed(going)):
        if sum(c[-1] for c in going if c is not each) >= needed:
            going.remove(each)
    return [c[-2] for c in going]
