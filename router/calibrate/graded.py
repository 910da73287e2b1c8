"""Labels as numbers: the score of each answer, and what it would cost to keep it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.calibrate.early import FirstLooks
from router.calibrate.labelled import Labelled
from router.calibrate.score import Numbers, Score, fit_score

GRID = 400  # thresholds that are looked at, at most
FOLDS = 5


@dataclass(frozen=True)
class Graded:
    """Requests of which both models' answers are labelled.

    An answer is kept from every threshold that is no higher than its `scores`; with early looks
    that may be higher than the score of the whole answer. `difference` is 1 where only the large
    model is right, -1 where only the small one is. `blind` are the differences where nothing is
    known of the answer, so that it always goes to the large model.
    """

    scores: Numbers
    difference: Numbers
    blind: Numbers
    grid: Numbers
    looks: FirstLooks

    @property
    def count(self) -> int:
        return len(self.scores) + len(self.blind)


def grade(labels: Sequence[Labelled], score: Score) -> Graded:
    compared = [each for each in labels if each.large_right is not None]
    whole, first = _scores(compared, score)
    difference = np.array([float(each.large_right or 0) - each.small_right for each in compared])
    known = ~np.isnan(whole)
    grid = _grid(whole[known])
    looks = FirstLooks(whole[known], first[known], grid)
    return Graded(
        scores=looks.kept_from(whole[known], first[known]),
        difference=difference[known],
        blind=difference[~known],
        grid=grid,
        looks=looks,
    )


def _scores(labels: Sequence[Labelled], score: Score) -> tuple[Numbers, Numbers]:
    """Of whole answers and of their first tokens, each by weights that its label had no part in.

    A single signal orders answers in the same way whatever its weight, so it needs no such care.
    """
    if len(score.weights) <= 1 or len(labels) < 2 * FOLDS:
        return _of(labels, score)
    whole, first = np.empty(len(labels)), np.empty(len(labels))
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    for number in range(FOLDS):
        others = [each for each, own in zip(labels, fold == number, strict=True) if not own]
        these = [each for each, own in zip(labels, fold == number, strict=True) if own]
        without = fit_score([o.signals for o in others], _right(others))
        whole[fold == number], first[fold == number] = _of(these, without)
    return whole, first


def _of(labels: Sequence[Labelled], score: Score) -> tuple[Numbers, Numbers]:
    first = np.full(len(labels), np.nan)
    begun = [number for number, each in enumerate(labels) if each.first is not None]
    first[begun] = score.of([each.first for each in labels if each.first is not None], 0.0)
    return score.of([each.signals for each in labels]), first


def _right(labels: Sequence[Labelled]) -> NDArray[np.bool_]:
    return np.array([each.small_right for each in labels], dtype=bool)


def _grid(scores: Numbers) -> Numbers:
    distinct = np.unique(scores)
    if len(distinct) <= GRID:
        return distinct
    return np.unique(np.quantile(scores, np.linspace(0, 1, GRID), method="lower"))
