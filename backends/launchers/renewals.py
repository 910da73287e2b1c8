"""The renewing of leases: one timer of the event loop for all servers of a launcher.

A gateway that hangs does not renew, because its event loop does not turn; nor is a server renewed
that nobody holds any more, because only weak references are kept here. Both lose their lease.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

from backends.launchers.guard import RENEWALS


class Leased(Protocol):
    @property
    def lease_s(self) -> float:
        """`inf` once it needs no renewing."""
        ...

    def renew(self) -> None:
        """Never blocks."""
        ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Timers(Protocol):
    """What an event loop does here."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer: ...


class Renewals:
    """Renews each server that was added RENEWALS times in the shortest lease among them."""

    def __init__(self, loop: Callable[[], Timers] = asyncio.get_running_loop) -> None:
        self._loop = loop
        self._leased: WeakSet[Leased] = WeakSet()
        self._timer: Timer | None = None
        self._next_s = math.inf

    def add(self, leased: Leased) -> None:
        self._leased.add(leased)
        self._plan()

    def _plan(self) -> None:
        """Have the timer fire soon enough for all; none runs when nothing is to be renewed."""
        shortest_s = min((leased.lease_s for leased in self._leased), default=math.inf)
        loop = self._loop()
        next_s = loop.time() + shortest_s / RENEWALS
        if next_s < self._next_s:
            if self._timer is not None:
                self._timer.cancel()
            self._next_s = next_s
            self._timer = loop.call_at(next_s, self._renew)

    def _renew(self) -> None:
        self._next_s, self._timer = math.inf, None
        for leased in self._leased:
            if math.isfinite(leased.lease_s):
                leased.renew()
        self._plan()
