"""The same run replayed: what the simulator of `lamplighter replay` decides on its record.

Given are the requests with how long their answers took, and of each start when it was launched
and when it was ready; all else is decided anew. A start of the replay is the recorded one that
was decided on within a second of it; one that the live run did not make takes as long as the one
before it.
"""

import os
import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from config.load import load
from load_tests.agreement.decisions import WITHIN_S, Decisions, Event, Served
from load_tests.agreement.live import Recorded
from policies.arrival import Step
from policies.rungs import RungName
from router.planner import Planner
from router.replay.keepers import Planned
from router.replay.policies import Policy
from router.replay.simulate import Replay, Setting, prepare
from router.replay.starts import drawing
from router.replay.traces import RequestTrace, read_store
from router.replay.work import Caller


@dataclass(frozen=True)
class Rise:
    """A recorded start: launched and ready, in seconds from the beginning."""

    launched_s: float
    ready_s: float


def decisions(recorded: Recorded) -> dict[str, Decisions]:
    """By model, with times from the beginning of the run."""
    config = load(recorded.file, os.environ)
    trace = _from_the_beginning(read_store(recorded.store), recorded)
    setting = Setting(config, {name: name for name in trace.models})
    rises = _rises(recorded)
    replay = Replay(setting, trace)
    return {model: of_model(replay, model, rises.get(model, ())) for model in trace.models}


def _from_the_beginning(trace: RequestTrace, recorded: Recorded) -> RequestTrace:
    """From the moment in which the gateway began to plan until the end of the run."""
    shift_s = trace.epoch_s - recorded.began_s
    for requests in trace.by_model.values():
        requests.at_s = array("d", (at_s + shift_s for at_s in requests.at_s))
    length_s = recorded.ended_s - recorded.began_s
    return RequestTrace(trace.by_model, recorded.began_s, length_s, trace.notes)


def _rises(recorded: Recorded) -> dict[str, list[Rise]]:
    """By model; the demo engine does not sleep, so that all of them are starts."""
    found: dict[str, list[Rise]] = {}
    launched_s: dict[str, float] = {}
    with closing(sqlite3.connect(recorded.store)) as database:
        query = "SELECT time, model, instance, state FROM transitions ORDER BY time"
        for time, model, instance, state in database.execute(query):
            at_s = time - recorded.began_s
            if state == "provisioning":
                launched_s[instance] = at_s
            elif state == "ready":
                found.setdefault(model, []).append(Rise(launched_s[instance], at_s))
    return found


def of_model(replay: Replay, model: str, rises: Sequence[Rise]) -> Decisions:
    """What one model's replay decides."""
    work = prepare(replay.setting, replay.trace, model)
    found = Decisions()
    served: dict[int, Served] = {}

    def happened(at_s: float, what: str) -> None:
        if what != "ready":
            found.events.append(Event(at_s, what))

    def placed(row: int, where: str, met_start: bool) -> None:
        served[row] = Served(work.requests.at_s[row], where, met_start)

    facts = work.economics
    times_s = drawing(facts, (), "")[1]
    keeper = _Given(Planner(facts, 0.0), rises, times_s)
    policy = Policy("recorded", "keeper", lambda work, rungs: keeper)
    replay.run(replay.begin(work, policy, happened, placed, keeper.rise_s))
    found.events.sort(key=lambda event: event.at_s)
    found.requests = [served[row] for row in sorted(served)]
    return found


class _Given(Planned):
    """The planner, told of starts as they were: launched some milliseconds after the decision.

    `times_s` are the wakes from the rungs of sleep.
    """

    def __init__(
        self, planner: Planner, rises: Sequence[Rise], times_s: Mapping[RungName, float]
    ) -> None:
        super().__init__(planner)
        self._rises = rises
        self._launched_s = [rise.launched_s for rise in rises]
        self._times_s = times_s
        self._late_s = 0.0  # of the start that is on its way

    def rise_s(self, rung: RungName, now_s: float) -> float:
        if rung != "off":
            self._late_s = 0.0
            return self._times_s[rung]
        after = bisect_left(self._launched_s, now_s)
        near = self._rises[max(after - 1, 0) : after + 1]
        rise = min(near, key=lambda rise: abs(rise.launched_s - now_s))
        met = abs(rise.launched_s - now_s) <= WITHIN_S
        self._late_s = rise.launched_s - now_s if met else 0.0
        return rise.ready_s - rise.launched_s + self._late_s

    def woke(self, rung: RungName, took_s: float) -> None:
        super().woke(rung, took_s - self._late_s)

    def steps(self, rung: RungName, rising_for_s: float | None, caller: Caller) -> Sequence[Step]:
        if rising_for_s is not None:
            rising_for_s = max(rising_for_s - self._late_s, 0.0)
        return super().steps(rung, rising_for_s, caller)
