"""How long an idle instance stays on which rung, as its model's lifecycle is told it.

The ladder is `hot > sleep_1 > sleep_2 > off`. Who injects a `Holding` decides, by money or by a
fixed time; here is only what follows from its answer at a given moment. Time is an argument.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Rung = Literal["hot", "sleep_1", "sleep_2", "off"]
LADDER: tuple[Rung, ...] = ("hot", "sleep_1", "sleep_2", "off")
WAKES_REMEMBERED = 20
FAILED_WAKES = 2  # in a row; after that a start is the quicker way, as it comes in any case


class Holding(Protocol):
    """What the states ask of whoever decides."""

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        """Asked when an instance becomes idle: (idle seconds, the rung to be on from then on).

        Ascending in both; empty: it stays hot. Cheap, for it is asked at each new idleness.
        """
        ...


@dataclass(frozen=True)
class Held:
    """Satisfies `Holding`: down to one rung after a fixed time, `inf` for never."""

    idle_s: float
    rung: Rung = "off"

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        return () if math.isinf(self.idle_s) else ((self.idle_s, self.rung),)


def below(one: Rung, other: Rung) -> bool:
    """Whether `one` is a lower rung than `other`."""
    return LADDER.index(one) > LADDER.index(other)


@dataclass(frozen=True)
class Descent:
    """One idleness of one instance: the steps that it takes down the ladder."""

    steps: tuple[tuple[float, Rung], ...] = ()

    def rung_at(self, since_s: float, now_s: float) -> Rung:
        """Where it belongs that has been idle since then."""
        rung: Rung = "hot"
        for from_s, lower in self.steps:
            if since_s + from_s <= now_s:
                rung = lower
        return rung

    def next_step_s(self, since_s: float, rung: Rung) -> float:
        """When it leaves `rung` downwards that has been idle since then; `inf` when it stays."""
        steps_s = (since_s + from_s for from_s, lower in self.steps if below(lower, rung))
        return min(steps_s, default=math.inf)


@dataclass
class Hold:
    """What is kept ready though nobody asks: one instance until a time, or a number of them."""

    until_s: float = 0.0  # `inf`: until it is ended
    instances: int = 0

    def kept(self, now_s: float) -> int:
        """How many instances are to be ready now, whatever the demand."""
        return max(self.instances, 1 if now_s < self.until_s else 0)

    def end(self) -> None:
        self.until_s, self.instances = 0.0, 0


class Wakes:
    """What was learned of a server's sleep: its last wakes per rung, and rungs that do not work."""

    def __init__(self) -> None:
        self.refused: set[Rung] = set()  # until its command changes: then all of this is new
        self._times_s: dict[Rung, deque[float]] = {}
        self._failed: dict[Rung, int] = {}  # wakes in a row

    @property
    def times_s(self) -> dict[Rung, tuple[float, ...]]:
        return {rung: tuple(times_s) for rung, times_s in self._times_s.items()}

    def woke(self, rung: Rung, took_s: float) -> None:
        self._times_s.setdefault(rung, deque(maxlen=WAKES_REMEMBERED)).append(took_s)
        self._failed[rung] = 0

    def failed(self, rung: Rung) -> None:
        self._failed[rung] = self._failed.get(rung, 0) + 1
        if self._failed[rung] >= FAILED_WAKES:
            self.refused.add(rung)
