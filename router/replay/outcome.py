"""What became of one model under one policy: money by kind, waits, starts, what was missed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

_PER_E = 50.0  # buckets of waits in each factor of e: quantiles are right within 2 %
HOUR_S = 3600.0


class Waits:
    """Waits of many requests, in buckets; those that did not wait are only counted."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self.waited = 0.0
        self._buckets: dict[int, float] = {}

    def add(self, wait_s: float, count: float = 1.0) -> None:
        if wait_s > 0:
            self.total_s += wait_s * count
            self.waited += count
            bucket = math.ceil(_PER_E * math.log(wait_s))
            self._buckets[bucket] = self._buckets.get(bucket, 0.0) + count

    def merge(self, other: Waits) -> None:
        self.total_s += other.total_s
        self.waited += other.waited
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0.0) + count

    def quantile(self, share: float, requests: float) -> float:
        """The wait that this share of all requests did not exceed."""
        left = requests - self.waited
        if share * requests <= left:
            return 0.0
        longest = max(self._buckets, default=0)
        for bucket, count in sorted(self._buckets.items()):
            left += count
            if left >= share * requests - 1e-9:
                longest = bucket
                break
        return math.exp((longest - 0.5) / _PER_E)


@dataclass(slots=True)
class Outcome:
    """Sums; of several models by `add`. Counts are floats, for spells count parts of requests.

    `cold` requests came when no server of their model was ready, whoever answered them;
    `overflowed` were answered by the outside API, `missed` by nobody in time. `cold_gaps` are the
    gaps that ended in a start or a wake. `idle_starts` served nothing; a `flap` is a start or wake
    after less time down than it took itself.
    """

    requests: float = 0.0
    holding_usd: float = 0.0
    starting_usd: float = 0.0
    serving_usd: float = 0.0
    api_usd: float = 0.0
    delay_usd: float = 0.0
    gaps: int = 0
    cold_gaps: int = 0
    cold: float = 0.0
    overflowed: float = 0.0
    missed: float = 0.0
    refused: float = 0.0
    starts: int = 0
    wakes: int = 0
    early_starts: int = 0
    idle_starts: int = 0
    flaps: int = 0
    warm_idle_h: float = 0.0
    moves: int = 0  # between placements
    waits: Waits = field(default_factory=Waits)

    @property
    def usd(self) -> float:
        """The bill."""
        return self.holding_usd + self.starting_usd + self.serving_usd + self.api_usd

    @property
    def total_usd(self) -> float:
        """The bill and the worth of the callers' waiting."""
        return self.usd + self.delay_usd

    @property
    def gap_usd(self) -> float:
        """What the gaps cost: holding, starting and waiting."""
        return self.holding_usd + self.starting_usd + self.delay_usd

    def waited(self, wait_s: float, count: float, delay_usd_s: float) -> None:
        """So many callers for so long each, at a price for each second of one."""
        self.waits.add(wait_s, count)
        self.delay_usd += wait_s * count * delay_usd_s

    def add(self, other: Outcome) -> None:
        for each in fields(self):
            if each.name != "waits":
                value = getattr(self, each.name) + getattr(other, each.name)
                setattr(self, each.name, value)
        self.waits.merge(other.waits)

    def as_json(self) -> dict[str, float]:
        """Every sum, and what is made of them; rates are shares of requests or of gaps."""
        sums = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "waits"
        }
        asked = max(self.requests, 1.0)
        return {
            **{name: round(value, 6) for name, value in sums.items()},
            "usd": round(self.usd, 6),
            "total_usd": round(self.total_usd, 6),
            "cold_per_request": round(self.cold / asked, 6),
            "cold_per_gap": round(self.cold_gaps / self.gaps, 6) if self.gaps else 0.0,
            "overflow_share": round(self.overflowed / asked, 6),
            "wait_mean_s": round(self.waits.total_s / asked, 4),
            "wait_p50_s": round(self.waits.quantile(0.5, asked), 3),
            "wait_p99_s": round(self.waits.quantile(0.99, asked), 3),
        }


def total(outcomes: Iterable[Outcome]) -> Outcome:
    out = Outcome()
    for outcome in outcomes:
        out.add(outcome)
    return out
