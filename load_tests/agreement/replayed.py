"""The same run replayed: what the simulator of `lamplighter replay` decides on its record."""

import os
from array import array
from collections.abc import Callable, Sequence

from config.load import load
from load_tests.agreement.decisions import Decisions, Event, Served
from load_tests.agreement.live import Recorded
from policies.rungs import RungName
from router.replay.bounds import ladder_of
from router.replay.policies import planned
from router.replay.simulate import Replay, Setting, prepare
from router.replay.starts import drawing
from router.replay.traces import RequestTrace, read_store


def decisions(recorded: Recorded) -> dict[str, Decisions]:
    """By model, with times from the beginning of the run."""
    config = load(recorded.file, os.environ)
    trace = _from_the_beginning(read_store(recorded.store), recorded)
    setting = Setting(config, {name: name for name in trace.models})
    return {model: of_model(Replay(setting, trace), model) for model in trace.models}


def _from_the_beginning(trace: RequestTrace, recorded: Recorded) -> RequestTrace:
    """From the moment in which the gateway began to plan until the end of the run."""
    shift_s = trace.epoch_s - recorded.began_s
    for requests in trace.by_model.values():
        requests.at_s = array("d", (at_s + shift_s for at_s in requests.at_s))
    length_s = recorded.ended_s - recorded.began_s
    return RequestTrace(
        trace.by_model, recorded.began_s, length_s, trace.notes, starts_s=trace.starts_s
    )


def of_model(replay: Replay, model: str) -> Decisions:
    """What one model's replay decides, its starts as long as the recorded ones in their order."""
    work = prepare(replay.setting, replay.trace, model)
    found = Decisions()
    served: dict[int, Served] = {}

    def happened(at_s: float, what: str) -> None:
        if what != "ready":
            found.events.append(Event(at_s, what))

    def placed(row: int, where: str, met_start: bool) -> None:
        served[row] = Served(work.requests.at_s[row], where, met_start)

    facts = work.economics
    rungs = ladder_of(facts, drawing(facts, (), "")[1])
    in_order = _in_order(replay.trace.starts_s.get(model, ()))
    replay.run(work, model, planned("recorded"), rungs, happened, placed, in_order)
    found.events.sort(key=lambda event: event.at_s)
    found.requests = [served[row] for row in sorted(served)]
    return found


def _in_order(starts_s: Sequence[float]) -> Callable[[RungName], float]:
    """Each start takes as long as the recorded one of the same number; the last one for more."""
    left = iter(starts_s)
    last_s = starts_s[-1] if starts_s else 0.0
    return lambda rung: next(left, last_s)
