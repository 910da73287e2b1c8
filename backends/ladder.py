"""Down the ladder as an instance stays idle, and up again: the part of a lifecycle that sleeps.

Synchronous, as `lifecycle.py` is, which calls this and says what a ready instance is used for.
The idle clock of an instance starts at the last byte and runs on while it sleeps.
"""

import math
from collections.abc import Callable

from backends.holding import Descent, Hold, Holding, Rung, Wakes, below
from backends.instance import Instance, State
from backends.states import States

LOOK_AGAIN_S = 1.0  # at an idle instance that may not go down: somebody waits, or asks it


class Ladder:
    """When the instances of one model go down which rung."""

    def __init__(
        self,
        states: States,
        holding: Holding,
        waiting: Callable[[], int],
        may_sleep: Callable[[Instance, Rung], bool],
    ) -> None:
        self.wakes = Wakes()
        self.held = Hold()
        self._states = states
        self._holding = holding
        self._waiting = waiting
        self._may_sleep = may_sleep  # as far as memory goes
        self._hold_check_s: float | None = None  # when the one timer of a hold fires

    def hold_until(self, until_s: float) -> None:
        self.held.until_s = until_s
        self._watch_hold()

    def _watch_hold(self) -> None:
        now_s, until_s = self._states.clock(), self.held.until_s
        pending_s = math.inf if self._hold_check_s is None else self._hold_check_s
        if now_s < until_s < pending_s:
            self._hold_check_s = until_s
            self._states.effects.call_later(until_s - now_s, self._hold_due, until_s)

    def _hold_due(self, due_s: float) -> None:
        if self._hold_check_s != due_s:
            return  # an earlier timer took its place
        self._hold_check_s = None
        self._watch_hold()  # it may have been prolonged
        self.ask_again()

    def now_idle(self, instance: Instance) -> None:
        """A new idleness, if it is one: ask how it is to be spent."""
        if instance.idle:
            now_s = self._states.clock()
            instance.descent = Descent(tuple(self._holding.descent(now_s)))
            self.watch(instance)

    def ask_again(self) -> None:
        """What was answered may not hold any more: a hold has ended, or settings changed."""
        for instance in self._states.instances.values():
            self.now_idle(instance)

    def watch(self, instance: Instance) -> None:
        """Keep one timer per instance, not one per request."""
        if not instance.idle:
            return
        due_s = instance.descent.next_step_s(instance.idle_since_s, instance.rung)
        if due_s != math.inf and (instance.idle_check_s is None or due_s < instance.idle_check_s):
            self._check_at(instance, due_s)

    def _check_at(self, instance: Instance, due_s: float) -> None:
        instance.idle_check_s = due_s
        delay_s = max(due_s - self._states.clock(), 0.0)
        self._states.effects.call_later(delay_s, self._due, instance.id, due_s)

    def _due(self, instance_id: str, due_s: float) -> None:
        instance = self._states.instances.get(instance_id)
        if instance is None or instance.idle_check_s != due_s:
            return  # an earlier timer took its place
        instance.idle_check_s = None
        if not instance.idle:
            return  # its last byte starts the clock again
        now_s = max(self._states.clock(), due_s)  # timers may be early by a clock's tick
        rung = instance.descent.rung_at(instance.idle_since_s, now_s)
        if not below(rung, instance.rung):
            self.watch(instance)
        elif self._waiting() or instance.verifying:
            self._check_at(instance, now_s + LOOK_AGAIN_S)
        elif not self._is_held(instance):  # else it is watched again when the hold ends
            self._descend(instance, rung)

    def _is_held(self, instance: Instance) -> bool:
        return self.held_until_s(instance) > self._states.clock()

    def held_until_s(self, instance: Instance) -> float:
        """Until when it stays though nobody uses it: others that are ready may be enough."""
        others = [i for i in self._states.instances.ready if i is not instance]
        if self.held.instances > len(others):
            return math.inf
        return -math.inf if others else self.held.until_s

    def _descend(self, instance: Instance, rung: Rung) -> None:
        if not self.offers(rung) or not self._may_sleep(instance, rung):
            self._states.drain(instance, now=False)
        elif instance.asleep:
            # vLLM ignores /sleep while it sleeps: from level 1 to level 2 the way leads up first.
            self._states.wake(instance, going_down=True)
        else:
            self._states.fall_asleep(instance, rung)

    def offers(self, rung: Rung) -> bool:
        """Whether the server has this sleeping rung, as far as is known."""
        return rung in self._states.settings.sleep_rungs and rung not in self.wakes.refused

    # --- what became of it -----------------------------------------------------------------------

    def fell_asleep(self, instance: Instance) -> None:
        assert instance.falling_to is not None
        self._states.asleep(instance, instance.falling_to)
        self.watch(instance)

    def refused(self, instance: Instance) -> None:
        """It does not fall asleep: it is stopped, and never again asked for this rung."""
        assert instance.falling_to is not None
        self.wakes.refused.add(instance.falling_to)
        self._states.drain(instance, now=False)

    def woke(self, instance: Instance) -> None:
        now_s = self._states.clock()
        self.wakes.woke(instance.rung, now_s - instance.reached[State.WAKING])
        instance.rung = "hot"

    def wake_failed(self, instance: Instance) -> None:
        self.wakes.failed(instance.rung)
        self._states.kill(instance)

    def served_first(self, instance: Instance) -> None:
        """It has just become ready, and whoever waited for it was served."""
        going_down, instance.going_down = instance.going_down, False
        if going_down:
            self.watch(instance)  # its idleness was not interrupted
        else:
            instance.idle_since_s = self._states.clock()
            self.now_idle(instance)
        for other in self._states.instances.values():
            self.watch(other)  # it may be no longer the one that is held
