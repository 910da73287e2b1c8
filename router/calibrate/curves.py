"""Curves over the score: P(small right), and what the large model would add.

Few labels give smooth curves, many bend them to what was seen.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import expit

from policies.calibration import Curve
from router.calibrate.score import Numbers

GLOBAL_LABELS = 200  # the smooth curve weighs as much as so many labels
KNOTS = 40


def right_curve(scores: Numbers, right: NDArray[np.bool_]) -> Curve:
    """P(small right) by score: isotonic over the logistic curve that the score stands for."""
    knots = _knots(scores)
    seen = _isotonic(scores, right.astype(float), knots)
    own = len(scores) / (len(scores) + GLOBAL_LABELS)
    return _curve(knots, np.clip(own * seen + (1 - own) * expit(knots), 0, 1))


def falling_curve(scores: Numbers, values: Numbers) -> Curve:
    """The curve that fits `values` best among those that never rise with the score."""
    knots = _knots(scores)
    return _curve(knots, -_isotonic(scores, -values, knots))


def _knots(scores: Numbers) -> Numbers:
    inside = np.quantile(scores, np.linspace(0, 1, KNOTS))
    knots: Numbers = np.unique(
        np.concatenate([inside, [scores.min() - 2, scores.max() + 2]]).round(6)
    )
    return knots


def _isotonic(scores: Numbers, values: Numbers, at: Numbers) -> Numbers:
    """Pooled adjacent violators, straight between the blocks' centres instead of in steps."""
    distinct, which = np.unique(scores, return_inverse=True)
    counts = np.bincount(which).astype(float)
    means = np.bincount(which, values) / counts
    found = isotonic_regression(means, weights=counts)
    starts = found.blocks[:-1]
    totals = np.add.reduceat(counts, starts)
    centres = np.add.reduceat(counts * distinct, starts) / totals
    between: Numbers = np.interp(at, centres, found.x[starts])
    return between


def _curve(knots: Numbers, values: Numbers) -> Curve:
    return tuple((float(x), float(y)) for x, y in zip(knots, values, strict=True))


class Outcomes:
    """Where the two models differ, as a smooth function of the score.

    A multinomial regression of {only the large one right, only the small one, no difference}.
    `draws` are as plausible as the labels leave it open.
    """

    # From the question sets and models that USUAL_WEIGHT is from; slopes per standard deviation.
    USUAL = np.array([[-2.5, -1.3], [-4.0, -1.0]])
    TRUST = np.array([0.2, 30.0])

    def __init__(self, scores: Numbers, difference: Numbers) -> None:
        """`difference` is 1 where only the large one is right, -1 where only the small one is."""
        self._mean, self._sd = scores.mean(), max(float(scores.std()), 1e-9)
        self._design = self._designed(scores)
        self._seen = np.stack([difference > 0, difference < 0], axis=1).astype(float)
        self.found, self._information = self._newton()

    def at(self, scores: Numbers) -> Numbers:
        """Rows of (only large right, only small right)."""
        found: Numbers = self._shares(self.found[None], self._designed(scores))[0]
        return found

    def draws(self, scores: Numbers, count: int, chance: np.random.Generator) -> Numbers:
        spread = np.linalg.cholesky(np.linalg.inv(self._information))
        steps = chance.standard_normal((count, 4)) @ spread.T
        drawn = (self.found.ravel() + steps).reshape(count, 2, 2)
        return self._shares(drawn, self._designed(scores))

    def _designed(self, scores: Numbers) -> Numbers:
        return np.stack([np.ones_like(scores), (scores - self._mean) / self._sd], axis=1)

    @staticmethod
    def _shares(parameters: Numbers, design: Numbers) -> Numbers:
        odds = np.exp(np.clip(np.einsum("dij,nj->dni", parameters, design), -30, 30))
        found: Numbers = odds / (1 + odds.sum(axis=2, keepdims=True))
        return found

    def _newton(self) -> tuple[Numbers, Numbers]:
        found = self.USUAL.copy()
        information = np.eye(4)
        for _ in range(50):
            shares = self._shares(found[None], self._design)[0]
            pull = self.TRUST * (found - self.USUAL)
            slope = (self._design.T @ (self._seen - shares)).T - pull
            information = self._curvature(shares)
            step = np.linalg.solve(information, slope.ravel()).reshape(2, 2)
            found = found + np.clip(step, -3, 3)
            if np.abs(step).max() < 1e-8:
                break
        return found, information

    def _curvature(self, shares: Numbers) -> Numbers:
        found = np.diag(np.tile(self.TRUST, 2)).astype(float)
        for i in range(2):
            for j in range(2):
                weight = shares[:, i] * ((i == j) - shares[:, j])
                part = (self._design * weight[:, None]).T @ self._design
                found[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] += part
        return found
