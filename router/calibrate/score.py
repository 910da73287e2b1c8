"""The weights of signals in the score: a logistic regression that cannot learn nonsense.

No weight is negative, so that more confidence never lowers the score, and few labels move the
weights little from what is usual.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from policies.calibration import FAR, LEAST_KNOWN, SIGNALS, Weight, confidence
from policies.signals import Signals

Numbers = NDArray[np.float64]

KNOWN_SHARE = 0.5  # of the labels; a signal that fewer have gets no weight
# Log-odds of being right for each standard deviation, from five public question sets and six
# models: 1.2 to 2.9 where the model's confidence means something.
USUAL_WEIGHT = 1.6
TRUST = 3.0  # in it, as the information of labels; 12 to 30 of them weigh as much
_SURE = tuple(name for name in SIGNALS if "logprob" in name or "margin" in name) + (
    "mean_entropy",
    "span_mean_entropy",
    "self_check",
)


class Score:
    """Fitted weights, applied to many answers at once as `policies.calibration` does to one."""

    def __init__(self, intercept: float, weights: Sequence[Weight]) -> None:
        self.intercept = intercept
        self.weights = tuple(weights)

    def of(self, many: Sequence[Signals], least_known: float = LEAST_KNOWN) -> Numbers:
        """NaN where less than that share of the weights is known."""
        values = _values(many, [weight.signal for weight in self.weights])
        known = ~np.isnan(values)
        means, sds, weights = (
            np.array([getattr(each, name) for each in self.weights])
            for name in ("mean", "sd", "weight")
        )
        units = np.nan_to_num(np.clip((values - means) / sds, -FAR, FAR), nan=0.0)
        seen: Numbers = known @ weights
        enough = known.any(axis=1) & (seen >= least_known * weights.sum())
        return np.where(enough, self.intercept + units @ weights, np.nan)


def fit_score(many: Sequence[Signals], right: NDArray[np.bool_]) -> Score:
    """ValueError when no signal is known of most answers and differs among them."""
    values = _values(many, SIGNALS)
    known = ~np.isnan(values)
    used = [
        column
        for column in range(len(SIGNALS))
        if known[:, column].mean() >= KNOWN_SHARE
        and np.ptp(values[known[:, column], column]) > 1e-9
    ]
    if not used:
        raise ValueError("no signal is known of most answers and differs among them")
    names = [SIGNALS[column] for column in used]
    values = values[:, used]
    means, sds = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    units = np.nan_to_num(np.clip((values - means) / sds, -FAR, FAR), nan=0.0)
    intercept, weights = _regression(units, right.astype(float), _usual(names))
    return Score(
        intercept,
        [
            Weight(name, float(mean), float(sd), float(weight))
            for name, mean, sd, weight in zip(names, means, sds, weights, strict=True)
            if weight > 1e-3
        ],
    )


def _values(many: Sequence[Signals], names: Sequence[str]) -> Numbers:
    rows = [[confidence(each, name) for name in names] for each in many]
    return np.array(rows, dtype=float).reshape(len(many), len(names))


def _usual(names: Sequence[str]) -> Numbers:
    """Signals of one kind say much the same, so they share the usual weight."""
    sure = np.array([name in _SURE for name in names], dtype=float)
    usual: Numbers = USUAL_WEIGHT * sure / max(sure.sum(), 1.0)
    return usual


def _regression(units: Numbers, right: Numbers, usual: Numbers) -> tuple[float, Numbers]:
    trust = TRUST * len(usual)  # spread over all: the sum is held as firmly as a single weight

    def loss(parameters: Numbers) -> tuple[float, Numbers]:
        intercept, weights = parameters[0], parameters[1:]
        score = intercept + units @ weights
        away = weights - usual
        value = np.logaddexp(0, score).sum() - right @ score + trust / 2 * (away @ away)
        residual = expit(score) - right
        slope = np.concatenate([[residual.sum()], units.T @ residual + trust * away])
        return float(value + 0.025 * intercept**2), slope + np.eye(len(slope))[0] * 0.05 * intercept

    found = minimize(
        loss,
        np.concatenate([[0.0], usual]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None), *((0.0, None) for _ in usual)],
    )
    return float(found.x[0]), found.x[1:]
