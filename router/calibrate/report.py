"""How well a fit holds on labels that it has not seen: five-fold cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from policies.calibration import Calibration
from policies.cascade import Terms, judge, least_score, share_escalated
from router.calibrate.fit import fit
from router.calibrate.graded import FOLDS
from router.calibrate.labelled import Labelled
from router.calibrate.score import Numbers

BINS = 10  # of probabilities, equally wide, for the calibration error


@dataclass(frozen=True)
class Report:
    """Shares are of requests, 0 to 1; None: the labels do not say.

    `auroc` is how often a right answer has a higher P(right) than a wrong one, `ece` how far
    P(right) is off on average. `recovered` is the part of the large model's lead that the cascade
    had, `wrong` the share of requests kept wrongly, `cost` that of the cascade relative to always
    asking the large model.
    """

    labels: int
    compared: int
    auroc: float | None
    ece: float | None
    threshold: float
    escalated: float
    recovered: float | None
    wrong: float
    cost: float | None


def examine(labels: Sequence[Labelled], fitted: Calibration, max_wrong: float | None) -> Report:
    """ValueError when four fifths of the labels do not suffice for a fit."""
    terms = Terms(max_wrong=max_wrong)
    p_right, keep = np.empty(len(labels)), np.zeros(len(labels), dtype=bool)
    fold = np.random.default_rng(1).permutation(len(labels)) % FOLDS
    for number in range(FOLDS):
        rest = [each for each, own in zip(labels, fold == number, strict=True) if not own]
        calibration = fit(rest)
        for at in map(int, np.flatnonzero(fold == number)):
            verdict = judge(labels[at].signals, calibration, terms)
            p_right[at], keep[at] = verdict.p_right, verdict.keep
    right = np.array([each.small_right for each in labels], dtype=float)
    compared = np.array([each.large_right is not None for each in labels])
    large = np.array([bool(each.large_right) for each in labels], dtype=float)
    return Report(
        labels=len(labels),
        compared=int(compared.sum()),
        auroc=auroc(p_right, right),
        ece=calibration_error(p_right, right),
        threshold=least_score(fitted, terms)[0],
        escalated=share_escalated(fitted, terms),
        recovered=recovered(keep[compared], right[compared], large[compared]),
        wrong=float((keep & (large > right))[compared].mean()),
        cost=relative_cost(labels, share_escalated(fitted, terms)),
    )


def auroc(said: Numbers, right: Numbers) -> float | None:
    rights = right.sum()
    wrongs = len(right) - rights
    if not rights or not wrongs:
        return None
    ranks = rankdata(said)[right > 0].sum()
    return float((ranks - rights * (rights + 1) / 2) / (rights * wrongs))


def calibration_error(said: Numbers, right: Numbers) -> float:
    """Mean gap between what was said and what was (ECE)."""
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(bins, said - right, BINS)).sum() / len(said))


def recovered(keep: NDArray[np.bool_], small: Numbers, large: Numbers) -> float | None:
    """None where the large model is no better."""
    lead = large.sum() - small.sum()
    return float((large - small)[~keep].sum() / lead) if lead > 0 else None


def relative_cost(labels: Sequence[Labelled], escalated: float) -> float | None:
    """Small model always, large one for the escalated share, by what answers cost on average."""
    small = [each.small_usd for each in labels if each.small_usd is not None]
    large = [each.large_usd for each in labels if each.large_usd is not None]
    if not small or not large or not sum(large):
        return None
    return float(np.mean(small) / np.mean(large) + escalated)
