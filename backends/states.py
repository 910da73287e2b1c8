"""The instances of one cold model, the transitions between their states, and what those ask for.

Decides nothing: when an instance is launched or stopped is said by `lifecycle.py`, when it goes
down the ladder by `ladder.py`.
"""

from collections.abc import Callable
from typing import Protocol

from backends.holding import Rung
from backends.instance import ColdSettings, Instance, Instances, State


class Effects(Protocol):
    """What the states ask of the world. Each answers later by an event, never at once."""

    def launch(self, instance: Instance, within_s: float) -> None: ...
    def stop(self, instance: Instance) -> None: ...
    def kill(self, instance: Instance) -> None: ...
    def sleep(self, instance: Instance, rung: Rung) -> None: ...
    def wake_up(self, instance: Instance, within_s: float) -> None: ...
    def verify(self, instance: Instance) -> None: ...
    def post(self, event: Callable[..., None], *args: object) -> None: ...
    def call_later(self, delay_s: float, event: Callable[..., None], *args: object) -> None: ...
    def changed(self, instance: Instance, state: State) -> None: ...


class States:
    """Every change of an instance's state is made here."""

    def __init__(
        self, settings: ColdSettings, effects: Effects, clock: Callable[[], float]
    ) -> None:
        self.settings = settings
        self.instances = Instances()
        self.effects = effects
        self.clock = clock

    def enter(self, instance: Instance, state: State) -> None:
        if instance.state is state and state in instance.reached:
            return
        instance.state = state
        instance.reached.pop(state, None)  # in the order in which they were last entered
        instance.reached[state] = self.clock()
        self.effects.changed(instance, state)

    def fall_asleep(self, instance: Instance, rung: Rung) -> None:
        """Tell it to; reported once it is asleep."""
        instance.state, instance.falling_to = State.SLEEPING, rung
        instance.reached.pop(State.SLEEPING, None)
        self.effects.sleep(instance, rung)

    def asleep(self, instance: Instance, rung: Rung) -> None:
        instance.rung, instance.falling_to = rung, None
        self.enter(instance, State.SLEEPING)

    def wake(self, instance: Instance, *, going_down: bool = False) -> None:
        instance.going_down = going_down
        self.enter(instance, State.WAKING)
        self.effects.wake_up(instance, self.settings.start_within_s)

    def drain(self, instance: Instance, *, now: bool) -> None:
        """Take it out of service, and stop it once it serves nothing, or now."""
        instance.refuse_pinned()
        self.enter(instance, State.DRAINING)
        if now or instance.in_flight == 0:
            self.effects.stop(instance)

    def kill(self, instance: Instance) -> None:
        """It failed, and may be at anything."""
        instance.refuse_pinned()
        self.effects.changed(instance, State.FAILED)
        self.enter(instance, State.DRAINING)
        self.effects.kill(instance)

    def gone(self, instance_id: str) -> Instance | None:
        """Forget an instance that ended; FAILED passes by unless it was being stopped."""
        instance = self.instances.pop(instance_id, None)
        if instance is not None:
            instance.refuse_pinned()
            if instance.state is not State.DRAINING:
                self.effects.changed(instance, State.FAILED)
            self.effects.changed(instance, State.OFF)
        return instance
