"""The right to send one request to one endpoint, the wait for it, and the bound on waiting."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator

from backends.endpoint import Endpoint


class Lease:
    """One place at one endpoint, held from the hand-over to the last byte.

    `release` gives it back, once; the health of the endpoint is reported before that by `answered`
    and `succeeded`, or by `failed`. A lease released without a verdict says nothing about it.
    """

    __slots__ = (
        "_on_release",
        "_probe",
        "cold_start",
        "endpoint",
        "released",
        "served",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        on_release: Callable[["Lease"], None],
        *,
        cold_start: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.cold_start = cold_start
        self.released = False
        self.served = False  # whether the endpoint gave an answer with it
        self._on_release = on_release
        self._probe = endpoint.breaker.begin()
        endpoint.in_flight += 1
        if endpoint.in_flight == 1 and endpoint.on_busy is not None:
            endpoint.on_busy(True)

    def answered(self) -> None:
        """An answer began, and may still break: it ends a probe well, and forgives nothing yet."""
        self.served = True
        if self._probe:
            self._probe = False
            self.endpoint.breaker.succeeded()

    def succeeded(self) -> None:
        """An answer came to its end."""
        self._probe = False
        self.served = True
        self.endpoint.breaker.succeeded()

    def failed(self, now_s: float, *, at_once: bool = False) -> None:
        self._probe = False
        self.endpoint.breaker.failed(now_s, at_once=at_once)

    def release(self) -> None:
        if self.released:
            return
        self.released = True
        if self._probe:
            self.endpoint.breaker.abandon()
        self.endpoint.in_flight -= 1
        if not self.endpoint.in_flight and self.endpoint.on_busy is not None:
            self.endpoint.on_busy(False)
        self._on_release(self)


class Unavailable(Exception):
    """Why no lease was given; `retry_after_s` is when asking again may help."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoEndpoint(Unavailable):
    """Nothing healthy is there, and nothing is coming."""


class StartFailed(Unavailable):
    """The model server could not be started; the message ends with the last lines of its log."""


class NoMemory(Unavailable):
    """Others hold so much of its device that the model could not be started in time."""


class QueueFull(Unavailable):
    """As many requests, or bytes, wait for this model as may."""


class WaitExpired(Unavailable):
    """The caller's time ran out. `starting` tells a start in progress from a want of room."""

    def __init__(self, message: str, *, starting: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)
        self.starting = starting


class Room:
    """How much may wait for one model, in requests and in bytes of their bodies."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.bytes = 0

    def resize(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes

    def take(self, size: int) -> None:
        """Raises QueueFull. A single request always fits in bytes when nothing else waits."""
        if self.requests >= self.max_requests:
            raise QueueFull(f"{self.requests} requests wait already, the limit of its queue")
        if self.requests and self.bytes + size > self.max_bytes:
            raise QueueFull(f"{self.bytes} bytes wait already; its queue holds {self.max_bytes}")
        self.requests += 1
        self.bytes += size

    def give_back(self, size: int) -> None:
        self.requests -= 1
        self.bytes -= size


class Waiter:
    """A request that waits for a lease; `future` gets the lease or an Unavailable.

    `excluding` holds endpoints that failed it already; after `until_s` nobody waits any more.
    Waiters with the same `affinity` are served by the same endpoint where they can be.
    """

    __slots__ = ("affinity", "excluding", "future", "in_queue", "since_s", "size", "until_s")

    def __init__(
        self,
        size: int,
        since_s: float,
        excluding: Collection[Endpoint] = (),
        until_s: float = math.inf,
        affinity: str | None = None,
    ) -> None:
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self.size = size
        self.since_s = since_s
        self.excluding = excluding
        self.until_s = until_s
        self.affinity = affinity
        self.in_queue = False

    @property
    def gone(self) -> bool:
        return self.future.done()


class WaitQueue:
    """Waiters in order of arrival, within the room that the model's queues share."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self._waiters: deque[Waiter] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters)

    def join(self, waiter: Waiter) -> None:
        """Raises QueueFull."""
        self.room.take(waiter.size)
        waiter.in_queue = True
        self._waiters.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Take a waiter out, wherever it stands; one that is out already is left alone."""
        if waiter.in_queue:
            self._waiters.remove(waiter)
            self._out(waiter)

    def pop(self) -> Waiter | None:
        """The next waiter that still waits, taken out of the queue."""
        while self._waiters:
            waiter = self._waiters.popleft()
            self._out(waiter)
            if not waiter.gone:
                return waiter
        return None

    def _out(self, waiter: Waiter) -> None:
        waiter.in_queue = False
        self.room.give_back(waiter.size)


async def wait_for_lease(
    waiter: Waiter, timeout_s: float, abandon: Callable[[Waiter], None]
) -> Lease:
    """Wait until `waiter` is served. TimeoutError when its time is up.

    A lease that was handed over in the very moment in which its caller left is given back.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await waiter.future
    except (TimeoutError, asyncio.CancelledError):
        abandon(waiter)
        if waiter.future.done() and not waiter.future.cancelled() and not waiter.future.exception():
            waiter.future.result().release()
        raise
