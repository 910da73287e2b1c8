"""One timer that is moved lazily: a later deadline costs a comparison, not a timer made anew.

A connection changes what it waits for several times per request, and almost never waits that long.
"""

import asyncio
import math
from collections.abc import Callable

TIMER_GRAIN_S = 0.002  # uvloop's clock counts milliseconds, and a timer may fire one early


class Deadline:
    """Calls `passed` when the time set last is over. Times are those of the event loop's clock."""

    __slots__ = ("_loop", "_passed", "_timer", "_timer_at", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self.at = math.inf
        self._loop = loop
        self._passed: Callable[[], None] | None = passed
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def after(self, seconds: float) -> None:
        """Replace what was set by `seconds` from now; `math.inf` for never."""
        self.at = at = self._loop.time() + seconds
        if at < self._timer_at and self._passed is not None:
            self._arm(at)

    def clear(self) -> None:
        self.at = math.inf

    def cancel(self) -> None:
        """For good. The timer refers to its owner, and so does this: a cycle that ends here."""
        self.at = math.inf
        self._passed = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = math.inf

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._passed is None:
            return
        if self._loop.time() >= self.at - TIMER_GRAIN_S:
            self.at = math.inf
            self._passed()
        elif self.at < math.inf:
            self._arm(self.at)
