"""Where to draw the line between kept and escalated answers.

Two promises. Without a bound: most of what the large model is better by is recovered, and would
be in most further samples as large as the labels. With one: the wrongly kept share of requests is
at most so much, tested threshold by threshold from the strictest down (fixed sequence testing),
each by the exact binomial bound of Clopper and Pearson.
"""

import numpy as np
from scipy.stats import beta

from policies.calibration import ABOVE_ALL, Bound
from router.calibrate.curves import Outcomes
from router.calibrate.graded import Graded
from router.calibrate.score import Numbers

RECOVERED = 0.9  # of the large model's lead
CERTAINTY = 0.68  # share of further samples in which so much is recovered
CONFIDENCE = 0.95  # of the interval whose upper end is the bound; above it lie 2.5 %
SAMPLES = 2000
SEEN_LABELS = 2000  # labels at which what was seen weighs as much as the smooth curves
BOUNDS = 100  # in the file, at most


def default_threshold(graded: Graded, outcomes: Outcomes) -> float:
    """The lowest that keeps the first promise; `ABOVE_ALL`: only the large model's answers do."""
    recovered = _recovered(graded, outcomes)
    enough = np.flatnonzero(recovered >= CERTAINTY)
    thresholds = np.append(graded.grid, ABOVE_ALL)
    return float(thresholds[enough[0]]) if len(enough) else ABOVE_ALL


def _recovered(graded: Graded, outcomes: Outcomes) -> Numbers:
    """By threshold: the share of samples in which `RECOVERED` of the lead is recovered."""
    chance = np.random.default_rng(0)
    bins = np.searchsorted(graded.grid, graded.scores, "right") - 1
    sizes = np.bincount(bins, minlength=len(graded.grid)).astype(float)
    seen = np.stack(
        [np.bincount(bins, graded.difference == sign, len(graded.grid)) for sign in (1, -1)], 1
    )
    own = graded.count / (graded.count + SEEN_LABELS)
    smooth = outcomes.draws(graded.grid, SAMPLES, chance)
    shares = own * seen / np.maximum(sizes, 1)[:, None] + (1 - own) * smooth
    counts = chance.multinomial(int(sizes.sum()), sizes / sizes.sum(), size=SAMPLES)
    gained = chance.binomial(counts, shares[..., 0])
    lost_share = np.clip(shares[..., 1] / np.maximum(1 - shares[..., 0], 1e-9), 0, 1)
    net = gained - chance.binomial(counts - gained, lost_share)
    passed_on = np.concatenate([np.zeros((SAMPLES, 1)), net.cumsum(axis=1)], axis=1)
    passed_on += graded.blind.sum()
    lead = passed_on[:, -1:]
    enough = np.where(lead > 0, passed_on >= RECOVERED * lead - 1e-9, passed_on >= lead)
    share: Numbers = enough.mean(axis=0)
    return share


def bounds(graded: Graded) -> tuple[Bound, ...]:
    """From the laxest threshold to the strictest, each with what it promises."""
    step = -(-len(graded.grid) // BOUNDS)
    found = []
    for number in range(0, len(graded.grid), step):
        threshold = graded.grid[number]
        kept = graded.scores >= threshold
        wrong = int((kept & (graded.difference > 0)).sum())
        found.append(
            Bound(
                score=float(threshold),
                wrong=upper_bound(wrong, graded.count),
                escalated=escalated(graded, float(threshold)),
                release=float(graded.looks.release[number]),
                cut=float(graded.looks.cut[number]),
            )
        )
    return tuple(found)


def upper_bound(events: int, of: int) -> float:
    """Of a share that was seen `events` times: the upper end of its interval.

    What is seen next is a sample too; the tested side alone, at 95 %, was exceeded on 8 % of
    samples of 150 answers.
    """
    below = (1 + CONFIDENCE) / 2
    return 1.0 if events >= of else float(beta.ppf(below, events + 1, of - events))


def escalated(graded: Graded, threshold: float) -> float:
    return float((graded.scores < threshold).sum() + len(graded.blind)) / graded.count
