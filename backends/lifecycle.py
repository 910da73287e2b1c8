"""The states of one cold model's instances, and the only code that changes them.

A synchronous state machine: events come in as method calls, made by the model's one task
(`backends/cold.py`); side effects go out through `Effects`. Nothing here waits, so no decision
is taken on a state that has changed meanwhile. States of an instance:

    provisioning -> loading -> warming -> ready -> draining -> (gone)
          \\------------\\----------\\-> failed -> (gone)

Rules that hold: one start serves all who wait; an instance that starts or serves is never
unloaded; the idle clock starts at the last byte; a lease is counted only when its waiter took it;
nobody starts a server for a caller who left.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from backends.backoff import StartBackoff
from backends.endpoint import Endpoint
from backends.instance import STARTING, ColdSettings, Failure, Instance, State
from backends.lease import Lease, NoEndpoint, StartFailed, Unavailable, Waiter, WaitQueue

STARTS_REMEMBERED = 20
SECOND_CHANCE_S = 1.0


class Effects(Protocol):
    """What the machine asks of the world. Each answers later by an event, never at once."""

    def launch(self, instance: Instance, within_s: float) -> None: ...
    def stop(self, instance: Instance) -> None: ...
    def verify(self, instance: Instance) -> None: ...
    def post(self, event: Callable[..., None], *args: object) -> None: ...
    def call_later(self, delay_s: float, event: Callable[..., None], *args: object) -> None: ...
    def changed(self, instance: Instance, state: State) -> None: ...


class Lifecycle:
    """The instances of one model and the requests that wait for them."""

    def __init__(
        self,
        model: str,
        settings: ColdSettings,
        queue: WaitQueue,
        effects: Effects,
        clock: Callable[[], float],
        numbers: Iterator[int],
    ) -> None:
        self.model = model
        self.settings = settings
        self.queue = queue
        self.instances: dict[str, Instance] = {}
        self.retired = False
        self.backoff = StartBackoff()
        self.start_times_s: deque[float] = deque(maxlen=STARTS_REMEMBERED)
        self._effects = effects
        self._clock = clock
        self._numbers = numbers  # of instances, never used twice in the life of the gateway
        self._wanted = 0  # instances that an operator asked for
        self._relaunch_due = False

    # --- events from callers ---------------------------------------------------------------

    def acquire(self, waiter: Waiter, only: str | None = None) -> None:
        """Serve the waiter now, or let it wait and see that an instance comes."""
        if waiter.gone:
            return
        if only is not None:
            self._acquire_at(only, waiter)
            return
        instance = self._with_room(waiter.excluding)
        if instance is not None:
            self._grant(instance, waiter)
            return
        try:
            self._refuse_if_failing()
            self.queue.join(waiter)
        except Unavailable as refusal:
            waiter.future.set_exception(refusal)
            return
        self._grow()
        if waiter.excluding:
            # An instance that just failed this caller is usually found dead in a moment, and a
            # new one started; if it lives after all, it is better than nothing.
            self._effects.call_later(SECOND_CHANCE_S, self._exclude_nothing, waiter)

    def _exclude_nothing(self, waiter: Waiter) -> None:
        waiter.excluding = ()
        self._serve_waiters()

    def _acquire_at(self, instance_id: str, waiter: Waiter) -> None:
        instance = self.instances.get(instance_id)
        if instance is not None and instance.state is State.READY:
            self._grant(instance, waiter)
        else:
            waiter.future.set_exception(NoEndpoint(f"instance {instance_id} is gone"))

    def abandon(self, waiter: Waiter) -> None:
        self.queue.leave(waiter)

    def released(self, instance_id: str, served: bool) -> None:
        """A lease came back; `served` says that the server gave an answer with it."""
        instance = self.instances.get(instance_id)
        if served:
            self.backoff.served()
        if instance is None:
            return
        self._verify_if_failing(instance)
        if instance.in_flight == 0:
            instance.idle_since_s = self._clock()
        if instance.state is State.READY:
            self._serve_waiters()
            self._watch_idle(instance)
        elif instance.state is State.DRAINING and instance.in_flight == 0:
            self._effects.stop(instance)

    # --- events from the world ---------------------------------------------------------------

    def stage_reached(self, instance_id: str, state: State) -> None:
        instance = self.instances.get(instance_id)
        if instance is not None and instance.state in STARTING:
            self._enter(instance, state)

    def became_ready(self, instance_id: str, endpoint: Endpoint) -> None:
        instance = self.instances.get(instance_id)
        if instance is None or instance.state not in STARTING:
            return
        now_s = self._clock()
        instance.endpoint = endpoint
        instance.idle_since_s = now_s
        self.start_times_s.append(now_s - instance.began_s)
        self.backoff.ready()
        self._wanted = 0
        self._enter(instance, State.READY)
        self._serve_waiters()
        self._watch_idle(instance)

    def start_failed(self, instance_id: str, failure: Failure) -> None:
        """The launch did not lead to a ready server; its process is gone."""
        instance = self.instances.pop(instance_id, None)
        if instance is None:
            return
        if instance.state is not State.DRAINING:  # else: an operator stopped it while it loaded
            self._effects.changed(instance, State.FAILED)
            self._launch_failed(failure)
        self._effects.changed(instance, State.OFF)
        self._grow()

    def exited(self, instance_id: str, last_words: str) -> None:
        """The process of an instance that had been ready is gone: stopped by us, or by itself."""
        instance = self.instances.pop(instance_id, None)
        if instance is None:
            return
        if instance.state is not State.DRAINING:
            self._effects.changed(instance, State.FAILED)
            self.backoff.crashed(self._clock(), last_words)
        self._effects.changed(instance, State.OFF)
        self._grow()

    def verified(self, instance_id: str, healthy: bool) -> None:
        """The answer to `Effects.verify`: a server that lives but no longer answers is stopped."""
        instance = self.instances.get(instance_id)
        if instance is None:
            return
        instance.verifying = False
        if instance.endpoint is not None and healthy:
            instance.endpoint.breaker.succeeded()
            self._serve_waiters()
        elif instance.state is State.READY:
            self._drain(instance, now=False)  # it may still be at work for others

    # --- events from operators -----------------------------------------------------------------

    def start(self) -> None:
        """Start one instance unless one runs or starts, whatever failed before."""
        self.backoff.forget()
        if not any(i.state is not State.DRAINING for i in self.instances.values()):
            self._wanted = 1
            self._grow()

    def drain(self, instance_id: str | None = None) -> None:
        """Let instances finish what they serve, then stop them; new requests start new ones."""
        self._wanted = 0
        for instance in list(self.instances.values()):
            if instance_id in (None, instance.id):
                self._drain(instance, now=False)

    def stop(self, instance_id: str | None = None) -> None:
        """Stop instances now, whatever they serve."""
        self._wanted = 0
        for instance in list(self.instances.values()):
            if instance_id in (None, instance.id):
                self._drain(instance, now=True)

    def retire(self) -> None:
        """The model left the configuration, or the program ends: serve who waits, then end."""
        self.retired = True
        self._end_if_unneeded()

    def reconfigure(self, settings: ColdSettings) -> None:
        self.settings = settings
        for instance in self.instances.values():
            if instance.endpoint is not None:
                instance.endpoint.max_concurrency = settings.max_concurrency
            self._watch_idle(instance)
        self._serve_waiters()
        self._grow()

    # --- what follows -----------------------------------------------------------------------

    @property
    def starting(self) -> list[Instance]:
        return [i for i in self.instances.values() if i.state in STARTING]

    @property
    def ready(self) -> list[Instance]:
        return [i for i in self.instances.values() if i.state is State.READY]

    def _refuse_if_failing(self) -> None:
        left_s = self.backoff.refusing_until_s - self._clock()
        if left_s > 0 and not self.starting and not self.ready:
            raise StartFailed(self.backoff.failure or "its last start failed", left_s)

    def _with_room(self, excluding: Collection[Endpoint] = ()) -> Instance | None:
        open_ones = [
            i
            for i in self.ready
            if i.endpoint is not None
            and i.endpoint.free >= 1
            and i.endpoint.breaker.closed  # else it is being verified
            and i.endpoint not in excluding
        ]
        return min(open_ones, key=lambda i: i.in_flight, default=None)

    def _grant(self, instance: Instance, waiter: Waiter) -> None:
        assert instance.endpoint is not None
        waiter.future.set_result(
            Lease(
                instance.endpoint,
                lambda lease: self._effects.post(self.released, instance.id, lease.served),
                cold_start=instance.reached[State.READY] > waiter.since_s,
            )
        )

    def _serve_waiters(self) -> None:
        """Hand out what is free, in order of arrival."""
        for waiter in list(self.queue) if self._with_room() else ():
            instance = self._with_room(waiter.excluding)
            if instance is not None:
                self.queue.leave(waiter)
                if not waiter.gone:
                    self._grant(instance, waiter)
            elif not waiter.excluding:
                break
        self._end_if_unneeded()

    def _grow(self) -> None:
        """Launch what the queue asks for and the limits allow."""
        if not self._more_wanted():
            if not self.starting:
                self.backoff.over()
        elif self._clock() < self.backoff.launch_after_s:
            self._relaunch_when_due()
        else:
            while self._more_wanted() and len(self.instances) < self.settings.max_instances:
                self._launch()
        self._end_if_unneeded()

    def _more_wanted(self) -> bool:
        starting = len(self.starting)
        per_instance = self.settings.max_concurrency or float("inf")
        coming = starting * per_instance if starting else 0
        return len(self.queue) > coming or self._wanted > starting + len(self.ready)

    def _launch(self) -> None:
        now_s = self._clock()
        instance = Instance(f"{self.model}@{next(self._numbers)}", now_s)
        self.instances[instance.id] = instance
        self._enter(instance, State.PROVISIONING)
        within_s = self.backoff.launching(now_s, self.settings.start_within_s)
        self._effects.launch(instance, within_s)

    def _launch_failed(self, failure: Failure) -> None:
        now_s = self._clock()
        given_up = self.backoff.launch_failed(
            now_s,
            failure.message,
            permanent=failure.permanent,
            start_within_s=self.settings.start_within_s,
        )
        if not given_up:
            return
        self._wanted = 0
        if self.starting or self.ready:
            return  # another instance serves those who wait
        while waiter := self.queue.pop():
            pause_s = self.backoff.refusing_until_s - now_s
            waiter.future.set_exception(StartFailed(failure.message, pause_s))

    def _relaunch_when_due(self) -> None:
        if not self._relaunch_due:
            self._relaunch_due = True
            delay_s = self.backoff.launch_after_s - self._clock()
            self._effects.call_later(delay_s, self._relaunch)

    def _relaunch(self) -> None:
        self._relaunch_due = False
        self._grow()

    def _verify_if_failing(self, instance: Instance) -> None:
        endpoint = instance.endpoint
        failing = endpoint is not None and not endpoint.breaker.closed
        if failing and instance.state is State.READY and not instance.verifying:
            instance.verifying = True
            self._effects.verify(instance)

    def _watch_idle(self, instance: Instance) -> None:
        """Keep one timer per instance, not one per request."""
        if instance.state is not State.READY or instance.in_flight:
            return
        due_s = instance.idle_since_s + self.settings.idle_s
        if due_s != float("inf") and (
            instance.idle_check_s is None or due_s < instance.idle_check_s
        ):
            instance.idle_check_s = due_s
            delay_s = max(due_s - self._clock(), 0.0)
            self._effects.call_later(delay_s, self._idle_due, instance.id)

    def _idle_due(self, instance_id: str) -> None:
        instance = self.instances.get(instance_id)
        if instance is None or instance.state is not State.READY:
            return
        instance.idle_check_s = None
        if instance.in_flight:
            return  # its last byte starts the clock again
        if self._clock() - instance.idle_since_s >= self.settings.idle_s:
            self._drain(instance, now=False)
        else:
            self._watch_idle(instance)

    def _drain(self, instance: Instance, *, now: bool) -> None:
        if instance.state is not State.DRAINING:
            self._enter(instance, State.DRAINING)
        if now or instance.in_flight == 0:
            self._effects.stop(instance)

    def _end_if_unneeded(self) -> None:
        if self.retired and not len(self.queue):
            for instance in list(self.instances.values()):
                if instance.state is not State.DRAINING:
                    self._drain(instance, now=False)

    def _enter(self, instance: Instance, state: State) -> None:
        if instance.state is state and state in instance.reached:
            return
        instance.state = state
        instance.reached[state] = self._clock()
        self._effects.changed(instance, state)
