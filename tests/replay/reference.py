"""One server and its callers, event by event: slow, and written without a look at the fast path.

What it shares with `router.replay` is only the rules that it is told to follow.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

READY, ARRIVAL, ENDED, TIMER = range(4)  # what comes first of what is at the same time


@dataclass
class Reference:
    """`descent` is asked at each new idleness; the hooks hear what a planner would hear."""

    requests: Sequence[tuple[float, float]]  # arrival and service
    descent: Callable[[], Sequence[tuple[float, str]]]
    take_s: Callable[[str, float], float]
    hold_usd_s: dict[str, float]
    held_s: float = float("inf")
    arrived: Callable[[float], None] = lambda now_s: None
    finished: Callable[[float], None] = lambda now_s: None
    woke: Callable[[str, float], None] = lambda rung, took_s: None
    log: list[tuple[float, str]] = field(default_factory=list)
    usd: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("holding", "starting", "serving"), 0.0)
    )
    waits_s: list[float] = field(default_factory=list)
    missed: int = 0

    def run(self, end_s: float) -> "Reference":
        self._events: list[tuple[float, int, int, Any]] = []
        self._numbers = itertools.count()
        self._rung, self._rising, self._active, self._since_s = "off", None, 0, 0.0
        self._waiting: list[tuple[float, float]] = []
        self._idleness = 0
        for at_s, service_s in self.requests:
            self._at(at_s, ARRIVAL, service_s)
        last_s = 0.0
        while self._events:
            now_s, what, _, about = heapq.heappop(self._events)
            if what == TIMER and now_s >= max(end_s, last_s) and not self._busy_later():
                break
            self._pass(now_s)
            if what != TIMER:
                last_s = max(last_s, now_s)
            (self._ready, self._arrival, self._ended, self._timer)[what](now_s, about)
        self._pass(max(end_s, last_s))
        return self

    def _busy_later(self) -> bool:
        return any(event[1] != TIMER for event in self._events)

    def _at(self, at_s: float, what: int, about: Any) -> None:
        heapq.heappush(self._events, (at_s, what, next(self._numbers), about))

    def _pass(self, now_s: float) -> None:
        """Money for the time that has passed in one state."""
        kind = "starting" if self._rising else "serving" if self._active else "holding"
        price = self.hold_usd_s["hot" if self._rising else self._rung]
        self.usd[kind] += (now_s - self._since_s) * price
        self._since_s = now_s

    def _arrival(self, now_s: float, service_s: float) -> None:
        self.arrived(now_s)
        if self._rung == "hot" and not self._rising:
            self._serve(now_s, service_s)
            return
        if not self._rising:
            took_s = self.take_s(self._rung, now_s)
            self._rising = (self._rung, took_s, now_s + took_s)
            self.log.append((now_s, "start" if self._rung == "off" else "wake"))
            self._at(now_s + took_s, READY, None)
        wait_s = self._rising[2] - now_s
        if wait_s > self.held_s:
            self.missed += 1
            self.waits_s.append(self.held_s)
            self._at(now_s + self.held_s, ENDED, None)
        else:
            self.waits_s.append(wait_s)
            self._waiting.append((now_s, service_s))

    def _serve(self, now_s: float, service_s: float) -> None:
        self._active += 1
        self._at(now_s + service_s, ENDED, self)

    def _ready(self, now_s: float, _: Any) -> None:
        assert self._rising is not None
        self.woke(self._rising[0], self._rising[1])
        self._rising, self._rung = None, "hot"
        self.log.append((now_s, "ready"))
        waiting, self._waiting = self._waiting, []
        for _, service_s in waiting:
            self._serve(now_s, service_s)
        if not waiting:
            self._idle(now_s)

    def _ended(self, now_s: float, by: Any) -> None:
        self.finished(now_s)
        if by is None:
            return  # it left without an answer
        self._active -= 1
        if not self._active:
            self._idle(now_s)

    def _idle(self, now_s: float) -> None:
        self._idleness += 1
        for after_s, rung in self.descent():
            self._at(now_s + after_s, TIMER, (self._idleness, rung))

    def _timer(self, now_s: float, about: tuple[int, str]) -> None:
        idleness, rung = about
        if idleness == self._idleness and not self._active and not self._rising:
            self._rung = rung
            self.log.append((now_s, rung))
