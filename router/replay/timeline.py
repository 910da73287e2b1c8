"""What happens to one model over the trace under a file's own policy, for a picture."""

from dataclasses import dataclass, field

from router.replay.policies import planned
from router.replay.simulate import Replay, Setting, prepare
from router.replay.traces import Trace
from router.replay.work import Work


@dataclass
class Timeline:
    """`states` are (time, state) of its first server: `start`, `wake`, `ready`, or a rung.

    `placements` likewise; `rates` are requests per second by time, over `bin_s`.
    """

    model: str
    end_s: float
    bin_s: float
    states: list[tuple[float, str]] = field(default_factory=lambda: [(0.0, "off")])
    placements: list[tuple[float, str]] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)


BINS = 400
PLACEMENTS = ("always_on", "on_demand", "api")


def timeline(setting: Setting, trace: Trace, model: str) -> Timeline:
    work = prepare(setting, trace, model)
    found = Timeline(model, work.end_s, max(work.end_s / BINS, 1.0))
    found.rates = _rates(work, found.bin_s)

    def happened(now_s: float, what: str) -> None:
        (found.placements if what in PLACEMENTS else found.states).append((now_s, what))

    replay = Replay(setting, trace)
    replay.run(replay.begin(work, planned("this file"), happened))
    return found


def _rates(work: Work, bin_s: float) -> list[tuple[float, float]]:
    counts: dict[int, float] = {}
    for row, at_s in enumerate(work.requests.at_s):
        middle_s = (at_s + work.until_s(row)) / 2
        counts[int(middle_s // bin_s)] = counts.get(int(middle_s // bin_s), 0.0) + work.count(row)
    last = int(work.end_s // bin_s) + 1
    return [(n * bin_s, counts.get(n, 0.0) / bin_s) for n in range(last)]
