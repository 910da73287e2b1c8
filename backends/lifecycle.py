"""The states of one cold model's instances: who waits for one, and when one is started or stopped.

A synchronous state machine: events come in as method calls, made by the model's one task
(`backends/cold.py`); side effects go out through `Effects`. Nothing here waits, so no decision
is taken on a state that has changed meanwhile. States of an instance:

    provisioning -> loading -> warming -> ready -> draining -> (gone)
          \\------------\\----------\\-> failed -> (gone)
    ready -> sleeping -> waking -> ready
                 \\----------\\-> draining, failed -> (gone)

Rules that hold: one start serves all who wait, and so does one wake; an instance that starts,
wakes or serves is never unloaded or put to sleep by the passing of time; the idle clock starts at
the last byte; nobody starts or wakes a server for a caller who left. What sleeps is in
`ladder.py`, who is handed a place in `serving.py`.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator

from backends.backoff import StartBackoff
from backends.endpoint import Endpoint
from backends.holding import Holding, Rung
from backends.instance import STARTING, ColdSettings, Failure, Instance, State
from backends.ladder import Ladder
from backends.lease import StartFailed, Unavailable, Waiter, WaitQueue
from backends.memory import Memory, Unshared
from backends.serving import Serving
from backends.states import Effects, States
from backends.tenancy import Tenancy

STARTS_REMEMBERED = 20
SECOND_CHANCE_S = 1.0


class Lifecycle:
    """The instances of one model and the requests that wait for them."""

    def __init__(
        self,
        model: str,
        settings: ColdSettings,
        holding: Holding,
        queue: WaitQueue,
        effects: Effects,
        clock: Callable[[], float],
        numbers: Iterator[int],
        memory: Memory | None = None,
    ) -> None:
        self.model = model
        self.queue = queue
        self.states = States(settings, effects, clock)
        self.instances = self.states.instances
        self.ladder = Ladder(self.states, holding, lambda: len(queue), self._may_sleep)
        self.retired = False
        self.backoff = StartBackoff()
        self.start_times_s: deque[float] = deque(maxlen=STARTS_REMEMBERED)
        self._effects = effects
        self._clock = clock
        self._numbers = numbers  # of instances, never used twice in the life of the gateway
        self._wanted = 0  # instances that somebody asked for who does not wait
        self._relaunch_at_s = math.inf  # when the timer of a pause fires
        self.tenancy = Tenancy(
            model,
            self.states,
            self.ladder,
            queue,
            memory or Unshared(),
            start_times_s=self.start_times_s,
            wants_room=self._wants_room,
            grow=self._grow,
            serve=self._serve,
        )
        self.serving = Serving(self.states, queue, used=self.tenancy.used, released=self.released)

    @property
    def settings(self) -> ColdSettings:
        return self.states.settings

    # --- events from callers ---------------------------------------------------------------

    def acquire(self, waiter: Waiter, only: str | None = None) -> None:
        """Serve the waiter now, or let it wait and see that an instance comes."""
        if waiter.gone:
            return
        if only is not None:
            self.serving.pin(only, waiter)
            self._grow()
            return
        instance = self.serving.with_room(waiter.excluding, waiter.affinity)
        if instance is not None:
            self.serving.grant(instance, waiter)
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

    def abandon(self, waiter: Waiter) -> None:
        self.serving.leave(waiter)
        self.tenancy.memory.poke()

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
            self.tenancy.ended_all(instance)
        if instance.state is State.READY:
            self._serve_waiters()
            self.ladder.now_idle(instance)
        elif instance.state is State.DRAINING and instance.in_flight == 0:
            self._effects.stop(instance)

    # --- events from the world ---------------------------------------------------------------

    def stage_reached(self, instance_id: str, state: State) -> None:
        instance = self.instances.get(instance_id)
        if instance is not None and instance.state in STARTING:
            self.states.enter(instance, state)

    def became_ready(self, instance_id: str, endpoint: Endpoint) -> None:
        instance = self.instances.get(instance_id)
        if instance is None or instance.state not in STARTING:
            return
        instance.endpoint = endpoint
        self.start_times_s.append(self._clock() - instance.began_s)
        self._ready(instance)

    def start_failed(self, instance_id: str, failure: Failure) -> None:
        """The launch did not lead to a ready server; its process is gone."""
        instance = self.states.gone(instance_id)
        if instance is None:
            return
        if instance.state is not State.DRAINING:  # else: an operator stopped it while it loaded
            self._launch_failed(failure)
        self._grow()

    def exited(self, instance_id: str, last_words: str) -> None:
        """The process of an instance that had been ready is gone: stopped by us, or by itself."""
        instance = self.states.gone(instance_id)
        if instance is None:
            return
        if instance.state is not State.DRAINING:
            self.backoff.crashed(self._clock(), last_words)
        self._grow()

    def fell_asleep(self, instance_id: str) -> None:
        instance = self.instances.get(instance_id)
        if instance is not None and instance.falling:
            self.ladder.fell_asleep(instance)
            self._grow()  # somebody may have come meanwhile

    def sleep_refused(self, instance_id: str) -> None:
        instance = self.instances.get(instance_id)
        if instance is not None and instance.falling:
            self.ladder.refused(instance)

    def woke(self, instance_id: str) -> None:
        instance = self.instances.get(instance_id)
        if instance is not None and instance.state is State.WAKING:
            self.ladder.woke(instance)
            self._ready(instance)

    def wake_failed(self, instance_id: str, last_words: str) -> None:
        """What cannot be woken is killed, and who waits is served by a start."""
        instance = self.instances.get(instance_id)
        if instance is not None and instance.state is State.WAKING:
            self.backoff.crashed(self._clock(), last_words)
            self.ladder.wake_failed(instance)

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
            self.states.drain(instance, now=False)  # it may still be at work for others

    # --- events from operators -----------------------------------------------------------------

    def start(self) -> None:
        """Have one instance ready or coming, whatever failed before."""
        self.backoff.forget()
        self.wake()

    def drain(self, instance_id: str | None = None) -> None:
        """Let instances finish what they serve, then stop them; new requests start new ones.

        All of them: then nothing is held ready either, until somebody says so again.
        """
        self._stop(instance_id, now=False)

    def stop(self, instance_id: str | None = None) -> None:
        """Stop instances now, whatever they serve."""
        self._stop(instance_id, now=True)

    def _stop(self, instance_id: str | None, *, now: bool) -> None:
        self._wanted = 0
        if instance_id is None:
            self.ladder.held.end()
        for instance in list(self.instances.values()):
            if instance_id in (None, instance.id):
                self.states.drain(instance, now=now)

    def retire(self) -> None:
        """The model left the configuration, or the program ends: serve who waits, then end."""
        self.retired = True
        self._wanted = 0
        self.ladder.held.end()
        self._end_if_unneeded()

    def reconfigure(self, settings: ColdSettings) -> None:
        self.states.settings = settings
        for instance in self.instances.values():
            if instance.endpoint is not None:
                instance.endpoint.max_concurrency = settings.max_concurrency
        self._serve_waiters()
        self._grow()
        self.ladder.ask_again()
        self.tenancy.memory.look_again()

    # --- events from whoever decides ------------------------------------------------------------

    def wake(self) -> None:
        """Have one instance ready or coming, woken or started, though nobody waits."""
        for instance in self.instances.waking:
            instance.going_down = False
        if not self.retired and not self.instances.ready:
            self._wanted = 1
        self._grow()

    def hold(self, until_s: float) -> None:
        """Until then one instance is kept ready; `inf` for ever, the past ends it."""
        self.ladder.hold_until(until_s)
        self._hold_changed()

    def hold_instances(self, number: int) -> None:
        """From now on so many are kept ready, as far as `max_instances` lets them; 0 ends it."""
        self.ladder.held.instances = number
        self._hold_changed()

    def _hold_changed(self) -> None:
        if self.retired:
            self.ladder.held.end()
        self._grow()
        self.ladder.ask_again()
        self.tenancy.memory.poke()

    # --- what follows -----------------------------------------------------------------------

    def _refuse_if_failing(self) -> None:
        left_s = self.backoff.refusing_until_s - self._clock()
        if left_s > 0 and not self.instances.staying:
            raise StartFailed(self.backoff.failure or "its last start failed", left_s)

    def _serve_waiters(self) -> None:
        self.serving.serve()
        self.tenancy.memory.poke()
        self._end_if_unneeded()

    def _ready(self, instance: Instance) -> None:
        """It has been started or woken."""
        self.backoff.ready()
        self._wanted = 0
        self.tenancy.loaded(instance)
        self.states.enter(instance, State.READY)
        self._serve(instance)
        self.ladder.served_first(instance)

    def _serve(self, instance: Instance) -> None:
        """It takes requests from now on."""
        self.serving.serve_pinned(instance)
        self._serve_waiters()

    def _grow(self) -> None:
        """Wake and launch what the queue asks for and the limits allow."""
        while (asleep := self._to_wake()) and self.tenancy.take():
            self.states.wake(asleep)
        if not self._launch_wanted():
            if not self.instances.starting:
                self.backoff.over()
        elif self._clock() < self.backoff.launch_after_s:
            self._relaunch_when_due()
        else:
            while self._may_launch() and self.tenancy.take():
                self._launch()
        self._end_if_unneeded()

    def _wants_room(self) -> bool:
        """Whether nothing but memory is missing for a wake or a launch."""
        may_launch = self._may_launch() and self._clock() >= self.backoff.launch_after_s
        return may_launch or self._to_wake() is not None

    def _may_launch(self) -> bool:
        return self._launch_wanted() and len(self.instances) < self.settings.max_instances

    def _may_sleep(self, instance: Instance, rung: Rung) -> bool:
        return self.tenancy.may_sleep(instance, rung)

    def _to_wake(self) -> Instance | None:
        """The one that somebody asks for whom no other can serve; else the nearest, if wanted."""
        asleep = [i for i in self.instances.values() if i.asleep]
        asked = next((i for i in asleep if len(i.pinned)), None)
        return asked or (self.instances.nearest_asleep() if self._wake_wanted() else None)

    def _wake_wanted(self) -> bool:
        """A wake is so much shorter than a start that those who wait for a start get one too."""
        waking = len(self.instances.waking)
        starting = len(self.instances.starting)
        return self._waiting_beyond(waking) or self._missing_beyond(waking + starting)

    def _launch_wanted(self) -> bool:
        coming = len(self.instances.coming)
        return self._waiting_beyond(coming) or self._missing_beyond(coming)

    def _waiting_beyond(self, coming: int) -> bool:
        """Whether more wait than so many instances will serve."""
        places = coming * (self.settings.max_concurrency or math.inf) if coming else 0
        return len(self.queue) > places

    def _missing_beyond(self, coming: int) -> bool:
        """Whether fewer will be ready than somebody asked for who does not wait."""
        wanted = max(self._wanted, self.ladder.held.kept(self._clock()))
        return wanted > coming + len(self.instances.ready)

    def _launch(self) -> None:
        now_s = self._clock()
        pinned = WaitQueue(self.queue.room)
        instance = Instance(f"{self.model}@{next(self._numbers)}", now_s, pinned=pinned)
        self.instances[instance.id] = instance
        self.states.enter(instance, State.PROVISIONING)
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
        if self.instances.staying:
            return  # another instance serves those who wait
        pause_s = self.backoff.refusing_until_s - now_s
        self.serving.refuse(lambda: StartFailed(failure.message, pause_s))

    def _relaunch_when_due(self) -> None:
        if self.backoff.launch_after_s < self._relaunch_at_s:
            self._relaunch_at_s = self.backoff.launch_after_s
            delay_s = self._relaunch_at_s - self._clock()
            self._effects.call_later(delay_s, self._relaunch)

    def _relaunch(self) -> None:
        self._relaunch_at_s = math.inf
        self._grow()

    def _verify_if_failing(self, instance: Instance) -> None:
        endpoint = instance.endpoint
        failing = endpoint is not None and not endpoint.breaker.closed
        if failing and instance.state is State.READY and not instance.verifying:
            instance.verifying = True
            self._effects.verify(instance)

    def _end_if_unneeded(self) -> None:
        if self.retired and not len(self.queue):
            for instance in self.instances.staying:
                if not len(instance.pinned):
                    self.states.drain(instance, now=False)
