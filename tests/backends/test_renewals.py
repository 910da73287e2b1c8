"""One timer for the leases of all servers; no process is needed for that."""

import gc
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.launchers.guard import RENEWALS
from backends.launchers.renewals import Renewals


class Timer:
    def __init__(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s = at_s
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop's timers, with time that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer:
        timer = Timer(when, callback)
        self._timers.append(timer)
        return timer

    @property
    def timers(self) -> list[Timer]:
        return [timer for timer in self._timers if not timer.cancelled]

    def pass_time(self, for_s: float) -> None:
        until_s = self.now_s + for_s
        while due := [timer for timer in self.timers if timer.at_s <= until_s]:
            timer = min(due, key=lambda timer: timer.at_s)
            self._timers.remove(timer)
            self.now_s = max(timer.at_s, self.now_s)
            timer.callback()
        self.now_s = until_s


class Server:
    """Remembers when it was renewed."""

    def __init__(self, loop: Loop, lease_s: float) -> None:
        self.lease_s = lease_s
        self.renewed_s = [loop.now_s]
        self._loop = loop

    def renew(self) -> None:
        self.renewed_s.append(self._loop.now_s)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def renewals(loop: Loop) -> Renewals:
    return Renewals(lambda: loop)


def test_a_lease_is_renewed_before_it_is_over(loop: Loop, renewals: Renewals) -> None:
    server = Server(loop, 120.0)
    renewals.add(server)
    loop.pass_time(120.0)
    assert server.renewed_s == [0.0, 30.0, 60.0, 90.0, 120.0]


def test_the_shortest_lease_sets_the_pace_of_the_one_timer(loop: Loop, renewals: Renewals) -> None:
    servers = [Server(loop, lease_s) for lease_s in (120.0, 20.0, 60.0)]
    for server in servers:
        renewals.add(server)
        assert len(loop.timers) == 1
    loop.pass_time(10.0)
    assert [server.renewed_s for server in servers] == [[0.0, 5.0, 10.0]] * 3


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.5, 100)), min_size=1, max_size=8))
def test_whoever_comes_when_nobody_is_silent_for_a_part_of_its_lease(
    arrivals: list[tuple[float, float]],
) -> None:
    loop = Loop()
    renewals = Renewals(lambda: loop)
    servers = []
    for after_s, lease_s in arrivals:
        loop.pass_time(after_s)
        servers.append(Server(loop, lease_s))
        renewals.add(servers[-1])
    loop.pass_time(200.0)
    for server in servers:
        times_s = [*server.renewed_s, loop.now_s]
        silences_s = [after - before for before, after in zip(times_s, times_s[1:], strict=False)]
        assert max(silences_s) <= server.lease_s / RENEWALS * 1.001


def test_no_timer_runs_for_servers_that_ended_or_that_nobody_holds(
    loop: Loop, renewals: Renewals
) -> None:
    ended, forgotten = Server(loop, 10.0), Server(loop, 5.0)
    renewals.add(ended)
    renewals.add(forgotten)
    ended.lease_s = math.inf
    del forgotten
    gc.collect()
    loop.pass_time(60.0)
    assert ended.renewed_s == [0.0]
    assert loop.timers == []


def test_a_server_without_a_lease_needs_no_timer(loop: Loop, renewals: Renewals) -> None:
    renewals.add(Server(loop, math.inf))
    assert loop.timers == []
