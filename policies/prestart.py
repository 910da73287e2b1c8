"""Whether to start a model that is off before anybody asks, and when.

Start `after_s` into the gap and hold for `hold_s` once ready, when over the last gaps the delay
that this would have saved is worth more than the holding and the starts that served nobody.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from policies.gaps import Gaps

KNOWN_ENOUGH = 10  # gaps that outlast the descent
ANCHORS = 16  # moments that are weighed
HOLDS = (1.0, 2.0, 4.0)  # lengths of the hold that are weighed, in times of the start
EARNED_STARTS = 2.0  # what it must have saved over the last gaps, in starts


class Prestart(Struct, frozen=True):
    """Seconds from the beginning of the gap to the start, and of holding once it is ready."""

    after_s: float
    hold_s: float
    reason: str


class Prices(Struct, frozen=True):
    """`delay_usd_s` for one caller who waits, `hold_usd_s` while starting and while hot."""

    start_s: float
    hold_usd_s: float
    delay_usd_s: float


def prestart(gaps: Gaps, off_after_s: float, prices: Prices) -> Prestart | None:
    """The best early start of a model that goes off `off_after_s` into a gap; None if none pays."""
    first = gaps.at_most(off_after_s)
    known = len(gaps) - first
    if known < KNOWN_ENOUGH or prices.start_s <= 0 or prices.delay_usd_s <= 0:
        return None
    best_usd = EARNED_STARTS * prices.start_s * prices.hold_usd_s
    best: tuple[float, float] | None = None
    sums = gaps.sums()
    for after_s, hold_s in _candidates(gaps.ascending[first:], off_after_s, prices.start_s):
        saved_usd = _saved_usd(gaps, sums, after_s, hold_s, prices)
        if saved_usd > best_usd:
            best_usd, best = saved_usd, (after_s, hold_s)
    if best is None:
        return None
    reason = f"it would have saved {best_usd:.3g} USD over the last {known} such gaps"
    return Prestart(*best, reason)


def _candidates(
    longer: Sequence[float], off_after_s: float, start_s: float
) -> Iterator[tuple[float, float]]:
    """Starts that are ready just before one of the arrivals that were seen.

    Once ready it is idle anew and goes down by the same thresholds: no hold is shorter than that.
    """
    stride = max(len(longer) // ANCHORS, 1)
    for arrival_s in longer[::stride]:
        after_s = max(arrival_s - start_s, off_after_s)
        for times in HOLDS:
            yield after_s, max(times * start_s, off_after_s)


def _saved_usd(
    gaps: Gaps, sums: Sequence[float], after_s: float, hold_s: float, prices: Prices
) -> float:
    """Over the gaps: delay saved, less holding early, less the starts that served nobody.

    Who comes while it starts saves what has passed of the start; who comes once it is ready all
    of it, and pays for the holding. `sums` are those of `gaps`.
    """
    ready_s = after_s + prices.start_s
    begin, ready, end = (gaps.at_most(t) for t in (after_s, ready_s, ready_s + hold_s))
    met = end - ready
    delay_s = sums[ready] - sums[begin] - (ready - begin) * after_s + met * prices.start_s
    held_s = sums[end] - sums[ready] - met * ready_s
    held_s += (len(gaps) - end) * (prices.start_s + hold_s)
    return delay_s * prices.delay_usd_s - held_s * prices.hold_usd_s
