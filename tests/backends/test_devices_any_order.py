"""Random arrivals, deaths, failures, departures and holds on a shared device.

What must hold at every moment is in `shared.World.check`: no memory is given twice and nothing
that serves is put down; the policy's every answer is held against a plain greedy-dual there too.
Here is what must hold in the end: everybody is served, and not after too long.
"""

import asyncio
import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from backends.instance import State
from backends.lease import NoEndpoint, StartFailed
from tests.backends.shared import GIB, Reference, SharedModel, World

NAMES = "abcde"

a_model = st.fixed_dictionaries(
    {
        "memory": st.sampled_from([8, 12, 16, 24, 32]).map(lambda n: n * GIB),
        "host_memory": st.sampled_from([8, 16]).map(lambda n: n * GIB),
        "load_s": st.sampled_from([0.5, 5.0, 20.0]),
        "stop_s": st.sampled_from([0.0, 1.0]),
        "sleep_s": st.sampled_from([0.5, 2.0]),
        "sleep_rungs": st.sampled_from([(), ("sleep_1",)]),
        "idle_s": st.sampled_from([3.0, 60.0, 1e9]),
    },
    optional={
        "max_concurrency": st.sampled_from([1, 2]),
    },
)
an_arrival = st.tuples(
    st.sampled_from(range(len(NAMES))),
    st.integers(0, 160).map(lambda n: n / 8),  # seconds after the one before
    st.sampled_from([0.125, 1.0, 30.0]),  # seconds of serving
)
happenings = st.lists(
    st.tuples(
        st.sampled_from(["die", "fail", "leave", "hold", "release", "drain", "pinned"]),
        st.sampled_from(range(len(NAMES))),
        st.integers(0, 2400).map(lambda n: n / 8),
    ),
    max_size=8,
)


def world(models: list[dict[str, Any]], max_wait_s: float, host_gib: int) -> World:
    reference = Reference()
    w = World(32 * GIB, host_gib * GIB, max_wait_s, reference)
    reference.world = w
    for name, values in zip(NAMES, models, strict=False):
        w.model(name, **values)
    return w


def arrive(w: World, arrivals: list[tuple[int, float, float]]) -> float:
    at_s = 0.0
    models = list(w.models.values())
    for which, gap_s, serve_s in arrivals:
        at_s += gap_s
        w.time.call_later(at_s, models[which % len(models)].ask, serve_s)
    return at_s


def in_a_loop(test: Any) -> None:
    async def once() -> None:
        test()

    asyncio.run(once())


@settings(deadline=None, max_examples=100)
@given(
    st.lists(a_model, min_size=2, max_size=5),
    st.lists(an_arrival, min_size=1, max_size=60),
    st.sampled_from([1.0, 30.0]),
    st.sampled_from([0, 16, 1000]),
)
def test_everybody_is_served_in_time_and_switches_are_few(models, arrivals, max_wait_s, host_gib):
    def run() -> None:
        w = world(models, max_wait_s, host_gib)
        arrive(w, arrivals)
        w.advance(100_000)
        assert all(call.lease is not None for call in w.calls)
        w.at_rest()
        elapsed_s = max(call.waiter.since_s + call.waited_s + call.serve_s for call in w.calls)
        turns = [e.at_s for e in w.gone if e.served]
        moments = sorted(set(turns))
        apart_s = [b - a for a, b in itertools.pairwise(moments)]
        assert min(apart_s, default=max_wait_s) >= max_wait_s - 1e-6
        assert len(moments) <= elapsed_s / max_wait_s
        assert max(call.waited_s for call in w.calls) <= longest_wait_s(w, max_wait_s)

    in_a_loop(run)


def longest_wait_s(w: World, max_wait_s: float) -> float:
    """Every request before it may cost a turn, with all of its serving and a change of models."""
    models = w.models.values()
    change_s = max(m.load_s + m.stop_s + 2 * m.sleep_s for m in models)
    longest_s = max(call.serve_s for call in w.calls)
    rest_s = 0.1 * max(m.load_s for m in models)
    one_turn_s = max_wait_s + longest_s + change_s + rest_s
    queued = sum(call.serve_s for call in w.calls)  # at most all of it, one after the other
    return (len(w.models) + 1) * one_turn_s + queued


@settings(deadline=None, max_examples=100)
@given(
    st.lists(a_model, min_size=2, max_size=5),
    st.lists(an_arrival, min_size=1, max_size=40),
    happenings,
    st.sampled_from([0, 16]),
)
def test_whatever_happens_nobody_is_lost_and_nothing_is_left_over(
    models, arrivals, happening, host_gib
):
    def run() -> None:
        w = world(models, 10.0, host_gib)
        arrive(w, arrivals)
        for what, which, at_s in happening:
            model = list(w.models.values())[which % len(w.models)]
            w.time.call_later(at_s, happen, w, model, what)
        w.advance(400)
        for model in w.models.values():
            model.machine.hold(0.0)
        w.advance(100_000)
        for call in w.calls:
            fate = (call.lease is not None) + call.left + (call.refusal is not None)
            assert fate == 1
            assert call.refusal is None or isinstance(call.refusal, StartFailed | NoEndpoint)
        w.at_rest()

    in_a_loop(run)


def happen(w: World, model: SharedModel, what: str) -> None:
    first = model.instances[:1]
    if what == "die" and first and first[0].state is not State.DRAINING:
        model.die(first[0])
    elif what == "fail":
        model.fails += [True] * 2
    elif what == "leave":
        for call in w.pending[:2]:
            model.leave(call)
    elif what == "hold":
        model.machine.hold(w.time.now_s + 60.0)
    elif what == "release":
        model.machine.hold(0.0)
    elif what == "drain":
        model.machine.drain()
    elif what == "pinned" and first:
        model.ask(serve_s=2.0, only=first[0].id)
