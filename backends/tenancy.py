"""The part of a lifecycle that shares a device: asks for memory, counts use, and makes room.

Synchronous, as `lifecycle.py` is, which calls this before it launches or wakes. What the device
decides comes as an event, and is looked at again here: what was idle then may serve by now, and
then it stays.
"""

from collections.abc import Callable, Mapping, Sequence

from backends.holding import Rung
from backends.instance import ColdSettings, Instance, State
from backends.ladder import Ladder
from backends.lease import NoMemory, WaitQueue
from backends.memory import Memory
from backends.states import States

RETRY_AFTER_S = 60.0  # when nothing is known to end what stands in the way


class Tenancy:
    """Satisfies `Tenant` for one model."""

    def __init__(
        self,
        model: str,
        states: States,
        ladder: Ladder,
        queue: WaitQueue,
        memory: Memory,
        *,
        start_times_s: Sequence[float],
        wants_room: Callable[[], bool],
        grow: Callable[[], None],
        serve: Callable[[Instance], None],
    ) -> None:
        self.model = model
        self.memory = memory
        self.wants_room = wants_room
        self._states = states
        self._ladder = ladder
        self._queue = queue
        self._start_times_s = start_times_s
        self._grow = grow
        self._serve = serve

    # --- for the lifecycle -----------------------------------------------------------------------

    def take(self) -> bool:
        """Memory for one more instance; when there is none, `room_made` comes as an event."""
        return self.memory.take(self)

    def loaded(self, instance: Instance) -> None:
        instance.uses, instance.used_clock = 0, self.memory.clock

    def used(self, instance: Instance) -> None:
        instance.uses += 1
        instance.used_clock = self.memory.clock

    def ended_all(self, instance: Instance) -> None:
        """Nothing is in flight at a ready instance any more."""
        if instance.yields_to is not None:
            self._go(instance, instance.yields_to)
        self.memory.poke()

    def may_sleep(self, instance: Instance, rung: Rung) -> bool:
        """Whether host memory allows it; and the device, for one that wakes to sleep deeper."""
        if instance.asleep and not self.memory.has_room(self):
            return False
        return rung != "sleep_1" or self.memory.may_sleep(self)

    def join(self) -> None:
        self.memory.join(self)

    def leave(self) -> None:
        """For good: nothing of it is left."""
        self.memory.leave(self)

    def shortage(self) -> tuple[str, float] | None:
        """What keeps it from a start, in words, and the seconds until its turn."""
        return self.memory.shortage(self)

    # --- what the device reads --------------------------------------------------------------------

    @property
    def settings(self) -> ColdSettings:
        return self._states.settings

    @property
    def instances(self) -> Mapping[str, Instance]:
        return self._states.instances

    def post(self, event: Callable[..., None], *args: object) -> None:
        self._states.effects.post(event, *args)

    def oldest_s(self) -> float | None:
        first = [next((w.since_s for w in q if not w.gone), None) for q in self._queues()]
        return min((since_s for since_s in first if since_s is not None), default=None)

    def is_owed(self) -> bool:
        held = self._ladder.held.kept(self._states.clock()) > 0
        return held or self.oldest_s() is not None

    def held_until_s(self, instance: Instance) -> float:
        return self._ladder.held_until_s(instance)

    def start_cost_s(self) -> float:
        return self._start_times_s[-1] if self._start_times_s else self.settings.start_guess_s

    def can_sleep(self) -> bool:
        return self._ladder.offers("sleep_1")

    # --- events from the device -------------------------------------------------------------------

    def room_made(self) -> None:
        self._grow()
        self.memory.hand_back(self)  # unless it was used: then nobody wants it any more

    def no_room(self, why: str, until_s: float) -> None:
        after_s = min(until_s - self._states.clock(), RETRY_AFTER_S)
        for queue in self._queues():
            for waiter in [w for w in queue if w.until_s <= until_s]:
                queue.leave(waiter)
                if not waiter.gone:
                    waiter.future.set_exception(NoMemory(why, after_s))

    def make_room(self, instance_id: str, to: Rung, must: bool) -> None:
        instance = self.instances.get(instance_id)
        if instance is None or instance.state is not State.READY or self._holds(instance):
            self.memory.stays(instance_id)
        elif instance.in_flight == 0 and (must or self.oldest_s() is None):
            self._go(instance, to)
        elif must:
            instance.yields_to = to
        else:
            self.memory.stays(instance_id)

    def keep(self, instance_id: str) -> None:
        self.memory.stays(instance_id)
        instance = self.instances.get(instance_id)
        if instance is not None:
            instance.yields_to = None
            self._serve(instance)

    def _queues(self) -> list[WaitQueue]:
        return [self._queue, *(i.pinned for i in self.instances.values())]

    def _holds(self, instance: Instance) -> bool:
        return self.held_until_s(instance) > self._states.clock()

    def _go(self, instance: Instance, to: Rung) -> None:
        instance.yields_to = None
        asleep = to != "off" and self._ladder.offers(to) and self.may_sleep(instance, to)
        self.memory.goes(instance.id, to if asleep else "off")
        if asleep:
            self._states.fall_asleep(instance, to)
        else:
            self._states.drain(instance, now=False)
