"""When an idle model goes down its ladder: the rules, each with its reason.

Every two neighbouring rungs of a ladder are a ski rental of their own with break-even time B: the
seconds of holding the upper one that cost as much as waking from the lower one. The cost of a
descent is the sum over these pairs, so each pair's threshold is chosen alone; because break-even
times ascend along a ladder, so do the thresholds.

Rules:
  fixed       down after a stated time.
  ski_rental  down at B: never more than twice the cost of one who knows the future.
  empirical   the threshold that would have been cheapest over the last gaps; B until ten are known.
  clamped     the default: the empirical threshold within [floor, 4 B], and only while it has
              earned it: over the last gaps it saves at least three wakes against B, and what it
              ever lost against B is no more than twenty wakes. Else B.
              So it costs at most twice the clairvoyant plus (20 + 5) wakes, whatever comes.

Clamping the threshold itself to [B/2, 2B] was measured first and costs a sparse model up to 55 %
over the clairvoyant, this 16 % (docs/placement.md).
"""

import math
from typing import Literal
from zlib import crc32

from msgspec import Struct

from policies.gaps import Gaps
from policies.rungs import Descent, Ladder, Rung, RungName, break_even_s

Rule = Literal["clamped", "empirical", "ski_rental"]

FLOOR_SHARE = 0.02  # of B: shorter holds save at most this share of a wake
KNOWN_ENOUGH = 10  # gaps, before `empirical` leaves B
LONGEST_HOLD = 4.0  # times B
EARNED_WAKES = 3.0
CREDIT_WAKES = 20.0
LEARN_EVERY = 8  # gaps, once these are many: learning costs 20 us
LEARN_EACH_UNTIL = 64  # gaps


class Shadow(Struct):
    """What the learned thresholds of one pair of rungs have cost so far, beside always B.

    Costs are in wakes, so that a change of prices does not change what was learned.
    """

    learned: float = 0.0
    break_even: float = 0.0
    threshold_s: float = 0.0
    b_s: float = 0.0
    learn_at: int = 0  # gaps seen

    @property
    def has_credit(self) -> bool:
        return self.learned <= self.break_even + CREDIT_WAKES

    def learned_s(self, b_s: float, gaps: Gaps) -> float:
        """The learned threshold; learned anew every few gaps, and when B has moved."""
        if gaps.seen >= self.learn_at or b_s != self.b_s:
            self.threshold_s, self.b_s = _learned_s(b_s, gaps), b_s
            self.learn_at = gaps.seen + (1 if gaps.seen < LEARN_EACH_UNTIL else LEARN_EVERY)
        return self.threshold_s

    def saw(self, gap_s: float, learned_s: float, b_s: float) -> None:
        """Count one gap for both."""
        self.learned += (gap_s if gap_s <= learned_s else learned_s + b_s) / b_s
        self.break_even += gap_s / b_s if gap_s <= b_s else 2.0


def floor_s(rungs: Ladder) -> float:
    """The shortest gap that a rule learns from."""
    if len(rungs) < 2:
        return 0.0
    b_s = break_even_s(rungs[0], rungs[1])
    return FLOOR_SHARE * b_s if math.isfinite(b_s) else 0.0


def fixed(rungs: Ladder, idle_s: float) -> Descent:
    """Straight to the last rung after a stated time; `inf` for never."""
    if math.isinf(idle_s) or len(rungs) < 2:
        return Descent((), "is kept: idle: never")
    return Descent(((idle_s, rungs[-1].name),), f"idle for {idle_s:g} s, as configured")


def descend(rule: Rule, rungs: Ladder, gaps: Gaps, shadows: "Shadows") -> Descent:
    """The thresholds for the next gap, by one of the rules that weigh."""
    steps: list[tuple[float, RungName]] = []
    reasons: list[str] = []
    for upper, lower in zip(rungs, rungs[1:], strict=False):
        b_s = break_even_s(upper, lower)
        if math.isinf(b_s):
            break
        after_s, why = _threshold(rule, b_s, gaps, shadows.at(upper, lower))
        if steps and steps[-1][0] >= after_s:  # rounding, or a floor: straight past this rung
            steps.pop()
        steps.append((after_s, lower.name))
        reasons.append(f"{lower.name} after {after_s:.3g} s ({why})")
    return Descent(tuple(steps), "; ".join(reasons) or "is kept: going down saves nothing")


class Shadows:
    """The shadows of a ladder's pairs of rungs, by their names."""

    def __init__(self) -> None:
        self._by_pair: dict[tuple[str, str], Shadow] = {}

    def at(self, upper: Rung, lower: Rung) -> Shadow:
        pair = (upper.name, lower.name)
        shadow = self._by_pair.get(pair)
        if shadow is None:
            shadow = self._by_pair[pair] = Shadow()
        return shadow

    def saw(self, rungs: Ladder, gaps: Gaps, gap_s: float) -> None:
        """Count a gap, by what was known before it; call it before `gaps.add`."""
        for upper, lower in zip(rungs, rungs[1:], strict=False):
            b_s = break_even_s(upper, lower)
            if 0 < b_s < math.inf and gap_s > FLOOR_SHARE * b_s:
                shadow = self.at(upper, lower)
                shadow.saw(gap_s, shadow.learned_s(b_s, gaps), b_s)


def _threshold(rule: Rule, b_s: float, gaps: Gaps, shadow: Shadow) -> tuple[float, str]:
    if rule == "ski_rental":
        return b_s, "the break-even of holding and waking"
    if rule == "empirical":
        if len(gaps) < KNOWN_ENOUGH:
            return b_s, f"break-even: only {len(gaps)} gaps are known"
        return _best_s(b_s, gaps, math.inf), f"cheapest over the last {len(gaps)} gaps"
    if not shadow.has_credit:
        return b_s, "break-even: learning has cost more than it saved"
    learned_s = shadow.learned_s(b_s, gaps)
    if learned_s == b_s:
        return b_s, f"break-even: the last {len(gaps)} gaps tell of nothing much better"
    return learned_s, f"cheapest over the last {len(gaps)} gaps; break-even is {b_s:.3g} s"


def _learned_s(b_s: float, gaps: Gaps) -> float:
    """The empirical optimum within the band, if it saves enough against B; else B."""
    if not len(gaps):
        return b_s
    best_s = _best_s(b_s, gaps, LONGEST_HOLD * b_s)
    saved_s = _cost_s(b_s, b_s, gaps) - _cost_s(best_s, b_s, gaps)
    return best_s if saved_s >= EARNED_WAKES * b_s else b_s


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
        if cost_s < least_s - 1e-9:
            best_s, least_s = gap_s, cost_s
    return best_s


def jittered(after_s: float, share: float, model: str, occasion: int) -> float:
    """Up to `share` later, by a draw that depends on the model and the occasion alone.

    So many models that fell idle together do not all stop together, and a replay draws the same.
    """
    if share <= 0 or math.isinf(after_s):
        return after_s
    return after_s * (1.0 + share * crc32(f"{model}/{occasion}".encode()) / 2**32)
