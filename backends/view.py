"""What a decision may know of a cold model, read from its states at one moment."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from backends.endpoint import Endpoint
from backends.holding import LADDER, Rung
from backends.instance import RISING, Instance, State
from backends.lifecycle import Lifecycle

NEARNESS = (  # of a state to serving
    State.DRAINING,
    State.SLEEPING,
    State.PROVISIONING,
    State.LOADING,
    State.WARMING,
    State.WAKING,
    State.READY,
)


@dataclass(frozen=True)
class ColdView:
    """What a decision may know of a cold model. Times in seconds.

    `starting_for_s` is how long the start or the wake has taken that comes to its end first, as
    `rung` says: the rung of the instance that is nearest to serving, hot for a ready one; off for
    one that starts.
    """

    state: State
    ready: int
    free: float
    starting_for_s: float | None
    start_times_s: tuple[float, ...]
    refusing_for_s: float
    failure: str | None
    in_flight: int
    waiting: int
    sleeping: int
    rung: Rung
    wake_times_s: Mapping[Rung, tuple[float, ...]]
    rungs: tuple[Rung, ...]  # that the server offers, as far as is known, from hot to off
    device_wait_s: float = 0.0  # until its turn at a device that others hold

    @property
    def rise_times_s(self) -> tuple[float, ...]:
        """The last times from its rung to ready: wakes if it sleeps or wakes, else starts."""
        if self.rung in ("hot", "off"):
            return self.start_times_s
        return self.wake_times_s.get(self.rung, ())


def view(machine: Lifecycle, now_s: float, excluding: Collection[Endpoint] = ()) -> ColdView:
    """Instances that failed somebody, or are `excluding`, do not count as ready."""
    instances = machine.instances.values()
    endpoints = [i.endpoint for i in machine.instances.ready if i.endpoint is not None]
    ready = [e for e in endpoints if e.breaker.closed and e not in excluding]
    nearest = max(machine.instances.staying, key=_nearness, default=None)
    rising = nearest if nearest is not None and nearest.state in RISING else None
    refusing_for_s = max(machine.backoff.refusing_until_s - now_s, 0.0)
    shortage = machine.tenancy.shortage()
    return ColdView(
        state=_state(machine),
        ready=len(ready),
        free=sum(e.free for e in ready),
        starting_for_s=now_s - rising.rose_s if rising is not None else None,
        start_times_s=tuple(machine.start_times_s),
        refusing_for_s=refusing_for_s if nearest is None else 0.0,
        failure=machine.backoff.failure,
        in_flight=sum(i.in_flight for i in instances),
        waiting=len(machine.queue) + sum(len(i.pinned) for i in instances),
        sleeping=sum(i.state is State.SLEEPING for i in instances),
        rung=nearest.nearest_rung if nearest is not None else "off",
        wake_times_s=machine.ladder.wakes.times_s,
        rungs=tuple(r for r in LADDER if r in ("hot", "off") or machine.ladder.offers(r)),
        device_wait_s=shortage[1] if shortage is not None else 0.0,
    )


def _state(machine: Lifecycle) -> State:
    """The state of the instance that is nearest to serving; failed after a failure."""
    if machine.instances:
        return max(machine.instances.values(), key=_nearness).state
    return State.FAILED if machine.backoff.failure is not None else State.OFF


def _nearness(instance: Instance) -> tuple[int, int]:
    return NEARNESS.index(instance.state), -LADDER.index(instance.nearest_rung)
