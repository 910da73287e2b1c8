"""A lifecycle under a clock of the test: effects are written down, time passes when it is told."""

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from backends.endpoint import Endpoint
from backends.holding import Held, Holding, Rung
from backends.instance import ColdSettings, Failure, Instance, State
from backends.lease import Lease, Room, Waiter, WaitQueue
from backends.lifecycle import Lifecycle
from backends.upstream import Origin


class World:
    """Effects that are only written down, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.launched: list[Instance] = []
        self.stopped: list[str] = []
        self.killed: list[str] = []
        self.falling: list[tuple[str, Rung]] = []
        self.woken: list[str] = []
        self.verifying: list[str] = []
        self.changes: list[tuple[str, State]] = []
        self._timers: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._number = itertools.count()

    def clock(self) -> float:
        return self.now_s

    def launch(self, instance: Instance, within_s: float) -> None:
        self.launched.append(instance)

    def stop(self, instance: Instance) -> None:
        self.stopped.append(instance.id)

    def kill(self, instance: Instance) -> None:
        self.killed.append(instance.id)

    def sleep(self, instance: Instance, rung: Rung) -> None:
        self.falling.append((instance.id, rung))

    def wake_up(self, instance: Instance, within_s: float) -> None:
        self.woken.append(instance.id)

    def verify(self, instance: Instance) -> None:
        self.verifying.append(instance.id)

    def post(self, event: Callable[..., None], *args: object) -> None:
        self.call_later(0.0, event, *args)

    def call_later(self, delay_s: float, event: Callable[..., None], *args: object) -> None:
        self._timers.append((self.now_s + delay_s, next(self._number), event, args))

    def changed(self, instance: Instance, state: State) -> None:
        self.changes.append((instance.id, state))

    @property
    def timers(self) -> int:
        """How many are pending."""
        return len(self._timers)

    def advance(self, seconds: float) -> None:
        """Let time pass and run what falls due, in order."""
        until_s = self.now_s + seconds
        while due := sorted(t for t in self._timers if t[0] <= until_s):
            timer = due[0]
            self._timers.remove(timer)
            self.now_s = max(self.now_s, timer[0])
            timer[2](*timer[3])
        self.now_s = until_s


class Steps:
    """Satisfies `Holding` with steps that the test changes."""

    def __init__(self, *steps: tuple[float, Rung]) -> None:
        self.steps = steps
        self.asked_s: list[float] = []  # when

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        self.asked_s.append(now_s)
        return self.steps


class Model:
    """A lifecycle with its world; callers are waiters on a loop that never runs by itself."""

    def __init__(self, *, room: Room | None = None, **changes: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.world = World()
        idle_s = changes.pop("idle_s", 60.0)
        self.holding: Holding = changes.pop("holding", Held(idle_s))
        values: dict[str, object] = {
            "start_within_s": 30.0,
            "stop_within_s": 5.0,
            "max_instances": 1,
            "max_concurrency": None,
        }
        values.update(changes)
        self.machine = Lifecycle(
            "m",
            ColdSettings(**values),  # type: ignore[arg-type]
            self.holding,
            WaitQueue(room or Room(1000, 1 << 30)),
            self.world,
            self.world.clock,
            itertools.count(1),
        )

    def close(self) -> None:
        self.loop.close()

    def ask(
        self, size: int = 1, excluding: tuple[str, ...] = (), only: str | None = None
    ) -> Waiter:
        asyncio.set_event_loop(self.loop)
        waiter = Waiter.__new__(Waiter)
        waiter.future = self.loop.create_future()
        waiter.size, waiter.since_s, waiter.until_s = size, self.world.now_s, math.inf
        instances = self.machine.instances
        waiter.in_queue, waiter.excluding = False, [instances[id].endpoint for id in excluding]
        waiter.affinity = None
        self.machine.acquire(waiter, only)
        return waiter

    def ready(self, instance: Instance) -> None:
        limit = self.machine.settings.max_concurrency
        endpoint = Endpoint(instance.id, Origin("http://127.0.0.1:9/v1"), max_concurrency=limit)
        self.machine.became_ready(instance.id, endpoint)

    def served(self, only: str | None = None) -> None:
        """One caller is served and leaves; started and woken for, if need be."""
        waiter = self.ask(only=only)
        if not waiter.future.done():
            coming = self.machine.instances.coming[-1]
            if coming.state is State.WAKING:
                self.machine.woke(coming.id)
            else:
                self.ready(coming)
        lease(waiter).release()
        self.world.advance(0)

    def asleep(self, rung: Rung = "sleep_1") -> Instance:
        """One instance that is on a sleeping rung, by the passing of time."""
        self.served()
        [instance] = self.machine.instances.values()
        while instance.rung != rung:
            self.world.advance(1)
            if instance.falling:
                self.machine.fell_asleep(instance.id)
            elif instance.state is State.WAKING:
                self.machine.woke(instance.id)
        return instance

    def crash(self, instance: Instance, permanent: bool = False) -> None:
        self.machine.start_failed(instance.id, Failure("boom\nlast line", permanent))


def lease(waiter: Waiter) -> Lease:
    assert waiter.future.done()
    return waiter.future.result()
