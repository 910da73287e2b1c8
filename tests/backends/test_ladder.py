"""Down the ladder and up again, under a clock of the test."""

import math
from collections.abc import Callable, Iterator

import pytest

from backends.holding import FAILED_WAKES, Rung, Wakes
from backends.instance import State
from backends.lease import NoEndpoint, Room
from tests.backends.scenes import Model, Steps, lease

BOTH: tuple[Rung, ...] = ("sleep_1", "sleep_2")
DOWN = Steps((10.0, "sleep_1"), (100.0, "sleep_2"), (1000.0, "off"))

Make = Callable[..., Model]


@pytest.fixture
def model() -> Iterator[Make]:
    made: list[Model] = []

    def make(*steps: tuple[float, Rung], **changes: object) -> Model:
        holding = Steps(*(steps or DOWN.steps))
        made.append(Model(holding=holding, sleep_rungs=BOTH, **changes))
        return made[-1]

    yield make
    for each in made:
        each.close()


def states(m: Model) -> list[State]:
    return [i.state for i in m.machine.instances.values()]


def reported(m: Model) -> list[State]:
    return [state for _, state in m.world.changes]


def test_idle_goes_down_every_rung_in_its_time(model: Make) -> None:
    m = model()
    m.served()
    m.world.advance(9.9)
    assert m.world.falling == []
    m.world.advance(0.1)
    assert m.world.falling == [("m@1", "sleep_1")]
    m.machine.fell_asleep("m@1")
    m.world.advance(89.9)
    assert m.world.woken == []
    m.world.advance(0.1)  # vLLM ignores a second /sleep: it is woken first
    assert m.world.woken == ["m@1"]
    m.machine.woke("m@1")
    m.world.advance(0)
    assert m.world.falling[1:] == [("m@1", "sleep_2")]
    m.machine.fell_asleep("m@1")
    m.world.advance(899.9)
    assert m.world.stopped == []
    m.world.advance(0.1)
    assert m.world.stopped == ["m@1"]


def test_sleep_is_reported_when_it_is_true(model: Make) -> None:
    m = model()
    m.served()
    m.world.advance(10)
    [instance] = m.machine.instances.values()
    assert instance.state is State.SLEEPING
    assert instance.rung == "hot"
    assert State.SLEEPING not in reported(m)
    m.world.advance(3)
    m.machine.fell_asleep("m@1")
    assert reported(m)[-1] is State.SLEEPING
    assert instance.rung == "sleep_1"
    assert instance.reached[State.SLEEPING] == 13.0


def test_rungs_that_time_has_passed_by_are_left_out(model: Make) -> None:
    m = model((10.0, "sleep_1"), (10.0, "sleep_2"), (50.0, "off"))
    m.served()
    m.world.advance(10)
    assert m.world.falling == [("m@1", "sleep_2")]


def test_empty_descent_stays_hot(model: Make) -> None:
    m = Model(holding=Steps(), sleep_rungs=BOTH)
    m.served()
    m.world.advance(1e9)
    assert (m.world.falling, m.world.stopped) == ([], [])
    m.close()


def test_request_wakes_once_for_all_who_come(model: Make) -> None:
    m = model()
    m.asleep()
    waiters = [m.ask() for _ in range(50)]
    assert m.world.woken == ["m@1"]
    assert len(m.world.launched) == 1
    assert not any(w.future.done() for w in waiters)
    m.world.advance(2)
    m.machine.woke("m@1")
    assert {lease(w).endpoint.id for w in waiters} == {"m@1"}
    assert all(lease(w).cold_start for w in waiters)
    assert m.machine.ladder.wakes.times_s == {"sleep_1": (2.0,)}
    assert list(m.machine.start_times_s) == [0.0]  # a wake is no start


def test_request_while_it_falls_asleep_waits_and_wakes_it(model: Make) -> None:
    m = model()
    m.served()
    m.world.advance(10)
    waiter = m.ask()
    assert not waiter.future.done()
    assert (m.world.woken, len(m.world.launched)) == ([], 1)
    m.machine.fell_asleep("m@1")
    assert m.world.woken == ["m@1"]
    m.machine.woke("m@1")
    assert lease(waiter).endpoint.id == "m@1"


def test_caller_who_left_while_it_fell_asleep_wakes_nobody(model: Make) -> None:
    m = model()
    m.served()
    m.world.advance(10)
    m.machine.abandon(m.ask())
    m.machine.fell_asleep("m@1")
    assert m.world.woken == []


def test_request_while_it_wakes_only_to_sleep_deeper_is_served(model: Make) -> None:
    m = model()
    m.asleep()
    m.world.advance(90)
    assert m.world.woken == ["m@1"]
    waiter = m.ask()
    m.machine.woke("m@1")
    lease(waiter).release()
    m.world.advance(9.9)
    assert m.world.falling == [("m@1", "sleep_1")]  # a new idleness has begun
    m.world.advance(0.1)
    assert m.world.falling[1:] == [("m@1", "sleep_1")]


def test_level_two_is_woken_from_where_it_is(model: Make) -> None:
    m = model()
    m.asleep("sleep_2")
    m.ask()
    m.world.advance(7)
    m.machine.woke("m@1")
    assert m.machine.ladder.wakes.times_s["sleep_2"] == (7.0,)


def test_the_nearest_of_two_sleepers_is_woken(model: Make) -> None:
    m = model((10.0, "sleep_1"), max_instances=2, max_concurrency=1)
    both = [m.ask(), m.ask()]
    for instance in m.world.launched:
        m.ready(instance)
    for waiter in both:
        lease(waiter).release()
    m.world.advance(10)
    for instance_id, _ in m.world.falling:
        m.machine.fell_asleep(instance_id)
    m.machine.instances["m@1"].rung = "sleep_2"
    m.ask()
    assert m.world.woken == ["m@2"]
    m.ask()
    assert m.world.woken == ["m@2", "m@1"]
    assert len(m.world.launched) == 2


def test_a_sleeper_is_woken_though_another_starts(model: Make) -> None:
    m = model((10.0, "sleep_1"), max_instances=2, max_concurrency=1)
    waiters = [m.ask(), m.ask()]
    m.ready(m.world.launched[0])
    for waiter in waiters:  # the second is served when the first has left
        lease(waiter).release()
        m.world.advance(0)
    m.world.advance(10)
    m.machine.fell_asleep("m@1")
    m.ask()
    assert m.world.woken == ["m@1"]
    assert [i.id for i in m.machine.instances.starting] == ["m@2"]


def test_refusal_stops_it_and_the_rung_is_not_asked_for_again(model: Make) -> None:
    m = model()
    m.served()
    m.world.advance(10)
    m.machine.sleep_refused("m@1")
    assert m.world.stopped == ["m@1"]
    m.machine.exited("m@1", "stopped")
    m.served()
    m.world.advance(10)
    assert m.world.falling == [("m@1", "sleep_1")]
    assert m.world.stopped == ["m@1", "m@2"]
    assert not m.machine.ladder.offers("sleep_1")
    assert m.machine.ladder.offers("sleep_2")


def test_refusal_while_somebody_waits_is_followed_by_a_start(model: Make) -> None:
    m = model()
    m.served()
    m.world.advance(10)
    waiter = m.ask()
    m.machine.sleep_refused("m@1")
    m.machine.exited("m@1", "stopped")
    assert len(m.world.launched) == 2
    m.ready(m.world.launched[1])
    assert lease(waiter).endpoint.id == "m@2"


def test_wake_that_fails_kills_and_a_start_serves_who_waits(model: Make) -> None:
    m = model()
    m.asleep()
    waiter = m.ask()
    m.machine.wake_failed("m@1", "boom")
    assert m.world.killed == ["m@1"]
    assert reported(m)[-2:] == [State.FAILED, State.DRAINING]
    assert len(m.world.launched) == 1  # the killed one still has the memory
    m.machine.exited("m@1", "killed")
    m.ready(m.world.launched[1])
    assert lease(waiter).endpoint.id == "m@2"


def test_wakes_that_fail_again_and_again_are_given_up(model: Make) -> None:
    m = model()
    for _ in range(FAILED_WAKES):
        instance = m.asleep()
        m.ask()
        m.machine.wake_failed(instance.id, "boom")
        m.machine.exited(instance.id, "killed")
        m.world.advance(1)
        m.ready(m.world.launched[-1])
        for held in m.machine.instances.ready:
            held.endpoint.in_flight = 0  # type: ignore[union-attr]
        m.machine.released(m.world.launched[-1].id, True)
    assert not m.machine.ladder.offers("sleep_1")


def test_a_wake_that_works_forgives_one_that_failed() -> None:
    wakes = Wakes()
    for _ in range(5):
        wakes.failed("sleep_1")
        wakes.woke("sleep_1", 1.0)
    assert wakes.refused == set()


@pytest.mark.parametrize("at", ["falling", "asleep", "waking"])
def test_death_is_noticed_wherever_it_happens(model: Make, at: str) -> None:
    m = model()
    if at == "falling":
        m.served()
        m.world.advance(10)
    else:
        m.asleep()
    if at == "waking":
        m.ask()
    m.machine.exited("m@1", "was killed by signal 9")
    m1 = [state for instance_id, state in m.world.changes if instance_id == "m@1"]
    assert m1[-2:] == [State.FAILED, State.OFF]
    assert len(m.world.launched) == (2 if at == "waking" else 1)  # for who waits
    # What its effects still report is about nobody any more.
    m.machine.fell_asleep("m@1")
    m.machine.woke("m@1")
    m.machine.wake_failed("m@1", "x")
    m.machine.sleep_refused("m@1")
    assert (m.world.killed, m.world.stopped) == ([], [])


@pytest.mark.parametrize("at", ["falling", "asleep", "waking"])
@pytest.mark.parametrize("how", ["drain", "stop", "retire"])
def test_stop_is_obeyed_wherever_it_is(model: Make, at: str, how: str) -> None:
    m = model()
    if at == "falling":
        m.served()
        m.world.advance(10)
    else:
        m.asleep()
        if at == "waking":
            m.machine.wake()
    getattr(m.machine, how)()
    assert m.world.stopped == ["m@1"]
    m.machine.fell_asleep("m@1")
    m.machine.woke("m@1")
    assert states(m) == [State.DRAINING]
    m.machine.exited("m@1", "stopped")
    m.world.advance(10_000)
    assert len(m.world.launched) == 1


def test_retired_while_it_wakes_serves_who_waits_first(model: Make) -> None:
    m = model()
    m.asleep()
    waiter = m.ask()
    m.machine.retire()
    assert m.world.stopped == []
    m.machine.woke("m@1")
    lease(waiter).release()
    m.world.advance(0)
    assert m.world.stopped == ["m@1"]


def test_every_new_idleness_is_asked_about_once(model: Make) -> None:
    m = model()
    holding = m.holding
    assert isinstance(holding, Steps)
    m.served()
    m.world.advance(5)
    asked = len(holding.asked_s)
    m.served()
    assert holding.asked_s[asked:] == [5.0]
    m.world.advance(400)
    m.machine.fell_asleep("m@1")
    m.world.advance(400)
    assert len(holding.asked_s) == asked + 1  # going down is no new idleness


def test_shorter_descent_of_a_later_idleness_counts(model: Make) -> None:
    m = model((300.0, "off"))
    m.served()
    m.world.advance(1)
    m.holding.steps = ((5.0, "off"),)  # type: ignore[attr-defined]
    m.served()
    m.world.advance(4.9)
    assert m.world.stopped == []
    m.world.advance(0.1)
    assert m.world.stopped == ["m@1"]


def test_timers_do_not_pile_up(model: Make) -> None:
    m = model((300.0, "off"))
    for _ in range(1000):
        m.served()
        m.world.advance(0.01)
    assert m.world.timers <= 2


def test_timer_that_an_earlier_one_replaced_starts_no_other(model: Make) -> None:
    m = model((300.0, "off"))
    for _ in range(20):
        m.holding.steps = ((300.0, "off"),)  # type: ignore[attr-defined]
        m.served()
        m.holding.steps = ((5.0, "off"),)  # type: ignore[attr-defined]
        m.served()
        m.world.advance(4)  # the one at 5 s comes too early for the next idleness
    m.holding.steps = ()  # type: ignore[attr-defined]
    m.served()
    m.world.advance(400)
    assert m.world.timers == 0
    assert m.world.stopped == []


def test_a_rung_that_is_not_configured_is_stopped_instead(model: Make) -> None:
    m = Model(holding=Steps((10.0, "sleep_2")), sleep_rungs=("sleep_1",))
    m.served()
    m.world.advance(10)
    assert (m.world.falling, m.world.stopped) == ([], ["m@1"])
    m.close()


def test_no_way_down_while_somebody_waits(model: Make) -> None:
    m = model((10.0, "off"), max_concurrency=1)
    m.served()
    m.world.advance(9.5)
    waiter = m.ask(excluding=("m@1",))  # waits for another than the one that failed it
    m.world.advance(0.6)
    assert m.world.stopped == []
    m.world.advance(0.4)
    assert lease(waiter).endpoint.id == "m@1"


# --- held ready -----------------------------------------------------------------------------------


def test_hold_starts_one_and_keeps_it_until_its_end(model: Make) -> None:
    m = model((10.0, "off"))
    m.machine.hold(500.0)
    m.ready(m.world.launched[0])
    m.world.advance(499.9)
    assert m.world.stopped == []
    m.world.advance(0.1)
    assert m.world.stopped == ["m@1"]


def test_hold_wakes_what_sleeps(model: Make) -> None:
    m = model()
    m.asleep()
    m.machine.hold(math.inf)
    assert m.world.woken == ["m@1"]
    m.machine.woke("m@1")
    m.world.advance(1e6)
    assert m.machine.instances.ready
    m.machine.hold(0.0)
    m.world.advance(0)
    assert m.world.stopped == ["m@1"]


def test_hold_that_is_prolonged_ends_at_its_last_end(model: Make) -> None:
    m = model((10.0, "off"))
    for until_s in (100.0, 200.0, 300.0):
        m.machine.hold(until_s)
    m.ready(m.world.launched[0])
    m.world.advance(299)
    assert m.world.stopped == []
    assert m.world.timers <= 2
    m.world.advance(1)
    assert m.world.stopped == ["m@1"]


def test_held_instance_that_dies_is_started_again_with_pauses(model: Make) -> None:
    m = model()
    m.machine.hold(math.inf)
    for _ in range(6):
        m.ready(m.world.launched[-1])
        m.machine.exited(m.world.launched[-1].id, "died")
        m.world.advance(20)
    assert len(m.world.launched) == 7
    began_s = [i.began_s for i in m.world.launched]
    assert began_s[1] == 0.0
    assert began_s[6] - began_s[5] > began_s[5] - began_s[4] - 20 + 1


def test_held_start_that_fails_for_good_is_tried_again_at_the_longest_pause(model: Make) -> None:
    m = model()
    m.machine.hold(math.inf)
    for _ in range(10):
        m.crash(m.world.launched[-1], permanent=True)
        m.world.advance(60)
    assert len(m.world.launched) == 11


def test_hold_of_several_keeps_so_many_and_lets_the_rest_go(model: Make) -> None:
    m = model((10.0, "off"), max_instances=5, max_concurrency=1)
    m.machine.hold_instances(2)
    assert len(m.world.launched) == 2
    waiters = [m.ask() for _ in range(3)]
    assert len(m.world.launched) == 3
    for instance in list(m.world.launched):
        m.ready(instance)
    for waiter in waiters:
        lease(waiter).release()
    m.world.advance(10)
    assert len(m.world.stopped) == 1
    m.world.advance(1000)
    assert len(m.world.stopped) == 1
    m.machine.hold_instances(0)
    m.world.advance(0)
    assert len(m.world.stopped) == 3


def test_held_instance_may_go_once_another_is_ready(model: Make) -> None:
    m = model((10.0, "off"), max_instances=2, max_concurrency=1)
    m.machine.hold(math.inf)
    m.ready(m.world.launched[0])
    m.world.advance(20)  # the time of its step has passed
    busy = [m.ask(), m.ask()]
    lease(busy[0]).release()  # so the other one is served by it, while a second one starts
    m.world.advance(0)
    lease(busy[1]).release()
    m.world.advance(20)
    assert m.world.stopped == []
    m.ready(m.world.launched[1])
    m.world.advance(0)
    assert m.world.stopped == ["m@1"]


def test_hold_of_more_than_may_be_keeps_what_may_be(model: Make) -> None:
    m = model(max_instances=2)
    m.machine.hold_instances(9)
    assert len(m.world.launched) == 2


def test_operator_who_stops_all_ends_a_hold(model: Make) -> None:
    m = model()
    m.machine.hold(math.inf)
    m.ready(m.world.launched[0])
    m.machine.stop()
    m.machine.exited("m@1", "stopped")
    m.world.advance(1000)
    assert len(m.world.launched) == 1


def test_operator_who_stops_one_of_a_hold_gets_another(model: Make) -> None:
    m = model()
    m.machine.hold(math.inf)
    m.ready(m.world.launched[0])
    m.machine.drain("m@1")
    m.machine.exited("m@1", "stopped")
    assert len(m.world.launched) == 2


def test_retired_model_cannot_be_held(model: Make) -> None:
    m = model()
    m.machine.retire()
    m.machine.hold(math.inf)
    m.machine.hold_instances(3)
    m.machine.wake()
    assert m.world.launched == []


def test_wake_that_nobody_waits_for_idles_down_again(model: Make) -> None:
    m = model()
    m.asleep()
    m.world.advance(30)
    m.machine.wake()
    m.machine.wake()
    assert m.world.woken == ["m@1"]
    m.machine.woke("m@1")
    m.world.advance(9.9)
    assert len(m.world.falling) == 1
    m.world.advance(0.1)
    assert len(m.world.falling) == 2


def test_wake_of_what_wakes_to_sleep_deeper_keeps_it_up(model: Make) -> None:
    m = model()
    m.asleep()
    m.world.advance(90)
    m.machine.wake()
    m.machine.woke("m@1")
    m.world.advance(5)
    assert m.machine.instances.ready


def test_wake_of_what_is_off_starts_one(model: Make) -> None:
    m = model()
    m.machine.wake()
    m.machine.wake()
    assert len(m.world.launched) == 1


# --- callers whom one instance alone can serve ----------------------------------------------------


@pytest.mark.parametrize("at", ["falling", "asleep", "waking"])
def test_stored_response_wakes_the_instance_that_keeps_it(model: Make, at: str) -> None:
    m = model()
    m.served() if at == "falling" else m.asleep()
    m.world.advance(10 if at == "falling" else 0)
    if at == "waking":
        m.machine.wake()
    waiter = m.ask(only="m@1")
    if at == "falling":
        m.machine.fell_asleep("m@1")
    assert m.world.woken == ["m@1"]
    m.machine.woke("m@1")
    assert lease(waiter).endpoint.id == "m@1"


def test_stored_response_of_an_instance_that_dies_is_refused(model: Make) -> None:
    room = Room(5, 100)
    m = model(room=room)
    m.asleep()
    waiters = [m.ask(only="m@1") for _ in range(2)]
    m.machine.abandon(waiters[0])
    assert room.requests == 1
    m.machine.exited("m@1", "killed")
    assert isinstance(waiters[1].future.exception(), NoEndpoint)
    assert room.requests == 0
    assert len(m.world.launched) == 1  # no other can have it
