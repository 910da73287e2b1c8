"""From the signals of an answer to the probability that it is right.

A weighted sum of standardised signals (the score), then a curve. Every weight is signed so that
more confidence never lowers the score, and the curves are monotone: so is every decision on them.
Fitted by `lamplighter calibrate`; here it is only applied.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from policies.signals import Signals
from policies.working import Working

LEAST_KNOWN = 0.5  # of the weights; with less, nothing is said of an answer
FAR = 4.0  # standard deviations beyond which a signal says no more
ABOVE_ALL, BELOW_ALL = 1e9, -1e9  # scores that no answer reaches
Curve = tuple[tuple[float, float], ...]


class Weight(Struct, frozen=True, forbid_unknown_fields=True):
    """One signal's part of the score: `weight` for each `sd` above `mean`; `weight` >= 0."""

    signal: str
    mean: float
    sd: float
    weight: float


class Bound(Struct, frozen=True, forbid_unknown_fields=True):
    """What follows from keeping answers with at least this `score`.

    `wrong` is an upper bound on the share of all requests in which a wrong answer is kept although
    the large model's would be right; `escalated` is the share that goes to the large model.
    Streams whose first tokens score `release` go out at once, below `cut` they are cut off; what
    is promised counts them in.
    """

    score: float
    wrong: float
    escalated: float
    release: float = ABOVE_ALL
    cut: float = BELOW_ALL


class Early(Struct, frozen=True, forbid_unknown_fields=True):
    """When a stream is looked at first, and what it may do then where no bound was set: go out
    from one score, be cut off below another."""

    after_tokens: int
    release: float
    cut: float


class Calibration(Struct, frozen=True, forbid_unknown_fields=True):
    """`threshold` is the least score of answers that are kept when the caller set no bound.

    `right` maps a score to P(small right), `gain` to P(large right) - P(small right).
    `bounds` ascend in score and descend in `wrong`; empty: no bound can be stated.
    """

    version: Literal[1]
    source: str
    labels: int
    intercept: float
    weights: tuple[Weight, ...]
    right: Curve
    gain: Curve
    threshold: float
    recovered: float
    escalated: float
    large_right: float
    confidence: float = 0.95
    bounds: tuple[Bound, ...] = ()
    early: Early | None = None
    policy: str | None = None
    small: str | None = None
    large: str | None = None

    def score(self, signals: Signals) -> float | None:
        """None when less than half of what the score is made of is known."""
        return self._score(signals, LEAST_KNOWN)

    def first_score(self, signals: Signals) -> float | None:
        """Of a beginning: of what can be known of it."""
        return self._score(signals, 0.0)

    def probability(self, signals: Signals) -> float:
        """P(right); that of an average answer when nothing is known of this one."""
        found = self.first_score(signals)
        return along(self.right, self.intercept if found is None else found)

    def _score(self, signals: Signals, least_known: float) -> float | None:
        found = [
            (weight.weight, max(-FAR, min(FAR, (value - weight.mean) / weight.sd)))
            for weight in self.weights
            if (value := confidence(signals, weight.signal)) is not None
        ]
        known = math.fsum(weight for weight, _ in found)
        if not found or known < least_known * math.fsum(each.weight for each in self.weights):
            return None
        return self.intercept + math.fsum(weight * units for weight, units in found)


def along(curve: Curve, score: float) -> float:
    """The curve's value: straight between its knots, level beyond them."""
    at = bisect_right(curve, score, key=lambda knot: knot[0])
    if at == 0:
        return curve[0][1]
    if at == len(curve):
        return curve[-1][1]
    (x0, y0), (x1, y1) = curve[at - 1], curve[at]
    part = (score - x0) / (x1 - x0)
    return y0 + part * (y1 - y0)


def falls_to(curve: Curve, value: float) -> float:
    """The lowest score at which a falling curve is no higher than `value`; `inf`: nowhere."""
    for number, (x1, y1) in enumerate(curve):
        if y1 > value:
            continue
        if number == 0:
            return -math.inf
        x0, y0 = curve[number - 1]
        return x0 + (x1 - x0) * (y0 - value) / (y0 - y1)
    return math.inf


# --- what a signal says, as a number that grows with confidence ----------------------------------


def _log_odds(logprob: float) -> float:
    """Of a token's probability: between -0.01 and -0.0001 lies as much as between -5 and -0.7."""
    share = min(max(math.exp(min(logprob, 0.0)), 1e-7), 1 - 1e-7)
    return math.log(share / (1 - share))


def _margin(margin: float) -> float:
    return math.log1p(max(margin, 0.0))


def _settled(entropy: float) -> float:
    return -math.log(max(entropy, 0.0) + 1e-4)


_SCALES: Mapping[str, Callable[[float], float]] = {
    "mean_logprob": _log_odds,
    "min_logprob": _log_odds,
    "low_logprob": _log_odds,
    "mean_margin": _margin,
    "min_margin": _margin,
    "mean_entropy": _settled,
    "span_mean_logprob": _log_odds,
    "span_min_logprob": _log_odds,
    "span_mean_margin": _margin,
    "span_min_margin": _margin,
    "span_mean_entropy": _settled,
    "tokens": lambda tokens: -math.log1p(max(tokens, 0.0)),
    "complete": float,
    "forthright": float,
    "unhedged": float,
    "valid": float,
    "self_check": _log_odds,
    "agreement": float,
    "sums_hold": float,
    "concluded": float,
    "plain_result": float,
    "whole_result": float,
    "numbers_used": float,
    "steps": float,
    "finished": float,
    "no_doubts": float,
    "prompt_characters": lambda characters: -math.log1p(max(characters, 0.0)),
    "neighbours": lambda share: _log_odds(math.log(min(max(share, 0.01), 0.99))),
}
SIGNALS = tuple(_SCALES)


def confidence(signals: Signals, name: str) -> float | None:
    """One signal on the scale that the score is made of; None: not known."""
    value = _raw(signals, name)
    return _SCALES[name](value) if value is not None and math.isfinite(value) else None


def _raw(signals: Signals, name: str) -> float | None:
    match name:
        case "complete":
            reason = signals.finish_reason
            return None if reason is None else float(reason not in ("length", "content_filter"))
        case "forthright":
            return float(not signals.refusal)
        case "unhedged":
            return float(not signals.hedge)
        case _:
            pass
    known = signals.working if name in Working.__struct_fields__ else signals
    value: float | None = getattr(known, name, None)
    return value


# --- the file -----------------------------------------------------------------------------------


def decode(data: bytes) -> Calibration:
    """ValueError, in words, when this is not a calibration that can be applied."""
    try:
        found = msgspec.json.decode(data, type=Calibration)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"this is no calibration of version 1: {error}") from error
    for wrong in _mistakes(found):
        raise ValueError(f"this calibration cannot be applied: {wrong}")
    return found


def encode(calibration: Calibration) -> bytes:
    return msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n"


def _mistakes(found: Calibration) -> list[str]:
    mistakes = [
        f"there is no signal {w.signal!r}" for w in found.weights if w.signal not in SIGNALS
    ]
    if not all(w.sd > 0 and w.weight >= 0 for w in found.weights):
        mistakes.append("each sd must be above 0 and no weight below it")
    for name, curve, down in (("right", found.right, False), ("gain", found.gain, True)):
        xs, ys = [x for x, _ in curve], [-y if down else y for _, y in curve]
        if not curve or any(b <= a for a, b in zip(xs, xs[1:], strict=False)):
            mistakes.append(f"the scores of {name} must ascend")
        if ys != sorted(ys):
            mistakes.append(f"{name} must {'not rise' if down else 'not fall'} with the score")
    if not all(0 <= y <= 1 for _, y in found.right):
        mistakes.append("probabilities lie between 0 and 1")
    scores = [bound.score for bound in found.bounds]
    if scores != sorted(scores):
        mistakes.append("the scores of bounds must ascend")
    return mistakes


# The curves are those of five public question sets and three small models, pooled and rounded;
# answers there are short. Long ones look less sure to it, and go to the large model more often.
STATED_DEFAULTS = Calibration(
    version=1,
    source="stated defaults: nothing was calibrated",
    labels=0,
    intercept=0.0,
    weights=(
        Weight("mean_logprob", 2.0, 2.0, 0.4),
        Weight("low_logprob", 0.0, 2.0, 0.4),
        Weight("self_check", 1.0, 2.0, 0.3),
        Weight("agreement", 0.75, 0.25, 0.3),
    ),
    right=((-3.0, 0.25), (-1.0, 0.4), (0.0, 0.55), (0.75, 0.8), (2.0, 0.9), (3.2, 0.94)),
    gain=((-3.0, 0.35), (-1.0, 0.28), (0.0, 0.22), (0.75, 0.09), (2.0, 0.03), (3.2, 0.01)),
    threshold=0.75,
    recovered=0.9,
    escalated=0.4,
    large_right=0.84,
)
