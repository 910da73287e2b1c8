"""Who waits for an instance of one model, and who is handed a place at which.

Synchronous, as `lifecycle.py` is, which sees to it that instances come. A lease is counted only
when its waiter took it, and is one of an instance that is ready and takes requests.
"""

from collections.abc import Callable, Collection

from backends.affinity import preferred
from backends.endpoint import Endpoint
from backends.instance import ASLEEP, Instance, State
from backends.lease import Lease, NoEndpoint, Unavailable, Waiter, WaitQueue
from backends.states import States


class Serving:
    """The queue of one model, beside which each instance has one of those it alone can serve."""

    def __init__(
        self,
        states: States,
        queue: WaitQueue,
        *,
        used: Callable[[Instance], None],
        released: Callable[[str, bool], None],
    ) -> None:
        self._states = states
        self._queue = queue
        self._used = used
        self._released = released  # an event: which instance, and whether it gave an answer

    def with_room(
        self, excluding: Collection[Endpoint] = (), affinity: str | None = None
    ) -> Instance | None:
        open_ones = [
            i
            for i in self._states.instances.ready
            if i.open
            and i.endpoint is not None
            and i.endpoint.free >= 1
            and i.endpoint.breaker.closed  # else it is being verified
            and i.endpoint not in excluding
        ]
        if affinity is None or len(open_ones) < 2:
            return min(open_ones, key=lambda i: i.in_flight, default=None)
        by_endpoint = {i.endpoint: i for i in open_ones if i.endpoint is not None}
        return by_endpoint[preferred(list(by_endpoint), affinity)]

    def grant(self, instance: Instance, waiter: Waiter) -> None:
        assert instance.endpoint is not None
        self._used(instance)
        released, effects = self._released, self._states.effects
        waiter.future.set_result(
            Lease(
                instance.endpoint,
                lambda lease: effects.post(released, instance.id, lease.served),
                cold_start=instance.reached[State.READY] > waiter.since_s,
            )
        )

    def pin(self, instance_id: str, waiter: Waiter) -> None:
        """Serve it at this instance alone, now or when it is awake again."""
        instance = self._states.instances.get(instance_id)
        if instance is not None and instance.open:
            self.grant(instance, waiter)
        elif instance is not None and (instance.state in ASLEEP or instance.yields_to):
            try:
                instance.pinned.join(waiter)
            except Unavailable as refusal:
                waiter.future.set_exception(refusal)
        else:
            waiter.future.set_exception(NoEndpoint(f"instance {instance_id} is gone"))

    def serve_pinned(self, instance: Instance) -> None:
        while waiter := instance.pinned.pop():
            self.grant(instance, waiter)

    def serve(self) -> None:
        """Hand out what is free, in order of arrival."""
        for waiter in list(self._queue) if self.with_room() else ():
            instance = self.with_room(waiter.excluding, waiter.affinity)
            if instance is not None:
                self._queue.leave(waiter)
                if not waiter.gone:
                    self.grant(instance, waiter)
            elif not waiter.excluding:
                break

    def leave(self, waiter: Waiter) -> None:
        """Take it out wherever it waits."""
        pinned = (i.pinned for i in self._states.instances.values())
        for queue in (self._queue, *pinned):
            if waiter in queue:
                queue.leave(waiter)

    def refuse(self, refusal: Callable[[], Unavailable]) -> None:
        """What they wait for does not come: tell everybody."""
        while waiter := self._queue.pop():
            waiter.future.set_exception(refusal())
