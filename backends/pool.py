"""A fixed set of endpoints that somebody else keeps running: a hot pool, or an outside API.

Owns which of them gets the next request and who waits for room. Decides nothing about starting
servers or about money.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import httpx2

from backends.endpoint import Endpoint
from backends.lease import Lease, NoEndpoint, Room, Waiter, WaitExpired, WaitQueue, wait_for_lease
from backends.upstream_dial import default_tls

log = logging.getLogger("lamplighter.pool")

Clock = Callable[[], float]


@dataclass(frozen=True)
class PoolView:
    """What a decision may know of a pool. `free` counts healthy endpoints' places."""

    healthy: int
    free: float
    in_flight: int
    waiting: int


class Pool:
    """Endpoints, balanced by requests in flight per unit of weight."""

    def __init__(self, endpoints: Sequence[Endpoint], room: Room, clock: Clock) -> None:
        self.endpoints = list(endpoints)
        self._queue = WaitQueue(room)
        self._clock = clock
        self._turn = 0

    def view(self, excluding: Collection[str] = ()) -> PoolView:
        now_s = self._clock()
        usable = [e for e in self.endpoints if e.id not in excluding and e.breaker.allows(now_s)]
        return PoolView(
            healthy=len(usable),
            free=sum(max(e.free, 0) for e in usable),
            in_flight=sum(e.in_flight for e in self.endpoints),
            waiting=len(self._queue),
        )

    def try_lease(self, excluding: Collection[str] = ()) -> Lease | None:
        """A place at the least loaded healthy endpoint, or None; never waits."""
        endpoint = self._least_loaded(excluding)
        return Lease(endpoint, self._released) if endpoint else None

    def lease_at(self, endpoint_id: str) -> Lease | None:
        """A place at one certain endpoint, however full or ill it is; None when it is gone."""
        for endpoint in self.endpoints:
            if endpoint.id == endpoint_id:
                return Lease(endpoint, self._released)
        return None

    async def lease(self, size: int, timeout_s: float) -> Lease:
        """Wait for a place. Raises QueueFull, NoEndpoint when nothing is healthy, WaitExpired."""
        if not self.view().healthy:
            raise NoEndpoint("no endpoint of its pool is healthy", self.next_probe_s())
        waiter = Waiter(size, self._clock())
        self._queue.join(waiter)
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
        known = {(e.origin.url, e.key): e for e in self.endpoints}
        for endpoint in wanted:
            stays = known.get((endpoint.origin.url, endpoint.key), endpoint)
            stays.weight = endpoint.weight
            stays.max_concurrency = endpoint.max_concurrency
            known[endpoint.origin.url, endpoint.key] = stays
        self.adopt([known[e.origin.url, e.key] for e in wanted])

    def adopt(self, endpoints: Sequence[Endpoint]) -> None:
        """Take a new set of endpoints; leases on those that went keep their own."""
        gone = [e for e in self.endpoints if e not in endpoints]
        self.endpoints = list(endpoints)
        for endpoint in gone:
            endpoint.origin.close()
        self._serve_waiters()

    def close(self) -> None:
        for endpoint in self.endpoints:
            endpoint.origin.close()

    def _least_loaded(self, excluding: Collection[str]) -> Endpoint | None:
        now_s = self._clock()
        best: Endpoint | None = None
        count = len(self.endpoints)
        self._turn += 1  # ties go round, so that idle endpoints share the work
        for offset in range(count):
            endpoint = self.endpoints[(self._turn + offset) % count]
            if endpoint.free < 1 or endpoint.id in excluding:
                continue
            if endpoint.breaker.allows(now_s) and (best is None or endpoint.load < best.load):
                best = endpoint
        return best

    def _released(self, _: Lease) -> None:
        self._serve_waiters()

    def _serve_waiters(self) -> None:
        while len(self._queue) and (endpoint := self._least_loaded(())):
            waiter = self._queue.pop()
            if waiter is None:
                return
            waited_s = self._clock() - waiter.since_s
            waiter.future.set_result(Lease(endpoint, self._released, waited_s=waited_s))


class HealthCheck:
    """Asks each endpoint of a hot pool for its models, so that a dead one is known beforehand."""

    def __init__(self, pool: Pool, model: str, every_s: float, clock: Clock) -> None:
        self._pool = pool
        self._model = model
        self._every_s = every_s
        self._clock = clock

    async def run(self) -> None:
        # A context of its own for each model would stop the event loop for 25 ms a model.
        async with httpx2.AsyncClient(timeout=5.0, trust_env=False, verify=default_tls()) as client:
            while True:
                await asyncio.gather(*(self._check(client, e) for e in self._pool.endpoints))
                await asyncio.sleep(self._every_s)

    async def _check(self, client: httpx2.AsyncClient, endpoint: Endpoint) -> None:
        headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        was_open = endpoint.breaker.open_until_s is not None
        try:
            response = await client.get(f"{endpoint.origin.url}/models", headers=headers)
            healthy = response.status_code < 500
        except httpx2.HTTPError:
            healthy = False
        if healthy and was_open:
            endpoint.breaker.succeeded()
            self._pool.adopt(self._pool.endpoints)  # waiters may go there now
        elif not healthy:
            endpoint.breaker.failed(self._clock(), at_once=True)
        if healthy == was_open:
            state = "answers again" if healthy else "does not answer its check"
            log.warning("model %s: endpoint %s %s", self._model, endpoint.id, state)
