"""The gateway's own states under a clock of the test, and the replay: the same starts and stops."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.holding import Holding, Rung
from backends.instance import Instance
from backends.lease import Lease, Waiter
from router.planner import Planner
from router.replay.keepers import Fixed, Planned
from tests.backends.scenes import Model, lease
from tests.replay.test_run import FACTS, fast, given_requests

END_S = 5000.0
EIGHTHS = st.integers(0, 400).map(lambda n: n / 8)
REQUESTS = st.lists(
    st.tuples(st.integers(0, 200).map(float), EIGHTHS), min_size=1, max_size=20
).map(given_requests)
STARTS = st.lists(st.integers(1, 60).map(lambda n: n + 0.375), min_size=1, max_size=4)
Log = list[tuple[float, str]]


@dataclass
class Heard:
    """What a planner hears; nothing, unless a test says otherwise."""

    arrived: Callable[[float], None] = lambda now_s: None
    finished: Callable[[float], None] = lambda now_s: None
    woke: Callable[[str, float], Any] = lambda rung, took_s: None


@dataclass
class Live:
    """A real lifecycle; requests, starts and stops are timers of the test's clock."""

    model: Model
    starts_s: list[float]
    heard: Heard
    log: Log = field(default_factory=list)

    def run(self, requests: list[tuple[float, float]]) -> Log:
        world, self.waiting = self.model.world, list[tuple[Waiter, float]]()
        self.launched = self.stopped = 0
        self.times_s = itertools.cycle(self.starts_s)
        for at_s, service_s in requests:
            world.call_later(at_s, self.arrive, service_s)
        while world.timers and world.now_s < END_S:
            next_s = min(timer[0] for timer in world._timers)
            world.advance(min(next_s, END_S) - world.now_s)
            self.follow()
        return self.log

    def arrive(self, service_s: float) -> None:
        self.heard.arrived(self.model.world.now_s)
        self.waiting.append((self.model.ask(), service_s))
        self.follow()

    def follow(self) -> None:
        """Serve who has a lease; launch and stop what was asked for."""
        world = self.model.world
        for waiter, service_s in [each for each in self.waiting if each[0].future.done()]:
            self.waiting.remove((waiter, service_s))
            world.call_later(service_s, self.finish, lease(waiter))
        for instance in world.launched[self.launched :]:
            self.launched += 1
            self.log.append((world.now_s, "start"))
            world.call_later(next(self.times_s), self.ready, instance)
        for instance_id in world.stopped[self.stopped :]:
            self.stopped += 1
            self.log.append((world.now_s, "off"))
            self.model.machine.exited(instance_id, "")

    def finish(self, lease: Lease) -> None:
        self.heard.finished(self.model.world.now_s)
        lease.succeeded()
        lease.release()

    def ready(self, instance: Instance) -> None:
        now_s = self.model.world.now_s
        self.heard.woke("off", now_s - instance.began_s)
        self.log.append((now_s, "ready"))
        self.model.ready(instance)
        self.follow()


@dataclass
class Planning:
    """Satisfies `Holding` as the router's does."""

    planner: Planner

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        return self.planner.descent().steps


def live(
    requests: list[tuple[float, float]],
    starts_s: list[float],
    heard: Heard,
    holding: Holding | None = None,
    **changes: Any,
) -> Log:
    model = Model(**changes) if holding is None else Model(holding=holding, **changes)
    try:
        return Live(model, starts_s, heard).run(requests)
    finally:
        model.close()


def assert_same(one: Log, other: Log) -> None:
    assert [what for _, what in one] == [what for _, what in other]
    assert [at_s for at_s, _ in one] == pytest.approx([at_s for at_s, _ in other])


@given(REQUESTS, STARTS, st.sampled_from([0.3, 7.3, 61.7, 299.9]))
@settings(max_examples=80, deadline=None)
def test_a_fixed_idle_time_starts_and_stops_the_same(requests, starts_s, idle_s):
    _, replayed = fast(requests, Fixed(((idle_s, "off"),)), starts_s)
    assert_same(live(requests, starts_s, Heard(), idle_s=idle_s), replayed)


@given(REQUESTS, STARTS)
@settings(max_examples=80, deadline=None)
def test_the_planner_starts_and_stops_the_same(requests, starts_s):
    planner = Planner(FACTS, 0.0)
    heard = Heard(planner.arrived, planner.finished, planner.woke)
    keeper = Planned(Planner(FACTS, 0.0))
    keeper.early = lambda: None  # early starts are the upkeep's, not the lifecycle's
    _, replayed = fast(requests, keeper, starts_s)
    assert_same(live(requests, starts_s, heard, Planning(planner)), replayed)
