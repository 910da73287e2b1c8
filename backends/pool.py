"""A fixed set of endpoints that somebody else keeps running: a hot pool, or an outside API.

Owns which of them gets the next request and who waits for room. Decides nothing about starting
servers or about money.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

from msgspec import Struct

from backends.affinity import preferred
from backends.endpoint import Endpoint
from backends.lease import Lease, NoEndpoint, Room, Waiter, WaitExpired, WaitQueue, wait_for_lease

Clock = Callable[[], float]


class PoolView(Struct, frozen=True):
    """What a decision may know of a pool. `free` counts healthy endpoints' places."""

    healthy: int
    free: float


class Pool:
    """Endpoints, balanced by requests in flight per unit of weight."""

    def __init__(self, endpoints: Sequence[Endpoint], room: Room, clock: Clock) -> None:
        self.endpoints = list(endpoints)
        self._queue = WaitQueue(room)
        self._clock = clock
        self._turn = 0
        self._looking = False

    def view(self, excluding: Collection[Endpoint] = ()) -> PoolView:
        now_s = self._clock()
        healthy, free = 0, 0.0
        for endpoint in self.endpoints:
            if endpoint.breaker.allows(now_s) and endpoint not in excluding:
                healthy += 1
                free += max(endpoint.free, 0)
        return PoolView(healthy, free)

    def try_lease(
        self, excluding: Collection[Endpoint] = (), affinity: str | None = None
    ) -> Lease | None:
        """A place at a healthy endpoint, or None; never waits.

        The least loaded one, or the one that requests with this `affinity` have in common.
        """
        endpoint = self._suiting(excluding, affinity)
        return Lease(endpoint, self._released) if endpoint else None

    def lease_at(self, endpoint_id: str) -> Lease | None:
        """A place at one certain endpoint, however full or ill it is; None when it is gone."""
        for endpoint in self.endpoints:
            if endpoint.id == endpoint_id:
                return Lease(endpoint, self._released)
        return None

    async def lease(
        self,
        size: int,
        timeout_s: float,
        excluding: Collection[Endpoint] = (),
        affinity: str | None = None,
    ) -> Lease:
        """Wait for a place. Raises QueueFull, NoEndpoint when nothing is healthy, WaitExpired."""
        if not self.view(excluding).healthy:
            raise self._nothing_healthy()
        waiter = Waiter(size, self._clock(), excluding, affinity=affinity)
        self._queue.join(waiter)
        self._serve_waiters()  # a place may have become free since the plan was made
        try:
            return await wait_for_lease(waiter, timeout_s, self._queue.leave)
        except TimeoutError:
            raise WaitExpired("every endpoint of its pool is full", starting=False) from None

    def next_probe_s(self) -> float:
        """Seconds until an endpoint that failed may be tried again; 0 when one is healthy."""
        now_s = self._clock()
        return min(
            (max((e.breaker.open_until_s or now_s) - now_s, 0.0) for e in self.endpoints),
            default=0.0,
        )

    def follow(self, wanted: Sequence[Endpoint]) -> None:
        """Become what is wanted; endpoints that stay keep their connections, load and health."""
        known = {_address(e): e for e in self.endpoints}
        before, self.endpoints = self.endpoints, []
        for endpoint in wanted:
            stays = known.get(_address(endpoint), endpoint)
            stays.weight = endpoint.weight
            stays.max_concurrency = endpoint.max_concurrency
            self.endpoints.append(stays)
        for endpoint in before:
            if endpoint not in self.endpoints:
                endpoint.origin.close()  # leases on it keep it until they end
        self.wake()

    def wake(self) -> None:
        """Something may have become free or healthy."""
        self._serve_waiters()

    def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.origin.close()

    def _suiting(self, excluding: Collection[Endpoint], affinity: str | None) -> Endpoint | None:
        if affinity is None:
            return self._least_loaded(excluding)
        now_s = self._clock()
        open_ones = [
            e
            for e in self.endpoints
            if e.free >= 1 and e not in excluding and e.breaker.allows(now_s)
        ]
        return preferred(open_ones, affinity) if open_ones else None

    def _least_loaded(self, excluding: Collection[Endpoint]) -> Endpoint | None:
        now_s = self._clock()
        best: Endpoint | None = None
        count = len(self.endpoints)
        self._turn += 1  # ties go round, so that idle endpoints share the work
        for offset in range(count):
            endpoint = self.endpoints[(self._turn + offset) % count]
            if endpoint.free < 1 or endpoint in excluding:
                continue
            if endpoint.breaker.allows(now_s) and (best is None or endpoint.load < best.load):
                best = endpoint
        return best

    def _released(self, _: Lease) -> None:
        if len(self._queue):
            self._serve_waiters()

    def _nothing_healthy(self) -> NoEndpoint:
        return NoEndpoint("no endpoint of its pool is healthy", self.next_probe_s())

    def _serve_waiters(self) -> None:
        """Hand out what is free, in order of arrival; let nobody wait for what will not come."""
        for waiter in list(self._queue):
            endpoint = self._suiting(waiter.excluding, waiter.affinity)
            if endpoint is None and self.view(waiter.excluding).healthy:
                continue
            self._queue.leave(waiter)
            if waiter.gone:
                continue
            if endpoint is None:
                waiter.future.set_exception(self._nothing_healthy())
            else:
                waiter.future.set_result(Lease(endpoint, self._released))
        self._look_again_at_next_probe()

    def _look_again_at_next_probe(self) -> None:
        """An endpoint that may be probed again makes room without anything else happening."""
        now_s = self._clock()
        due_s = [e.breaker.open_until_s for e in self.endpoints if e.breaker.open_until_s]
        if len(self._queue) and due_s and not self._looking:
            self._looking = True
            delay_s = max(min(due_s) - now_s, 0.05)
            asyncio.get_running_loop().call_later(delay_s, self._look_again)

    def _look_again(self) -> None:
        self._looking = False
        self._serve_waiters()


def _address(endpoint: Endpoint) -> tuple[str, str | None, str]:
    """What makes an endpoint the same after a reload."""
    return endpoint.origin.url, endpoint.key, endpoint.served_as
