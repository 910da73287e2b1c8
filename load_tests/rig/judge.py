"""What the numbers are worth: percentiles, medians, and when the rig itself was the limit. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RIG_FULL = 0.90  # above this share of its core, upstream and load may be what was measured
GATEWAY_FULL = 0.85  # above this, the gateway was the limit whatever the rig did
DISTURBED = 0.10  # share of the gateway's core that others took
ON_TIME = 0.95  # of the chunks that were due
ANSWERED = 0.99  # of the requests that were due
OVERLOAD = 0.98  # share of its core at which a gateway cannot keep a constant rate
LATE_MS = 0.5  # p99 by which our own driver may miss the intended moment

GENERATOR_BOUND = "generator-bound"
OVERLOADED = "overloaded"
BUSY_MACHINE = "disturbed"
FAILED = "errors"


@dataclass(frozen=True)
class Shares:
    """How much of a core each used, 1.0 being all of it. Others are strangers, and the host."""

    gateway: float
    rig: float
    others: float = 0.0  # on the gateway's core
    rig_others: float = 0.0  # on the rig's core

    def __str__(self) -> str:
        others = f"others {self.others:.0%} and {self.rig_others:.0%}"
        return f"core {self.gateway:.0%}, rig {self.rig:.0%}, {others}"

    @property
    def rig_limit(self) -> str:
        """Whether the rig had no time left, and by whose fault."""
        if self.rig > RIG_FULL:
            return GENERATOR_BOUND
        return BUSY_MACHINE if self.rig + self.rig_others > RIG_FULL else ""

    @property
    def gateway_full(self) -> bool:
        return self.gateway + self.others >= GATEWAY_FULL

    @property
    def disturbed(self) -> str:
        return BUSY_MACHINE if max(self.others, self.rig_others) > DISTURBED else ""


def closed_loop(shares: Shares) -> str:
    """A fixed number of connections: CPU per request.

    When the rig is the limit, the gateway waits for it and is woken for each request by itself,
    which costs more for each. A gateway that is full itself was given all that it can take; that
    others had a part of its core hardly changes what a request takes of the rest.
    """
    return "" if shares.gateway_full else shares.rig_limit


def throughput(shares: Shares) -> str:
    """Requests a second: of no meaning unless the gateway had its core, and used it."""
    if shares.gateway >= GATEWAY_FULL:
        return ""
    return shares.rig_limit or shares.disturbed


def paced(shares: Shares, chunks: int, due: float) -> str:
    """Chunks at a fixed pace: CPU per chunk. A full gateway may be late, an idle one may not."""
    if shares.gateway_full and shares.rig <= RIG_FULL:
        return ""
    late = GENERATOR_BOUND if chunks < ON_TIME * due else ""
    return shares.rig_limit or (late and (shares.disturbed or late))


def latency(shares: Shares, late_ms: float = 0.0, answered: float = 1.0) -> str:
    """Latencies: nothing may have been full or late but the gateway."""
    if shares.disturbed:
        return shares.disturbed
    if answered < ANSWERED or shares.gateway > OVERLOAD:
        return OVERLOADED
    return shares.rig_limit or (GENERATOR_BOUND if late_ms > LATE_MS else "")


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Sample:
    """One number of one round, or why there is none."""

    row: str
    peer: str
    value: float
    refused: str = ""
    note: str = ""  # for who watches


@dataclass(frozen=True)
class Result:
    """All rounds of a row at one peer."""

    value: float
    refused: str = ""
    rounds: tuple[float, ...] = ()


def together(samples: Sequence[Sample]) -> Result:
    """The median of the good rounds; none if fewer than half of them were good."""
    good = tuple(s.value for s in samples if not s.refused)
    if not good or 2 * len(good) < len(samples):
        reasons = [s.refused for s in samples if s.refused]
        return Result(math.nan, statistics.mode(reasons) if reasons else "not measured")
    return Result(statistics.median(good), "", good)
