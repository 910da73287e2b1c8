"""The states of a cold model, driven by events under a clock of the test."""

import math

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.instance import Instance, State
from backends.lease import Lease, QueueFull, Room, StartFailed, Waiter
from tests.backends.scenes import Model, Steps, lease


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


def test_shorter_pause_is_not_held_up_by_a_longer_one(model):
    m = model()
    m.machine.hold(math.inf)
    for _ in range(6):
        m.crash(m.world.launched[-1], permanent=True)
        m.world.advance(0 if len(m.world.launched) == 6 else 60)
    m.machine.start()  # an operator does not wait for the minute
    assert len(m.world.launched) == 7
    for _ in range(2):
        m.crash(m.world.launched[-1])
    m.world.advance(0.6)
    assert len(m.world.launched) == 9


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
    holding = Steps((1000.0, "off"))
    m = model(holding=holding)
    lease_of(m).release()
    m.world.advance(0)
    holding.steps = ((5.0, "off"),)
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
        self.holding = Steps((5.0, "sleep_1"), (9.0, "sleep_2"), (15.0, "off"))
        self.m = Model(
            max_instances=2,
            max_concurrency=2,
            holding=self.holding,
            sleep_rungs=("sleep_1", "sleep_2"),
            room=Room(6, 1000),
        )
        self.waiters: list[Waiter] = []
        self.moves: list[tuple[str, str]] = []  # what the world is at: (instance, sleep or wake)
        self.seen = (0, 0)
        self.wronged = ""

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

    def _learn_moves(self) -> None:
        """What was asked of the world since the last look; it is told to none that is busy."""
        falling, woken = self.m.world.falling, self.m.world.woken
        new = [(id, "sleep") for id, _ in falling[self.seen[0] :]]
        new += [(id, "wake") for id in woken[self.seen[1] :]]
        for id, what in new:
            if id in [other for other, _ in self.moves]:
                self.wronged = f"{id} is told to {what} while it is at something"
        self.moves += new
        self.seen = (len(falling), len(woken))

    def _take_move(self, index: int) -> tuple[str, str] | None:
        self._learn_moves()
        return self.moves.pop(index % len(self.moves)) if self.moves else None

    def _gone(self, instance_id: str) -> None:
        self.moves = [(id, what) for id, what in self.moves if id != instance_id]

    @rule(pinned=st.booleans())
    def ask(self, pinned: bool) -> None:
        ids = list(self.m.machine.instances)
        self.waiters.append(self.m.ask(only=ids[-1] if pinned and ids else None))

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

    @rule(index=st.integers(0, 5), well=st.booleans())
    def end_a_move(self, index: int, well: bool) -> None:
        """An engine fell asleep, woke, or did not; it may be gone or stopped by now."""
        move = self._take_move(index)
        if move is None:
            return
        machine = self.m.machine
        match move[1], well:
            case "sleep", True:
                machine.fell_asleep(move[0])
            case "sleep", False:
                machine.sleep_refused(move[0])
                machine.ladder.wakes.refused.clear()  # else nothing sleeps any more
            case "wake", True:
                machine.woke(move[0])
            case "wake", False:
                machine.wake_failed(move[0], "boom")
                machine.ladder.wakes.refused.clear()

    @rule(index=st.integers(0, 5))
    def exit(self, index: int) -> None:
        gone = [i for i in self.m.machine.instances.values() if i.endpoint is not None]
        if gone:
            instance = gone[index % len(gone)]
            self._learn_moves()
            self._gone(instance.id)
            self.m.machine.exited(instance.id, "gone")

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        machine, world = self.m.machine, self.m.world
        coming = set(machine.instances.coming and [i.id for i in machine.instances.coming])
        busy = {i.id for i in machine.instances.values() if i.in_flight}
        told = len(world.stopped), len(world.falling)
        world.advance(seconds)
        if (busy | coming) & set(world.stopped[told[0] :]):
            self.wronged = "time stopped what served or came"
        if busy & {id for id, _ in world.falling[told[1] :]}:
            self.wronged = "time put to sleep what served"

    @rule()
    def operator_drains(self) -> None:
        self.m.machine.drain()

    @rule()
    def somebody_wakes_it(self) -> None:
        self.m.machine.wake()

    @rule(for_s=st.sampled_from([0.0, 3.0, 30.0, math.inf]))
    def somebody_holds_it(self, for_s: float) -> None:
        self.m.machine.hold(self.m.world.now_s + for_s)

    @rule(number=st.integers(0, 3))
    def somebody_holds_several(self, number: int) -> None:
        self.m.machine.hold_instances(number)

    @invariant()
    def nothing_was_wronged(self) -> None:
        self._learn_moves()
        assert not self.wronged

    @invariant()
    def never_more_instances_than_allowed(self) -> None:
        assert len(self.m.machine.instances) <= 2

    @invariant()
    def never_over_the_concurrency_limit(self) -> None:
        # but for those whom one instance alone can serve
        pinned = [w for w in self.waiters if w.future.done()]
        assert all(0 <= i.in_flight <= 2 + len(pinned) for i in self._instances())

    def _instances(self) -> list[Instance]:
        return list(self.m.machine.instances.values())

    @invariant()
    def only_what_is_ready_or_drains_serves(self) -> None:
        serving = (State.READY, State.DRAINING)
        assert all(i.state in serving for i in self._instances() if i.in_flight)

    @invariant()
    def counts_of_waiting_are_true(self) -> None:
        machine = self.m.machine
        waiting = sum(not w.future.done() for w in self.waiters)
        pinned = sum(len(i.pinned) for i in self._instances())
        assert waiting == len(machine.queue) + pinned == machine.queue.room.requests

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Somebody who waits is waited for: by a start, a wake, room, or a pause after failures."""
        machine = self.m.machine
        if len(machine.queue):
            paused = machine.backoff.launch_after_s > self.m.world.now_s
            assert paused or any(not i.asleep for i in self._instances())
        for instance in self._instances():
            if len(instance.pinned):
                assert instance.state is State.WAKING or instance.falling

    @invariant()
    def what_is_idle_has_a_timer_or_is_held(self) -> None:
        for instance in self._instances():
            timed = instance.idle_check_s is not None
            due_s = instance.descent.next_step_s(instance.idle_since_s, instance.rung)
            if instance.idle and due_s < math.inf:
                assert timed or self.m.machine.ladder.held.kept(self.m.world.now_s)

    @invariant()
    def what_is_held_comes_or_is_paused(self) -> None:
        machine = self.m.machine
        kept = min(machine.ladder.held.kept(self.m.world.now_s), 2)
        paused = machine.backoff.launch_after_s > self.m.world.now_s
        draining = [i for i in self._instances() if i.state is State.DRAINING]
        there = len(machine.instances.ready) + len(machine.instances.coming) + len(draining)
        assert paused or there >= kept


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis_settings(max_examples=200, stateful_step_count=40, deadline=None)
