"""A device that models share: who gets its memory, who makes room, and who waits for whom."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest

from backends.devices import Limits
from backends.instance import State
from backends.lease import NoMemory, StartFailed
from tests.backends.shared import GIB, SharedModel, World


def in_a_loop(test: Callable[..., None]) -> Callable[..., None]:
    """Futures need a loop to be made on; it never runs."""

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        async def once() -> None:
            test(*args, **named)

        work: Awaitable[None] = once()
        asyncio.run(work)  # type: ignore[arg-type]

    return run


def two_loaded(**world: Any) -> tuple[World, SharedModel, SharedModel, SharedModel]:
    """A device with room for two, which are loaded and idle, `b` used more; the third is off."""
    w = World(**world)
    a, b, c = (w.model(name) for name in "abc")
    for model in (a, b, b):
        model.ask()
        w.advance(20)
    assert w.ready() == ["a", "b"]
    return w, a, b, c


@in_a_loop
def test_what_fits_starts_at_once():
    w = World()
    calls = [w.model(name).ask() for name in "ab"]
    w.advance(11)
    assert [c.waited_s for c in calls] == pytest.approx([10.0, 10.0])
    assert w.victims() == []
    w.advance(100)
    w.at_rest()


@in_a_loop
def test_an_idle_one_makes_room_and_the_request_waits_for_that_alone():
    w, a, b, c = two_loaded()
    call = c.ask()
    w.advance(100)
    assert w.victims() == ["a@1"]
    assert call.waited_s == pytest.approx(a.stop_s + c.load_s)
    assert w.ready() == ["b", "c"]
    w.at_rest()


@in_a_loop
def test_the_one_that_is_used_most_stays():
    w, a, b, c = two_loaded()
    for _ in range(2):
        a.ask()
        w.advance(10)
    c.ask()
    w.advance(100)
    assert w.victims() == ["b@1"]


@in_a_loop
def test_one_that_serves_is_not_evicted_before_max_wait():
    w, a, b, c = two_loaded(max_wait_s=30.0)
    for model in (a, b):
        model.ask(serve_s=1000)
    w.advance(1)
    call = c.ask()
    w.advance(29.9)
    assert call.pending
    late = [a.ask(), b.ask()]  # they serve on until somebody's turn comes
    w.advance(0)
    assert [c.waited_s for c in late] == pytest.approx([0.0, 0.0], abs=1e-6)
    w.advance(0.2)
    assert a.ask().pending  # it makes room: what it has must end
    w.advance(10)
    assert w.victims() == []
    assert call.pending


@in_a_loop
def test_after_max_wait_one_takes_nothing_new_ends_what_it_has_and_makes_room():
    w, a, b, c = two_loaded(max_wait_s=30.0)
    a.ask(serve_s=60)
    b.ask(serve_s=200)
    w.advance(0)
    asked_s = w.time.now_s
    call = c.ask(serve_s=5)
    w.advance(31)
    queued = a.ask()
    w.advance(300)
    assert w.victims()[0] == "a@1"
    assert w.gone[0].served
    assert asked_s + call.waited_s == pytest.approx(asked_s + 60 + a.stop_s + c.load_s)
    assert queued.lease is not None  # and the one that had to wait is served in its turn
    w.advance(1000)
    w.at_rest()


@in_a_loop
def test_an_instance_that_loads_is_not_evicted_whatever_waits():
    w = World(memory=16 * GIB, max_wait_s=5.0)
    a, b = w.model("a", load_s=60.0), w.model("b", load_s=1.0)
    first, second = a.ask(serve_s=3), b.ask()
    w.advance(59)
    assert a.instances[0].state is State.PROVISIONING
    assert second.pending
    w.advance(100)
    assert first.waited_s == pytest.approx(60.0)
    assert second.waited_s == pytest.approx(60 + 3 + a.stop_s + b.load_s)
    w.at_rest()


@in_a_loop
def test_a_loaded_model_serves_all_who_waited_for_it_before_it_yields():
    w = World(memory=16 * GIB, max_wait_s=5.0)
    a, b = w.model("a", max_concurrency=1), w.model("b")
    waited = [a.ask(serve_s=10) for _ in range(4)]
    other = b.ask()
    w.advance(12)
    late = a.ask()
    w.advance(500)
    ends_s = [c.waiter.since_s + c.waited_s for c in waited]
    assert ends_s == pytest.approx([10, 20, 30, 40])
    assert other.waited_s == pytest.approx(50 + a.stop_s + b.load_s)
    assert late.waited_s > other.waited_s - 12
    w.at_rest()


@in_a_loop
def test_turns_are_max_wait_apart_however_many_wait():
    w = World(memory=16 * GIB, max_wait_s=30.0)
    models = [w.model(name, load_s=1.0, stop_s=0.1) for name in "abcd"]
    for second in range(600):
        for model in models:
            w.time.call_later(second, model.ask, 1.5)  # each is always in use
    w.advance(2000)
    turns_s = [e.at_s for e in w.gone if e.served]
    gaps = [later - sooner for sooner, later in zip(turns_s, turns_s[1:], strict=False)]
    assert len(turns_s) >= 10
    assert min(gaps) >= 30.0 - 1e-6
    w.at_rest()


@in_a_loop
def test_a_busy_model_keeps_the_device_between_two_of_its_requests():
    """No thrash: a moment without a request is no idleness."""
    w = World(memory=16 * GIB, max_wait_s=30.0)
    a, b = w.model("a"), w.model("b")
    a.ask()
    w.advance(15)
    for n in range(200):
        w.time.call_later(n * 0.5, a.ask, 0.2)
    call = b.ask()
    w.advance(29)
    assert w.victims() == []
    w.advance(300)
    assert call.waited_s == pytest.approx(30 + a.stop_s + b.load_s, abs=0.5)


@in_a_loop
def test_what_fits_beside_waits_for_nobody():
    w = World(memory=40 * GIB)
    a, b = w.model("a"), w.model("b")
    large, small = w.model("large", memory=32 * GIB), w.model("small", memory=8 * GIB)
    for model in (a, b):
        model.ask(serve_s=20)
    w.advance(5)
    first, second = large.ask(), small.ask()
    w.advance(11)
    assert second.waited_s == pytest.approx(10.0)
    assert first.pending
    w.advance(200)
    assert first.lease is not None
    w.at_rest()


@in_a_loop
def test_what_comes_free_for_the_one_who_waits_too_long_is_not_taken_by_later_ones():
    w = World(memory=32 * GIB, max_wait_s=10.0)
    a, b = w.model("a"), w.model("b")
    large, small = w.model("large", memory=32 * GIB), w.model("small", memory=16 * GIB)
    a.ask(serve_s=50)
    b.ask(serve_s=20)
    w.advance(5)
    first = large.ask()
    w.advance(13)
    second = small.ask()
    w.advance(500)
    assert first.waited_s + first.waiter.since_s < second.waited_s + second.waiter.since_s
    assert first.waited_s == pytest.approx(60 - 5 + 1 + large.load_s)
    w.at_rest()


@in_a_loop
def test_a_second_instance_takes_no_ones_turn():
    w = World(memory=32 * GIB, max_wait_s=10.0)
    a = w.model("a", max_instances=2, max_concurrency=1)
    b = w.model("b")
    b.ask(serve_s=300)
    a.ask(serve_s=300)
    w.advance(15)
    a.ask()
    w.advance(200)
    assert w.victims() == []
    w.advance(500)
    w.at_rest()


@in_a_loop
def test_an_early_start_takes_the_place_of_an_idle_one_but_no_ones_turn():
    w, a, b, c = two_loaded(max_wait_s=10.0)
    for model in (a, b):
        model.ask(serve_s=100)
    w.advance(1)
    c.machine.wake()
    w.advance(90)
    assert w.victims() == []
    w.advance(100)
    assert w.victims() == ["a@1"]
    assert c.ready
    w.at_rest()


@in_a_loop
def test_one_that_is_to_be_held_ready_has_its_turn():
    w, a, b, c = two_loaded(max_wait_s=10.0)
    for model in (a, b):
        model.ask(serve_s=20)
    w.advance(1)
    c.machine.hold(math.inf)
    w.advance(12)
    assert w.device.evictions.recallable()
    w.advance(100)
    assert c.ready
    w.at_rest()


@in_a_loop
def test_a_caller_who_left_evicts_nobody():
    w, a, b, c = two_loaded()
    for model in (a, b):
        model.ask(serve_s=1000)
    w.advance(1)
    c.ask(patience_s=10)
    w.advance(500)
    assert w.victims() == []
    assert not c.instances
    assert a.ask().pending
    w.advance(0)
    assert all(i.open for i in a.instances)


@in_a_loop
def test_one_who_was_to_make_room_goes_on_when_nobody_waits_any_more():
    w, a, b, c = two_loaded(max_wait_s=10.0)
    for model in (a, b):
        model.ask(serve_s=100)
    w.advance(1)
    c.ask(patience_s=20)
    w.advance(15)
    queued = a.ask()
    w.advance(0)
    assert queued.pending
    w.advance(10)
    assert queued.lease is not None
    assert w.victims() == []
    w.advance(500)
    w.at_rest()


@in_a_loop
def test_a_victim_that_is_asked_in_the_moment_of_its_eviction_serves_and_another_goes():
    w, a, b, c = two_loaded()
    w.advance(10)
    c.post(c.machine.acquire, c.ask().waiter)
    seen: list[str] = []

    def use_the_victim() -> None:
        if "a@1" in w.device.evictions and not seen:  # decided, and not yet heard of
            seen.append("a@1")
            a.machine.acquire(a.ask(serve_s=50).waiter)

    w.time.after_each.insert(0, use_the_victim)
    w.advance(200)
    assert seen
    assert w.victims() == ["b@1"]
    w.at_rest()


@in_a_loop
def test_a_victim_that_is_held_in_the_moment_of_its_eviction_stays():
    w, a, b, c = two_loaded()
    w.advance(10)

    def hold_the_victim() -> None:
        if "a@1" in w.device.evictions:
            a.machine.hold(math.inf)

    w.time.after_each.insert(0, hold_the_victim)
    c.ask()
    w.advance(200)
    assert w.victims() == ["b@1"]
    w.at_rest()


@in_a_loop
def test_memory_that_came_for_a_caller_who_just_left_is_given_back():
    w, a, b, c = two_loaded()
    call = c.ask()

    def leave() -> None:
        if w.device.granted:
            c.leave(call)
            c.machine.abandon(call.waiter)

    w.time.after_each.insert(0, leave)
    w.advance(100)
    assert call.left
    assert not c.instances
    assert w.device.free == 16 * GIB
    w.at_rest()


@in_a_loop
def test_later_ones_evict_nobody_while_one_waits_too_long_that_cannot_be_helped():
    w = World(memory=32 * GIB, max_wait_s=10.0)
    b, a = w.model("b"), w.model("a", load_s=100.0)
    large, small = w.model("large", memory=32 * GIB), w.model("small")
    b.ask()
    w.advance(15)
    a.ask()
    first = large.ask()
    w.advance(20)
    second = small.ask()
    w.advance(60)
    assert w.victims() == []
    w.advance(500)
    assert first.waited_s < 130
    assert second.waiter.since_s + second.waited_s > first.waiter.since_s + first.waited_s
    w.at_rest()


@in_a_loop
def test_a_victim_that_dies_makes_room_too():
    w, a, b, c = two_loaded(max_wait_s=10.0)
    for model in (a, b):
        model.ask(serve_s=1000)
    w.advance(1)
    call = c.ask()
    w.advance(11)
    a.die(a.instances[0])
    w.advance(c.load_s + 1)
    assert call.lease is not None
    assert w.victims() == []
    assert not w.device.evictions


@in_a_loop
def test_a_start_that_fails_gives_its_memory_back():
    w, a, b, c = two_loaded()
    c.fails = [True] * 3
    call = c.ask()
    w.advance(100)
    assert isinstance(call.refusal, StartFailed)
    assert w.device.free == 16 * GIB
    assert b.ready
    w.advance(100)
    w.at_rest()


@in_a_loop
def test_one_that_can_sleep_is_put_to_sleep_while_host_memory_lasts():
    w = World(host_memory=16 * GIB)
    a, b = (w.model(name, sleep_rungs=("sleep_1",)) for name in "ab")
    c, d = w.model("c"), w.model("d")
    for model in (a, b, b, c, c, c, d):
        model.ask()
        w.advance(30)
    assert [(e.instance_id, e.to) for e in w.gone] == [("a@1", "sleep_1"), ("b@1", "off")]
    assert a.instances[0].asleep
    assert w.device.host_free == 0
    call = a.ask()
    w.advance(30)
    assert call.waited_s == pytest.approx(d.stop_s + a.sleep_s)  # woken, not started
    assert w.victims()[-1] == "d@1"
    assert w.device.host_free == 16 * GIB
    w.at_rest()


@in_a_loop
def test_one_that_is_stopped_while_it_sleeps_takes_no_memory():
    w = World(host_memory=16 * GIB)
    a, b, c = (w.model(n, sleep_rungs=("sleep_1",), stop_s=50.0) for n in "abc")
    for model in (a, b, b, c):
        model.ask()
        w.advance(30)
    b.machine.drain()
    w.advance(60)
    assert w.ready() == ["c"]
    a.machine.drain()  # it sleeps
    call = b.ask()
    w.advance(11)
    assert a.instances[0].state is State.DRAINING
    assert w.device.host_free == 0
    assert call.waited_s == pytest.approx(b.load_s)
    w.advance(100)
    assert w.device.host_free == 16 * GIB


@in_a_loop
def test_a_caller_of_one_certain_instance_wakes_it_beside_or_in_place_of_another():
    w = World(memory=16 * GIB, host_memory=64 * GIB)
    a, b = (w.model(n, sleep_rungs=("sleep_1",), max_instances=2) for n in "ab")
    a.ask()
    w.advance(30)
    b.ask()
    w.advance(30)
    assert a.instances[0].asleep
    call = a.ask(only="a@1")
    w.advance(30)
    assert call.lease is not None
    assert w.victims() == ["a@1", "b@1"]
    w.at_rest()


@in_a_loop
def test_one_that_is_held_is_not_evicted_and_the_error_says_who_holds():
    w, a, b, c = two_loaded()
    for model in (a, b):
        model.machine.hold(math.inf)
    call = c.ask()
    w.advance(1)
    assert isinstance(call.refusal, NoMemory)
    assert str(call.refusal) == (
        "needs 16 GiB of the 32 GiB of device 'gpu0': a@1 has 16 GiB, held ready,"
        " b@1 has 16 GiB, held ready"
    )
    assert call.refusal.retry_after_s == 60.0
    assert w.victims() == []
    w.at_rest()


@in_a_loop
def test_one_that_is_held_for_a_while_is_waited_for_by_who_can():
    w, a, b, c = two_loaded()
    for model in (a, b):
        model.machine.hold(w.time.now_s + 50)
    patient, hurried = c.ask(), c.ask(patience_s=30)
    w.advance(1)
    assert isinstance(hurried.refusal, NoMemory)
    assert patient.pending
    w.advance(100)
    assert patient.waited_s == pytest.approx(50 + a.stop_s + c.load_s)
    w.at_rest()


@in_a_loop
def test_a_hold_takes_the_place_of_one_that_is_not_held():
    w, a, b, c = two_loaded()
    a.machine.hold(math.inf)
    c.machine.hold(math.inf)
    w.advance(100)
    assert w.ready() == ["a", "c"]
    w.at_rest()


@in_a_loop
def test_a_device_that_shrinks_evicts_idle_ones_and_one_that_grows_lets_in_who_waits():
    w, a, b, c = two_loaded()
    a.ask(serve_s=1000)
    w.advance(1)
    w.time.after_each.remove(w.check)  # what is loaded stays over the size until it is gone
    w.device.resize(Limits(16 * GIB, 0.0, 30.0))
    w.advance(10)
    w.time.after_each.append(w.check)
    assert w.victims() == ["b@1"]
    call = c.ask()
    w.advance(5)
    assert call.pending
    w.device.resize(Limits(48 * GIB, 0.0, 30.0))
    w.advance(20)
    assert call.lease is not None


@in_a_loop
def test_a_device_that_shrinks_below_what_serves_waits_for_it_to_end():
    w, a, b, c = two_loaded()
    for model in (a, b):
        model.ask(serve_s=50)
    w.advance(1)
    w.time.after_each.remove(w.check)
    w.device.resize(Limits(16 * GIB, 0.0, 30.0))
    w.advance(40)
    assert w.victims() == []
    w.advance(60)
    assert len(w.victims()) == 1
    w.check()


@in_a_loop
def test_a_model_that_leaves_gives_back_what_it_was_granted_and_asked_for():
    w, a, b, c = two_loaded(max_wait_s=10.0)
    for model in (a, b):
        model.ask(serve_s=100)
    w.advance(1)
    call = c.ask(patience_s=30)
    w.advance(15)
    assert w.device.evictions
    c.machine.retire()
    w.advance(30)
    assert call.left
    c.machine.tenancy.leave()
    w.advance(500)
    assert w.victims() == []
    w.at_rest()


@in_a_loop
def test_what_a_model_waits_for_is_told_with_the_time_until_its_turn():
    w, a, b, c = two_loaded(max_wait_s=30.0)
    assert c.machine.tenancy.shortage() is None
    for model in (a, b):
        model.ask(serve_s=1000)
    w.advance(1)
    c.ask()
    w.advance(12)
    found = c.machine.tenancy.shortage()
    assert found is not None
    why, turn_in_s = found
    assert "a@1 has 16 GiB, in use" in why
    assert turn_in_s == pytest.approx(18.0)
