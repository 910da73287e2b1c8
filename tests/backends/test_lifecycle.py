"""The states of a cold model, driven by events under a clock of the test."""

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.endpoint import Endpoint
from backends.holding import Held, Rung
from backends.instance import ColdSettings, Failure, Instance, State
from backends.lease import Lease, QueueFull, Room, StartFailed, Waiter, WaitQueue
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
        self._timers.append((self.now_s + delay_s, len(self._timers), event, args))

    def changed(self, instance: Instance, state: State) -> None:
        self.changes.append((instance.id, state))

    def advance(self, seconds: float) -> None:
        """Let time pass and run what falls due, in order."""
        until_s = self.now_s + seconds
        while due := sorted(t for t in self._timers if t[0] <= until_s):
            timer = due[0]
            self._timers.remove(timer)
            self.now_s = max(self.now_s, timer[0])
            timer[2](*timer[3])
        self.now_s = until_s


class Changing:
    """Satisfies `Holding` with a time that the test changes."""

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        return Held(self.idle_s).descent(now_s)


class Model:
    """A lifecycle with its world; callers are waiters on a loop that never runs by itself."""

    def __init__(self, *, room: Room | None = None, **changes: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.world = World()
        idle_s = changes.pop("idle_s", 60.0)
        self.holding = changes.pop("holding", Held(idle_s))
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

    def ask(self, size: int = 1, excluding: tuple[str, ...] = ()) -> Waiter:
        asyncio.set_event_loop(self.loop)
        waiter = Waiter.__new__(Waiter)
        waiter.future = self.loop.create_future()
        waiter.size, waiter.since_s = size, self.world.now_s
        instances = self.machine.instances
        waiter.in_queue, waiter.excluding = False, [instances[id].endpoint for id in excluding]
        self.machine.acquire(waiter)
        return waiter

    def ready(self, instance: Instance) -> None:
        limit = self.machine.settings.max_concurrency
        endpoint = Endpoint(instance.id, Origin("http://127.0.0.1:9/v1"), max_concurrency=limit)
        self.machine.became_ready(instance.id, endpoint)

    def crash(self, instance: Instance, permanent: bool = False) -> None:
        self.machine.start_failed(instance.id, Failure("boom\nlast line", permanent))


def lease(waiter: Waiter) -> Lease:
    assert waiter.future.done()
    return waiter.future.result()


@pytest.fixture
def model():
    made: list[Model] = []

    def make(**changes: object) -> Model:
        made.append(Model(**changes))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_acquire_many_callers_share_one_start(model):
    m = model()
    waiters = [m.ask() for _ in range(100)]
    assert len(m.world.launched) == 1
    m.world.advance(2)
    m.ready(m.world.launched[0])
    assert {lease(w).endpoint.id for w in waiters} == {"m@1"}
    assert all(lease(w).cold_start for w in waiters)
    assert m.machine.instances.ready[0].in_flight == 100


def test_acquire_when_ready_is_no_cold_start(model):
    m = model()
    m.ask()
    m.ready(m.world.launched[0])
    m.world.advance(1)
    assert not lease(m.ask()).cold_start


def test_grant_to_a_caller_who_left_is_not_counted(model):
    m = model()
    waiter = m.ask()
    waiter.future.cancel()
    m.ready(m.world.launched[0])
    assert m.machine.instances.ready[0].in_flight == 0


def test_crash_after_every_caller_left_starts_nothing(model):
    m = model()
    waiter = m.ask()
    m.machine.abandon(waiter)
    m.crash(m.world.launched[0])
    m.world.advance(100)
    assert len(m.world.launched) == 1


def test_idle_counts_from_the_last_byte(model):
    m = model(idle_s=10.0)
    waiter = m.ask()
    m.ready(m.world.launched[0])
    m.world.advance(100)
    assert m.world.stopped == []  # a request that takes long is not idleness
    lease(waiter).release()
    m.world.advance(9.9)
    assert m.world.stopped == []
    m.world.advance(0.2)
    assert m.world.stopped == ["m@1"]


def test_idle_request_in_between_starts_the_clock_again(model):
    m = model(idle_s=10.0)
    lease_of(m).release()
    m.world.advance(6)
    lease(m.ask()).release()
    m.world.advance(6)
    assert m.world.stopped == []
    m.world.advance(5)
    assert m.world.stopped == ["m@1"]


def lease_of(m: Model) -> Lease:
    waiter = m.ask()
    m.ready(m.world.launched[-1])
    return lease(waiter)


def test_idle_never_keeps_the_instance(model):
    m = model(idle_s=math.inf)
    lease_of(m).release()
    m.world.advance(1e7)
    assert m.world.stopped == []


def test_request_at_the_instant_of_stopping_is_served_by_a_new_instance(model):
    m = model(idle_s=10.0)
    lease_of(m).release()
    m.world.advance(11)
    assert m.world.stopped == ["m@1"]
    waiter = m.ask()
    assert len(m.world.launched) == 1  # the old one still holds the memory
    m.machine.exited("m@1", "gone")
    assert len(m.world.launched) == 2
    m.ready(m.world.launched[1])
    assert lease(waiter).endpoint.id == "m@2"


def test_drain_waits_for_what_is_served(model):
    m = model()
    held = lease_of(m)
    m.machine.drain()
    assert m.world.stopped == []
    held.release()
    m.world.advance(0)
    assert m.world.stopped == ["m@1"]


def test_stop_does_not_wait(model):
    m = model()
    lease_of(m)
    m.machine.stop()
    assert m.world.stopped == ["m@1"]


def test_crash_at_load_is_tried_three_times_then_told_to_everybody(model):
    m = model()
    waiters = [m.ask() for _ in range(3)]
    m.crash(m.world.launched[0])
    assert len(m.world.launched) == 2  # the first time at once
    m.crash(m.world.launched[1])
    assert len(m.world.launched) == 2  # the second time after a pause
    m.world.advance(1)
    assert len(m.world.launched) == 3
    m.crash(m.world.launched[2])
    for waiter in waiters:
        error = waiter.future.exception()
        assert isinstance(error, StartFailed)
        assert "last line" in str(error)
        assert error.retry_after_s == 2.0


def test_failed_start_refuses_at_once_for_a_while_then_tries_again(model):
    m = model()
    m.ask().future.add_done_callback(lambda f: f.exception())
    m.crash(m.world.launched[0], permanent=True)
    refused = m.ask()
    assert isinstance(refused.future.exception(), StartFailed)
    assert len(m.world.launched) == 1
    m.world.advance(2.1)
    m.ask()
    assert len(m.world.launched) == 2


def test_failed_starts_in_a_row_pause_ever_longer_up_to_a_minute(model):
    m = model()
    pauses = []
    for _ in range(8):
        waiter = m.ask()
        m.crash(m.world.launched[-1], permanent=True)
        error = waiter.future.exception()
        assert isinstance(error, StartFailed)
        pauses.append(error.retry_after_s)
        m.world.advance(100)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_start_out_of_time_is_given_up_without_another_launch(model):
    m = model(start_within_s=30.0)
    waiter = m.ask()
    m.world.advance(30)
    m.crash(m.world.launched[0])
    assert isinstance(waiter.future.exception(), StartFailed)
    assert len(m.world.launched) == 1


def test_operator_start_overrides_the_pause(model):
    m = model()
    m.ask().future.add_done_callback(lambda f: f.exception())
    m.crash(m.world.launched[0], permanent=True)
    m.machine.start()
    assert len(m.world.launched) == 2


def test_operator_start_is_one_start_and_idles_out(model):
    m = model(idle_s=10.0)
    m.machine.start()
    m.machine.start()
    assert len(m.world.launched) == 1
    m.ready(m.world.launched[0])
    m.world.advance(11)
    m.machine.exited("m@1", "")
    m.world.advance(100)
    assert len(m.world.launched) == 1


def test_server_that_died_is_replaced_for_those_who_wait(model):
    m = model(max_concurrency=1)
    lease_of(m)
    waiting = m.ask()
    m.machine.exited("m@1", "killed by signal 9")
    assert len(m.world.launched) == 2
    m.ready(m.world.launched[1])
    assert lease(waiting).endpoint.id == "m@2"


def test_growth_follows_the_queue_up_to_the_limit(model):
    m = model(max_instances=3, max_concurrency=2)
    for _ in range(2):
        m.ask()
    assert len(m.world.launched) == 1
    m.ask()
    assert len(m.world.launched) == 2
    for _ in range(20):
        m.ask()
    assert len(m.world.launched) == 3


def test_concurrency_limit_holds_and_releases_serve_in_order(model):
    m = model(max_concurrency=2)
    waiters = [m.ask() for _ in range(4)]
    m.ready(m.world.launched[0])
    assert [w.future.done() for w in waiters] == [True, True, False, False]
    lease(waiters[0]).release()
    m.world.advance(0)
    assert [w.future.done() for w in waiters] == [True, True, True, False]


def test_queue_over_its_limit_refuses(model):
    m = model(room=Room(2, 100))
    for _ in range(2):
        m.ask()
    assert isinstance(m.ask().future.exception(), QueueFull)


def test_queue_over_its_bytes_refuses_and_gives_them_back(model):
    m = model(room=Room(10, 100))
    first = m.ask(size=90)
    assert isinstance(m.ask(size=20).future.exception(), QueueFull)
    m.machine.abandon(first)
    assert not m.ask(size=20).future.done()


def test_excluded_instance_is_a_second_choice_not_a_dead_end(model):
    m = model()
    lease_of(m)
    waiter = m.ask(excluding=("m@1",))
    assert not waiter.future.done()
    m.world.advance(1)
    assert lease(waiter).endpoint.id == "m@1"


def test_excluded_instance_is_not_handed_out_when_another_lease_comes_back(model):
    m = model(max_concurrency=2)
    held = lease_of(m)
    waiter = m.ask(excluding=("m@1",))
    held.release()
    m.world.advance(0)
    assert not waiter.future.done()
    other = m.ask()
    assert lease(other).endpoint.id == "m@1"  # for who did not fail there it is good


def test_sick_instance_is_verified_and_stopped(model):
    m = model()
    for _ in range(3):
        held = lease_of(m) if not m.machine.instances.ready else lease(m.ask())
        held.failed(m.world.now_s)
        held.release()
        m.world.advance(0)
    assert m.world.verifying == ["m@1"]
    m.machine.verified("m@1", False)
    assert m.world.stopped == ["m@1"]


def test_retire_serves_who_waits_then_stops(model):
    m = model()
    waiter = m.ask()
    m.machine.retire()
    m.ready(m.world.launched[0])
    held = lease(waiter)
    assert m.world.stopped == []
    held.release()
    m.world.advance(0)
    assert m.world.stopped == ["m@1"]


def test_reconfigure_shorter_idle_takes_effect_on_a_running_instance(model):
    m = model(holding=Changing(1000.0))
    lease_of(m).release()
    m.world.advance(0)
    m.holding.idle_s = 5.0
    m.machine.reconfigure(m.machine.settings)
    m.world.advance(6)
    assert m.world.stopped == ["m@1"]


def test_stages_are_timed(model):
    m = model()
    m.ask()
    instance = m.world.launched[0]
    for state in (State.LOADING, State.WARMING):
        m.world.advance(2)
        m.machine.stage_reached(instance.id, state)
    m.world.advance(1)
    m.ready(instance)
    assert list(m.machine.start_times_s) == [5.0]
    assert instance.reached == {
        State.PROVISIONING: 0.0,
        State.LOADING: 2.0,
        State.WARMING: 4.0,
        State.READY: 5.0,
    }


class AnyOrder(RuleBasedStateMachine):
    """Events in any order keep the promises that the module's docstring makes."""

    def __init__(self) -> None:
        super().__init__()
        self.m = Model(max_instances=2, max_concurrency=2, idle_s=5.0, room=Room(6, 1000))
        self.waiters: list[Waiter] = []
        self.released: set[int] = set()
        self.stopped_serving = False

    def teardown(self) -> None:
        for waiter in self.waiters:
            if waiter.future.done() and not waiter.future.cancelled():
                waiter.future.exception()
        self.m.close()

    def _starting(self) -> list[Instance]:
        return self.m.machine.instances.starting

    def _held(self) -> list[Lease]:
        done = [w.future for w in self.waiters if w.future.done() and not w.future.cancelled()]
        leases = [f.result() for f in done if f.exception() is None]
        return [each for each in leases if not each.released]

    @rule()
    def ask(self) -> None:
        self.waiters.append(self.m.ask())

    @rule(index=st.integers(0, 50))
    def leave(self, index: int) -> None:
        waiting = [w for w in self.waiters if not w.future.done()]
        if waiting:
            waiter = waiting[index % len(waiting)]
            waiter.future.cancel()
            self.m.machine.abandon(waiter)

    @rule(index=st.integers(0, 50), good=st.booleans())
    def release(self, index: int, good: bool) -> None:
        held = self._held()
        if held:
            each = held[index % len(held)]
            if good:
                each.succeeded()
            each.release()
            self.m.world.advance(0)

    @precondition(lambda self: self._starting())
    @rule()
    def become_ready(self) -> None:
        self.m.ready(self._starting()[0])

    @precondition(lambda self: self._starting())
    @rule(permanent=st.booleans())
    def fail_to_start(self, permanent: bool) -> None:
        self.m.crash(self._starting()[0], permanent)

    @rule(index=st.integers(0, 5))
    def exit(self, index: int) -> None:
        gone = [i for i in self.m.machine.instances.values() if i.endpoint is not None]
        if gone:
            self.m.machine.exited(gone[index % len(gone)].id, "gone")

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        busy = {i.id for i in self.m.machine.instances.values() if i.in_flight}
        starting = {i.id for i in self._starting()}
        before = len(self.m.world.stopped)
        self.m.world.advance(seconds)
        self.stopped_serving = bool((busy | starting) & set(self.m.world.stopped[before:]))

    @rule()
    def operator_drains(self) -> None:
        self.m.machine.drain()

    @invariant()
    def never_more_instances_than_allowed(self) -> None:
        assert len(self.m.machine.instances) <= 2

    @invariant()
    def never_over_the_concurrency_limit(self) -> None:
        assert all(0 <= i.in_flight <= 2 for i in self.m.machine.instances.values())

    @invariant()
    def time_alone_never_stops_what_serves_or_starts(self) -> None:
        assert not self.stopped_serving

    @invariant()
    def counts_of_waiting_are_true(self) -> None:
        waiting = sum(not w.future.done() for w in self.waiters)
        assert waiting == len(self.m.machine.queue) == self.m.machine.queue.room.requests

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        machine = self.m.machine
        if len(machine.queue):
            paused = machine.backoff.launch_after_s > self.m.world.now_s
            assert machine.instances or paused


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=200, stateful_step_count=40, deadline=None)
