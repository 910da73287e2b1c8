"""What the numbers are worth: percentiles, medians, and when the rig itself was the limit. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RIG_FULL = 0.90  # above this share of its core, upstream and load may be what was measured
GATEWAY_FULL = 0.85  # above this, the gateway was the limit whatever the rig did
DISTURBED = 0.10  # share of the gateway's core that others took
ON_TIME = 0.95  # of the chunks that were due
LATE_MS = 1.0  # p99 by which our own driver may miss the intended moment

GENERATOR_BOUND = "generator-bound"
OVERLOADED = "overloaded"
BUSY_MACHINE = "disturbed"
FAILED = "errors"


@dataclass(frozen=True)
class Shares:
    """How much of a core each used, 1.0 being all of it."""

    gateway: float
    rig: float
    others: float = 0.0  # on the gateway's core, with what the host took


def closed_loop(shares: Shares) -> str:
    """A fixed number of connections: CPU per request, requests a second.

    When the rig is the limit, the gateway waits for it, is woken for each request by itself, and
    both numbers are the rig's. A gateway that is full itself was given all that it can take.
    """
    if shares.rig > RIG_FULL and shares.gateway < GATEWAY_FULL:
        return GENERATOR_BOUND
    return ""


def throughput(shares: Shares) -> str:
    """Requests a second: of no meaning unless the gateway had its core, and used it."""
    if shares.gateway >= GATEWAY_FULL:
        return ""
    if shares.rig > RIG_FULL:
        return GENERATOR_BOUND
    return BUSY_MACHINE if shares.others > DISTURBED else ""


def paced(shares: Shares, chunks: int, due: float) -> str:
    """Chunks at a fixed pace: CPU per chunk. A full gateway may be late, an idle one may not."""
    if shares.rig > RIG_FULL:
        return GENERATOR_BOUND
    if chunks < ON_TIME * due and shares.gateway < GATEWAY_FULL:
        return GENERATOR_BOUND
    return ""


def latency(shares: Shares, late_ms: float = 0.0, answered: float = 1.0) -> str:
    """Latencies: nothing may have been full but the gateway, and then they only grow."""
    if answered < 0.99 or shares.gateway > 0.98:
        return OVERLOADED
    if shares.rig > RIG_FULL or late_ms > LATE_MS:
        return GENERATOR_BOUND
    return BUSY_MACHINE if shares.others > DISTURBED else ""


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
