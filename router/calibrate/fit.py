"""A calibration from labels."""

from collections.abc import Sequence

import numpy as np

from policies.calibration import ABOVE_ALL, Calibration, Early
from policies.signals import FIRST_TOKENS
from router.calibrate.curves import Outcomes, falling_curve, right_curve
from router.calibrate.graded import Graded, grade
from router.calibrate.labelled import Labelled
from router.calibrate.score import fit_score
from router.calibrate.thresholds import (
    CONFIDENCE,
    RECOVERED,
    bounds,
    default_threshold,
    escalated,
)

FEWEST = 30  # requests with both models' answers labelled


def fit(
    labels: Sequence[Labelled],
    policy: str | None = None,
    small: str | None = None,
    large: str | None = None,
) -> Calibration:
    """ValueError, in words, when the labels do not suffice. The same labels give the same."""
    compared = _compared(labels)
    right = np.array([each.small_right for each in labels], dtype=bool)
    score = fit_score([each.signals for each in labels], right)
    scores = score.of([each.signals for each in labels])
    known = ~np.isnan(scores)
    graded = grade(labels, score)
    outcomes = Outcomes(graded.scores, graded.difference)
    shares = outcomes.at(graded.scores)
    threshold = default_threshold(graded, outcomes)
    return Calibration(
        version=1,
        source=f"calibrated on {len(labels)} labels",
        labels=len(labels),
        intercept=score.intercept,
        weights=score.weights,
        right=right_curve(scores[known], right[known]),
        gain=falling_curve(graded.scores, shares[:, 0] - shares[:, 1]),
        threshold=threshold,
        recovered=RECOVERED,
        escalated=escalated(graded, threshold),
        large_right=float(np.mean([bool(each.large_right) for each in compared])),
        confidence=CONFIDENCE,
        bounds=bounds(graded),
        early=_early(graded, threshold),
        policy=policy,
        small=small,
        large=large,
    )


def _compared(labels: Sequence[Labelled]) -> list[Labelled]:
    """Those of which both models' answers are labelled. ValueError when they are too few."""
    if not labels:
        raise ValueError("there are no labels")
    found = [each for each in labels if each.large_right is not None]
    if len(found) < FEWEST:
        raise ValueError(
            f"{len(found)} requests have a label for both models' answers; {FEWEST} are needed"
        )
    return found


def _early(graded: Graded, threshold: float) -> Early | None:
    if not graded.looks.any or threshold == ABOVE_ALL:
        return None
    at = int(np.searchsorted(graded.grid, threshold))
    looks = graded.looks
    return Early(FIRST_TOKENS, float(looks.release[at]), float(looks.cut[at]))
