"""Whether the small model's answer is kept or the large model is asked, and why.

Three questions: before the small model is asked (`begin`), after its first tokens (`early`) and
when its answer is whole (`judge`). None of them raises.
"""

import math
from typing import Literal

from msgspec import Struct

from policies.budget import NORMAL, Allowance
from policies.calibration import ABOVE_ALL, BELOW_ALL, Bound, Calibration, Early, falls_to
from policies.signals import Signals


class Terms(Struct, frozen=True):
    """What weighs for one request.

    Prices are what each model would likely cost for it. `small_s` and `large_s` are how long an
    answer takes, `large_wait_s` how long until the large model can begin (0: now), `left_s` how
    long the caller still waits. `delay_usd_s` is what a second of waiting costs.
    """

    small_usd: float = 0.0
    large_usd: float = 0.0
    small_s: float = 0.0
    large_s: float = 0.0
    large_wait_s: float = 0.0
    left_s: float = math.inf
    delay_usd_s: float = 0.0
    max_wrong: float | None = None
    right_answer_usd: float | None = None
    budget: Allowance = NORMAL

    @property
    def large_total_usd(self) -> float:
        """The large model's price for this request, and that of waiting for it."""
        waited_s = self.large_wait_s + self.large_s
        return self.large_usd + (self.delay_usd_s * waited_s if self.delay_usd_s else 0.0)


class Verdict(Struct, frozen=True):
    """`unbounded`: kept although the bound that was asked for does not hold."""

    keep: bool
    reason: str
    p_right: float
    unbounded: bool = False


class Beginning(Struct, frozen=True):
    model: Literal["small", "large"]
    reason: str


def judge(signals: Signals, calibration: Calibration, terms: Terms) -> Verdict:
    """Keep or escalate, of an answer that is whole."""
    p_right = calibration.probability(signals)
    bounded = terms.max_wrong is not None
    impossible = _no_large(terms)
    if impossible is not None:
        broken = "; max_wrong does not hold" if bounded else ""
        return Verdict(True, f"kept: {impossible}{broken}", p_right, bounded)
    if signals.valid is False:
        return Verdict(False, "escalated: not the JSON or tool call that was asked for", p_right)
    score = calibration.score(signals)
    if score is None:
        return Verdict(False, "escalated: too little is known of this answer", p_right)
    least, why = least_score(calibration, terms)
    at = f"P(right) {p_right:.2f}, score {score:.3g}"
    if score < least:
        return Verdict(False, f"escalated: {at}, below {least:.3g} ({why})", p_right)
    unbounded = bounded and not calibration.bounds
    return Verdict(True, f"kept: {at}, not below {least:.3g} ({why})", p_right, unbounded)


def _no_large(terms: Terms) -> str | None:
    """Why the large model cannot be asked."""
    if terms.budget.stance == "refusing":
        return f"no money for the large model, {terms.budget.reason}"
    if terms.large_wait_s + terms.large_s > terms.left_s:
        late_s = terms.large_wait_s + terms.large_s
        return f"the large model needs {late_s:.3g} s and the caller has {terms.left_s:.3g} s"
    return None


def least_score(calibration: Calibration, terms: Terms) -> tuple[float, str]:
    """The least score of answers that are kept, and what that rests on.

    What was promised comes first; money may only ask for more. `inf`: no answer is kept.
    """
    promised, why = _promised(calibration, terms)
    if terms.right_answer_usd is None:
        return promised, why
    worth = terms.large_total_usd / max(terms.right_answer_usd, 1e-12)
    paying = falls_to(calibration.gain, worth)
    if paying == -math.inf and terms.max_wrong is None:
        return paying, f"{terms.large_total_usd:.2g} USD are more than the large model can gain"
    if paying <= promised:
        return promised, why
    return (
        paying,
        f"below it {worth:.2g} more right answers are worth {terms.large_total_usd:.2g} USD",
    )


def _promised(calibration: Calibration, terms: Terms) -> tuple[float, str]:
    if terms.max_wrong is None:
        if terms.right_answer_usd is not None:
            return -math.inf, "no bound was set"
        return calibration.threshold, calibration.source
    if not calibration.bounds:
        return calibration.threshold, f"{calibration.source}; max_wrong is not promised"
    why = f"wrongly kept in at most {terms.max_wrong:.3g}, {calibration.confidence:.0%} sure"
    within = (bound.score for bound in calibration.bounds if bound.wrong <= terms.max_wrong)
    return next(within, math.inf), why


def _bound(calibration: Calibration, least: float) -> Bound | None:
    """The laxest line of the calibration's table that keeps no more than `least` does."""
    return next((bound for bound in calibration.bounds if bound.score >= least), None)


# --- before, and meanwhile ----------------------------------------------------------------------


def begin(p_escalate: float | None, calibration: Calibration, terms: Terms) -> Beginning:
    """Which model to ask first; `p_escalate` is None when nothing is known of this request.

    The small model's price is paid for nothing when the large one is asked after all.
    """
    impossible = _no_large(terms)
    if impossible is not None:
        return Beginning("small", impossible)
    least, why = least_score(calibration, terms)
    if least >= ABOVE_ALL:
        return Beginning("large", f"no answer of the small model would be kept ({why})")
    if p_escalate is None:
        p_escalate = share_escalated(calibration, terms)
    small_usd = terms.small_usd + (terms.delay_usd_s * terms.small_s if terms.delay_usd_s else 0.0)
    cascade_usd = small_usd + p_escalate * terms.large_total_usd
    costs = (
        f"P(escalate) {p_escalate:.2f}: {cascade_usd:.3g} USD with waiting,"
        f" {terms.large_total_usd:.3g} at once"
    )
    if cascade_usd > terms.large_total_usd and terms.budget.stance == "normal":
        return Beginning("large", f"skip the small model, {costs}")
    return Beginning("small", costs)


def share_escalated(calibration: Calibration, terms: Terms) -> float:
    """Of all requests, at the score from which answers are kept."""
    if terms.max_wrong is None and terms.right_answer_usd is None:
        return calibration.escalated
    least, _ = least_score(calibration, terms)
    if least >= ABOVE_ALL or least <= BELOW_ALL:
        return float(least > 0)
    if not calibration.bounds:
        return calibration.escalated
    bound = _bound(calibration, least)
    return 1.0 if bound is None else bound.escalated


def early(
    signals_so_far: Signals, tokens_so_far: int, calibration: Calibration, terms: Terms
) -> Literal["release", "cut", "wait"]:
    """Of a stream's beginning; asked once, with its first `after_tokens` tokens."""
    if _no_large(terms) is not None:
        return "release"
    rule = calibration.early
    score = calibration.first_score(signals_so_far)
    if rule is None or tokens_so_far < rule.after_tokens or score is None:
        return "wait"
    line: Early | Bound | None = rule
    if terms.max_wrong is not None or terms.right_answer_usd is not None:
        least, _ = least_score(calibration, terms)
        line = _bound(calibration, least)
    if line is None:
        return "wait"
    if score >= line.release:
        return "release"
    return "cut" if score < line.cut else "wait"
