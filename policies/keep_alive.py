"""When an idle model goes down its ladder: the rules, each with its reason.

Every two neighbouring rungs of a ladder are a ski rental of their own with break-even time B: the
seconds of holding the upper one that cost as much as waking from the lower one. The cost of a
descent is the sum over these pairs, so each pair's threshold is chosen alone; because break-even
times ascend along a ladder, so do the cheapest thresholds.

Rules:
  fixed       down after a stated time.
  ski_rental  down at B: never more than twice the cost of one who knows the future.
  empirical   the threshold that would have been cheapest over the last gaps; B until ten are known.
  clamped     the default: the empirical threshold within [floor, 4 B] where it has earned it, by
              saving at least three wakes against B over the last gaps; else B. All thresholds are
              B while what was learned would have cost twenty wakes from the last rung more than B
              has, and while the credit is used up: it begins with twenty such wakes, and each gap
              adds twice what the clairvoyant would have paid and takes what it has cost.
              So it costs at most twice the clairvoyant plus (20 + 3) wakes, whatever comes.

A server beyond a model's first has no gaps of its own that were seen: `descend_at_random`.

Clamping the threshold itself to [B/2, 2B] was measured first and costs a sparse model up to 55 %
over the clairvoyant, this 16 % (docs/placement.md).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from policies.gaps import Gaps
from policies.rungs import Descent, Ladder, RungName, break_even_s, gap_usd, least_usd

Rule = Literal["clamped", "empirical", "ski_rental"]

FLOOR_SHARE = 0.02  # of B: shorter holds save at most this share of a wake
KNOWN_ENOUGH = 10  # gaps, before `empirical` leaves B
LONGEST_HOLD = 4.0  # times B
EARNED_WAKES = 3.0
CREDIT_WAKES = 20.0
LEARN_EVERY = 8  # gaps, once these are many: learning costs 20 us
LEARN_EACH_UNTIL = 64  # gaps
SAME = 1e-12  # a smaller relative difference is rounding


class Threshold(Struct, frozen=True):
    """When to go down to `lower`; `earned`: by what was learned, and not just at break-even."""

    lower: RungName
    after_s: float
    b_s: float
    earned: bool = False


class Learned:
    """What a model's gaps have taught `clamped`, and whether that may still be trusted.

    `credit`, and how far it is `behind` break-even, are in wakes from the last rung, so that a
    change of prices does not change what was learned.
    """

    def __init__(self) -> None:
        self.credit = CREDIT_WAKES
        self.behind = 0.0
        self._by_rung: dict[RungName, tuple[Threshold, int]] = {}  # and the gap of its next lesson

    @property
    def trusted(self) -> bool:
        return self.credit >= 0 and self.behind <= CREDIT_WAKES

    def thresholds(self, rungs: Ladder, gaps: Gaps) -> Sequence[Threshold]:
        """Those of `clamped`."""
        return self._lessons(rungs, gaps) if self.trusted else break_evens(rungs)

    def _lessons(self, rungs: Ladder, gaps: Gaps) -> list[Threshold]:
        """Learned anew every few gaps, and when prices have moved."""
        return [self._threshold(at_b, gaps) for at_b in break_evens(rungs)]

    def _threshold(self, at_b: Threshold, gaps: Gaps) -> Threshold:
        known, next_at = self._by_rung.get(at_b.lower, (at_b, 0))
        if gaps.seen >= next_at or known.b_s != at_b.b_s:
            known = _lesson(at_b, gaps)
            next_at = gaps.seen + (1 if gaps.seen < LEARN_EACH_UNTIL else LEARN_EVERY)
            self._by_rung[at_b.lower] = known, next_at
        return known

    def saw(self, rungs: Ladder, gaps: Gaps, gap_s: float) -> None:
        """Count a gap by what was known before it; call it before `gaps.add`."""
        if len(rungs) < 2 or gap_s <= floor_s(rungs) or rungs[-1].wake_usd <= 0:
            return
        learned_usd = gap_usd(rungs, _steps(self._lessons(rungs, gaps)), gap_s)
        at_b_usd = gap_usd(rungs, _steps(break_evens(rungs)), gap_s)
        paid_usd = learned_usd if self.trusted else at_b_usd
        self.behind += (learned_usd - at_b_usd) / rungs[-1].wake_usd
        self.credit += (2 * least_usd(rungs, gap_s) - paid_usd) / rungs[-1].wake_usd


@lru_cache(maxsize=256)  # asked at every gap, by a few ladders that seldom change
def break_evens(rungs: Ladder) -> tuple[Threshold, ...]:
    """Those of ski rental."""
    pairs = ((lower.name, break_even_s(upper, lower)) for upper, lower in pairwise(rungs))
    return tuple(Threshold(name, b_s, b_s) for name, b_s in pairs)


def floor_s(rungs: Ladder) -> float:
    """The shortest gap that a rule learns from."""
    return FLOOR_SHARE * break_even_s(rungs[0], rungs[1]) if len(rungs) > 1 else 0.0


def fixed(rungs: Ladder, idle_s: float) -> Descent:
    """Straight to the last rung after a stated time; `inf` for never."""
    if math.isinf(idle_s):
        return Descent((), "is kept, as configured")
    lowest = rungs[-1].name
    return Descent(((idle_s, lowest),), f"{lowest} after {idle_s:g} s, as configured")


def descend(rule: Rule, rungs: Ladder, gaps: Gaps, learned: Learned) -> Descent:
    """The thresholds for the next gap, by one of the rules that weigh."""
    if rule == "ski_rental":
        return _descent(break_evens(rungs), "the break-even of holding and waking")
    if rule == "clamped":
        why = f"break-even: the last {len(gaps)} gaps tell of nothing much better"
        if not gaps:
            why = "break-even: no gap is known yet"
        elif not learned.trusted:
            why = "break-even: learning has cost more than it may"
        return _descent(learned.thresholds(rungs, gaps), why, len(gaps))
    if len(gaps) < KNOWN_ENOUGH:
        return _descent(break_evens(rungs), f"break-even: only {len(gaps)} gaps are known")
    best = [
        Threshold(t.lower, _best_s(t.b_s, gaps, math.inf), t.b_s, True) for t in break_evens(rungs)
    ]
    return _descent(best, "", len(gaps))


def _descent(thresholds: Sequence[Threshold], why_b: str, known: int = 0) -> Descent:
    """With reasons: `why_b` for thresholds at break-even, the `known` gaps for the others."""
    steps = _steps(thresholds)
    by_rung = {t.lower: t for t in thresholds}
    reasons = []
    for after_s, name in steps:
        why, b_s = why_b, by_rung[name].b_s
        if by_rung[name].earned or after_s != b_s:
            why = f"cheapest over the last {known} gaps; break-even is {b_s:.3g} s"
        reasons.append(f"{name} after {after_s:.3g} s ({why})")
    return Descent(tuple(steps), "; ".join(reasons) or "is kept: there is nothing below")


def _steps(thresholds: Sequence[Threshold]) -> list[tuple[float, RungName]]:
    """Ascending: where two cross, the one that earned its place tells when to go down both."""
    steps: list[tuple[float, RungName]] = []
    for threshold in thresholds:
        after_s = threshold.after_s
        while steps and steps[-1][0] >= after_s:
            before_s, _ = steps.pop()
            after_s = after_s if threshold.earned else before_s
        steps.append((after_s, threshold.lower))
    return steps


def _lesson(at_b: Threshold, gaps: Gaps) -> Threshold:
    """The empirical optimum within the band, if it saves enough against B; else B."""
    b_s = at_b.b_s
    best_s = _best_s(b_s, gaps, LONGEST_HOLD * b_s)
    saved_s = _cost_s(b_s, b_s, gaps) - _cost_s(best_s, b_s, gaps)
    if saved_s < EARNED_WAKES * b_s or not len(gaps):
        return at_b
    return Threshold(at_b.lower, best_s, b_s, True)


def _cost_s(after_s: float, b_s: float, gaps: Gaps) -> float:
    """Cost of a threshold over the gaps, in seconds of holding the upper rung."""
    shorter = gaps.at_most(after_s)
    held_s = sum(gaps.ascending[:shorter])
    return held_s + (len(gaps) - shorter) * (after_s + b_s)


def _best_s(b_s: float, gaps: Gaps, longest_s: float) -> float:
    """The threshold in [floor, longest_s] that is cheapest over the gaps; the shortest of equals.

    Between two gaps the cost only rises with the threshold, so only the floor and the gaps can be
    best.
    """
    lowest_s = FLOOR_SHARE * b_s
    values, count = gaps.ascending, len(gaps)
    shorter = gaps.at_most(lowest_s)
    held_s = sum(values[:shorter])
    best_s, least_s = lowest_s, held_s + (count - shorter) * (lowest_s + b_s)
    for n in range(shorter, count):
        gap_s = values[n]
        if gap_s > longest_s:
            break
        held_s += gap_s
        cost_s = held_s + (count - n - 1) * (gap_s + b_s)
        if cost_s < least_s * (1 - SAME):
            best_s, least_s = gap_s, cost_s
    return best_s


def descend_at_random(rungs: Ladder, model: str, occasion: int) -> Descent:
    """Ski rental with a random share of each break-even time, for gaps of which nothing is known.

    The share is ln(1 + u (e - 1)) with u in [0, 1): on average e / (e - 1) = 1.58 times the
    clairvoyant against gaps that do not depend on the draw (Karlin et al. 1994), and servers that
    fell idle together do not all stop together.
    """
    share = math.log1p(_drawn(model, occasion) * (math.e - 1))
    steps = tuple((t.after_s * share, t.lower) for t in break_evens(rungs))
    return Descent(steps, f"{share:.2f} of the break-even of holding and waking, drawn")


def jittered(after_s: float, share: float, model: str, occasion: int) -> float:
    """Up to `share` later, by a draw that depends on the model and the occasion alone.

    So many models that fell idle together do not all stop together, and a replay draws the same.
    """
    if share <= 0 or math.isinf(after_s):
        return after_s
    return after_s * (1.0 + share * _drawn(model, occasion))


def _drawn(model: str, occasion: int) -> float:
    """In [0, 1). Not a checksum: those of `model-1` and `model-2` lie side by side."""
    drawn = blake2b(f"{model}/{occasion}".encode(), digest_size=4).digest()
    return int.from_bytes(drawn) / 2**32
