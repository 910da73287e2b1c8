"""What the callers of one model do, and how fast it answers them: rates, idle gaps, waits, starts.

No clock and no I/O: times come in as arguments, in seconds of the router's clock. A request
costs `arrived` and `finished`, a microsecond together; rates come from counters that others keep,
read every few seconds by `sample`. What is kept is bounded whatever the traffic.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Literal

from msgspec import Struct

from policies.gaps import Gaps
from router.week import Week

SAMPLE_EVERY_S = 5.0
GAP_FLOOR_S = 1.0  # until a keep-alive rule says from which gap on it learns
FIRST_TOKENS_KEPT = 200
STARTS_KEPT = 100

Window = Literal["1m", "5m", "1h"]
WINDOWS_S: Mapping[Window, float] = {"1m": 60.0, "5m": 300.0, "1h": 3600.0}
Temperature = Literal["hot", "cold"]


class Totals(Struct, frozen=True):
    """What was counted since the process began. `arrivals` is by priority."""

    arrivals: Mapping[str, int] = {}
    input_tokens: int = 0
    output_tokens: int = 0
    busy_s: float = 0.0  # the durations of all requests that ended, added up

    @property
    def requests(self) -> int:
        return sum(self.arrivals.values())


class Rate(Struct, frozen=True):
    """Means over a window, or over the life of the process where that is shorter.

    `concurrency` counts a request in the window in which it ends. `arrivals` is by priority.
    """

    over_s: float = 0.0
    requests_per_s: float = 0.0
    input_tokens_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    concurrency: float = 0.0
    arrivals: Mapping[str, int] = {}


class Quantiles(Struct, frozen=True):
    """Of a bounded sample of durations, in seconds."""

    count: int
    p50: float
    p90: float
    p99: float


class Snapshot(Struct, frozen=True):
    """All that is known of a model's demand at one moment. Durations in seconds.

    `idle_s` is None while a request is under way and before the first one. `gaps` are in order of
    arrival. `hours` begins with Monday 00:00 UTC and holds requests per second, None for an hour
    that was never seen. `starts` is by stage: `provisioning`, `loading`, `warming`, `total`, and
    `sleep_1` and `sleep_2` for wakes from there.
    """

    rates: Mapping[Window, Rate]
    in_flight: int
    peak_5m: int
    idle_s: float | None
    gaps: tuple[float, ...]
    hours: tuple[float | None, ...]
    first_token: Mapping[Temperature, Quantiles]
    starts: Mapping[str, Quantiles]


class _Sample(Struct, frozen=True):
    at_s: float
    totals: Totals
    peak: int  # most requests at a time since the sample before


class Demand:
    """One model's. `gaps`, `week` and `starts` may be filled with what an earlier process learnt.

    `gaps.floor_s` is for whoever decides by the gaps to set.
    """

    def __init__(self, gap_floor_s: float = GAP_FLOOR_S) -> None:
        self.gaps = Gaps(gap_floor_s)
        self.week = Week()
        self.starts: dict[str, deque[float]] = {}
        self._first_tokens: dict[Temperature, deque[float]] = {
            "hot": deque(maxlen=FIRST_TOKENS_KEPT),
            "cold": deque(maxlen=FIRST_TOKENS_KEPT),
        }
        self._in_progress = 0
        self._peak = 0
        self._idle_since_s: float | None = None
        # Every sample of the last five minutes, and one a minute of the last hour.
        self._recent: deque[_Sample] = deque(maxlen=math.ceil(300.0 / SAMPLE_EVERY_S) + 1)
        self._hour: deque[_Sample] = deque(maxlen=61)

    @property
    def in_progress(self) -> int:
        """Requests that arrived in this process and have not ended."""
        return self._in_progress

    @property
    def idle_since_s(self) -> float | None:
        """When the last request ended; None while one is under way and before the first."""
        return self._idle_since_s

    # --- at each request ------------------------------------------------------------------------

    def arrived(self, now_s: float) -> float | None:
        """A request came. The idle gap that it ended, if that was long enough to be kept."""
        self._in_progress += 1
        if self._in_progress > self._peak:
            self._peak = self._in_progress
        since_s = self._idle_since_s
        if since_s is None:
            return None
        self._idle_since_s = None
        gap_s = now_s - since_s
        return gap_s if self.gaps.add(gap_s) else None

    def finished(self, now_s: float) -> None:
        """A request that had arrived has had its last byte, or has failed."""
        self._in_progress -= 1
        if not self._in_progress:
            self._idle_since_s = now_s

    def first_token(self, after_s: float, *, cold: bool) -> None:
        """A stream's first token came so long after its request."""
        self._first_tokens["cold" if cold else "hot"].append(after_s)

    # --- now and then ---------------------------------------------------------------------------

    def take_first_tokens(self) -> list[float]:
        """Those of requests that waited for no start since this was asked last."""
        sample = self._first_tokens["hot"]
        taken = list(sample)
        sample.clear()
        return taken

    def started(self, stages: Mapping[str, float]) -> None:
        """An instance became ready; seconds by stage."""
        for stage, seconds in stages.items():
            self.starts.setdefault(stage, deque(maxlen=STARTS_KEPT)).append(seconds)

    def sample(self, now_s: float, epoch_s: float, totals: Totals, elsewhere: int = 0) -> None:
        """Note what was counted so far. `elsewhere` are requests in other processes now."""
        if self._recent:
            last = self._recent[-1]
            came = max(totals.requests - last.totals.requests, 0)
            self.week.add(epoch_s, now_s - last.at_s, came)
        sample = _Sample(now_s, totals, self._peak + elsewhere)
        self._peak = self._in_progress
        self._recent.append(sample)
        if not self._hour or now_s - self._hour[-1].at_s >= 60.0:
            self._hour.append(sample)

    def rate(self, window: Window) -> Rate:
        """As of the last sample."""
        if not self._recent:
            return Rate()
        last = self._recent[-1]
        first = self._at(last.at_s - WINDOWS_S[window])
        over_s = last.at_s - first.at_s
        if over_s <= 0:
            return Rate()
        was, now = first.totals, last.totals
        return Rate(
            over_s,
            max(now.requests - was.requests, 0) / over_s,
            max(now.input_tokens - was.input_tokens, 0) / over_s,
            max(now.output_tokens - was.output_tokens, 0) / over_s,
            max(now.busy_s - was.busy_s, 0.0) / over_s,
            {p: count - was.arrivals.get(p, 0) for p, count in now.arrivals.items()},
        )

    def _at(self, at_s: float) -> _Sample:
        """The newest sample that is no younger than this, else the oldest of all."""
        kept = self._recent if self._recent[0].at_s <= at_s else self._hour
        older = [sample for sample in kept if sample.at_s <= at_s]
        return older[-1] if older else kept[0]

    def snapshot(self, now_s: float, elsewhere: int = 0) -> Snapshot:
        """`elsewhere` are requests in other processes now."""
        peaks = [sample.peak for sample in self._recent if sample.at_s > now_s - 300.0]
        in_flight = self._in_progress + elsewhere
        since_s = self._idle_since_s
        return Snapshot(
            rates={window: self.rate(window) for window in WINDOWS_S},
            in_flight=in_flight,
            peak_5m=max([self._peak + elsewhere, *peaks]),
            idle_s=None if since_s is None or in_flight else max(now_s - since_s, 0.0),
            gaps=tuple(self.gaps.values()),
            hours=self.week.rates(),
            first_token={t: quantiles(kept) for t, kept in self._first_tokens.items() if kept},
            starts={stage: quantiles(kept) for stage, kept in self.starts.items() if kept},
        )


def quantiles(values: Collection[float]) -> Quantiles:
    """By nearest rank: each is a value that occurred. `values` must not be empty."""
    ascending = sorted(values)
    count = len(ascending)
    p50, p90, p99 = (ascending[max(math.ceil(count * q / 100), 1) - 1] for q in (50, 90, 99))
    return Quantiles(count, p50, p90, p99)
