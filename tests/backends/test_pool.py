"""Who gets the next request of a fixed pool, and who waits for room."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from backends.endpoint import Endpoint
from backends.lease import NoEndpoint, QueueFull, Room, WaitExpired
from backends.pool import Pool
from backends.upstream import Origin


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def endpoint(id: str, **more: float) -> Endpoint:
    return Endpoint(id, Origin(f"http://{id}:1/v1"), **more)  # type: ignore[arg-type]


def pool(*endpoints: Endpoint, clock: Clock | None = None, room: Room | None = None) -> Pool:
    return Pool(endpoints, room or Room(100, 1 << 20), clock or Clock())


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_least_loaded_endpoint_is_next():
    p = pool(endpoint("a"), endpoint("b"), endpoint("c"))
    leases = [p.try_lease() for _ in range(6)]
    assert [e.in_flight for e in p.endpoints] == [2, 2, 2]
    leases[0].release()
    assert p.try_lease().endpoint is leases[0].endpoint


def test_idle_endpoints_take_turns():
    p = pool(endpoint("a"), endpoint("b"))
    seen = []
    for _ in range(4):
        lease = p.try_lease()
        seen.append(lease.endpoint.id)
        lease.release()
    assert sorted(seen) == ["a", "a", "b", "b"]


def test_weights_share_the_load():
    p = pool(endpoint("a", weight=3.0), endpoint("b"))
    for _ in range(40):
        p.try_lease()
    assert [e.in_flight for e in p.endpoints] == [30, 10]


def test_excluded_and_ill_endpoints_are_not_used():
    clock = Clock()
    p = pool(endpoint("a"), endpoint("b"), clock=clock)
    p.endpoints[0].breaker.failed(0.0, at_once=True)
    assert p.try_lease().endpoint.id == "b"
    assert p.try_lease(excluding={p.endpoints[1]}) is None
    assert p.view().healthy == 1
    assert p.next_probe_s() == 0.0
    clock.now_s = 1.0
    assert p.try_lease(excluding={p.endpoints[1]}).endpoint.id == "a"


def test_release_twice_counts_once():
    p = pool(endpoint("a"))
    lease = p.try_lease()
    lease.release()
    lease.release()
    assert p.endpoints[0].in_flight == 0


def test_full_pool_serves_waiters_in_order():
    async def test() -> None:
        p = pool(endpoint("a", max_concurrency=1))
        held = p.try_lease()
        assert p.try_lease() is None
        first = asyncio.create_task(p.lease(1, 10))
        second = asyncio.create_task(p.lease(1, 10))
        await asyncio.sleep(0)
        assert not first.done()
        held.release()
        lease = await first
        assert not second.done()
        lease.release()
        (await second).release()
        assert p.endpoints[0].in_flight == 0

    run(test)


def test_waiter_that_leaves_gives_its_room_back():
    async def test() -> None:
        room = Room(1, 100)
        p = pool(endpoint("a", max_concurrency=1), room=room)
        held = p.try_lease()
        waiting = asyncio.create_task(p.lease(5, 10))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await p.lease(5, 10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (room.requests, room.bytes) == (0, 0)
        held.release()
        assert p.endpoints[0].in_flight == 0

    run(test)


def test_lease_granted_in_the_moment_of_leaving_is_given_back():
    async def test() -> None:
        p = pool(endpoint("a", max_concurrency=1))
        held = p.try_lease()
        waiting = asyncio.create_task(p.lease(1, 10))
        await asyncio.sleep(0)
        held.release()  # hands over to `waiting`, which has not run yet
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert p.endpoints[0].in_flight == 0

    run(test)


def test_time_to_wait_ends():
    async def test() -> None:
        room = Room(100, 1 << 20)
        p = pool(endpoint("a", max_concurrency=1), room=room)
        p.try_lease()
        with pytest.raises(WaitExpired) as caught:
            await p.lease(1, 0.0)
        assert not caught.value.starting
        assert room.requests == 0

    run(test)


def test_nothing_healthy_is_said_at_once():
    async def test() -> None:
        p = pool(endpoint("a"))
        p.endpoints[0].breaker.failed(0.0, at_once=True)
        with pytest.raises(NoEndpoint) as caught:
            await p.lease(1, 10)
        assert caught.value.retry_after_s == 1.0

    run(test)


def test_follow_serves_waiters_at_new_endpoints_and_keeps_old_leases():
    async def test() -> None:
        old, new = endpoint("a", max_concurrency=1), endpoint("b")
        p = pool(old)
        held = p.try_lease()
        waiting = asyncio.create_task(p.lease(1, 10))
        await asyncio.sleep(0)
        p.follow([new])
        assert (await waiting).endpoint is new
        held.release()
        assert old.in_flight == 0

    run(test)


def test_waiters_hear_at_once_when_the_last_endpoint_becomes_ill():
    async def test() -> None:
        p = pool(endpoint("a", max_concurrency=1))
        held = p.try_lease()
        waiting = asyncio.create_task(p.lease(1, 10))
        await asyncio.sleep(0)
        held.failed(0.0, at_once=True)
        held.release()
        with pytest.raises(NoEndpoint):
            await waiting

    run(test)


def test_waiter_is_not_served_by_an_endpoint_that_failed_it():
    async def test() -> None:
        a, b = endpoint("a", max_concurrency=1), endpoint("b", max_concurrency=1)
        p = pool(a, b)
        held = {p.try_lease() for _ in range(2)}
        waiting = asyncio.create_task(p.lease(1, 10, excluding={a}))
        await asyncio.sleep(0)
        next(h for h in held if h.endpoint is a).release()
        await asyncio.sleep(0)
        assert not waiting.done()
        next(h for h in held if h.endpoint is b).release()
        assert (await waiting).endpoint is b

    run(test)


def test_answer_that_only_began_forgives_nothing_but_ends_a_probe():
    clock = Clock()
    p = pool(endpoint("a"), clock=clock)
    breaker = p.endpoints[0].breaker
    for _ in range(3):
        lease = p.try_lease()
        lease.answered()
        lease.failed(0.0)
        lease.release()
    assert not breaker.closed  # three streams that broke are three failures
    clock.now_s = 1.0
    p.try_lease().answered()
    assert breaker.closed


def test_place_that_became_free_before_the_wait_began_is_taken():
    """Nobody would tell of it later."""

    async def test() -> None:
        p = pool(endpoint("a", max_concurrency=1))
        (await p.lease(1, 10)).release()

    run(test)
