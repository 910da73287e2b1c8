"""From which score of its first tokens a stream may go out at once, or is cut off.

Decided by whether the whole answer would be kept, and not by whether it is right: so what is
promised of a threshold can be tested on the same labels, early releases included.
"""

import numpy as np

from policies.calibration import ABOVE_ALL, BELOW_ALL
from router.calibrate.score import Numbers

SURE = 0.95  # of streams that go out early, so many would have been kept in the end
FEWEST = 20  # streams that a score must rest on


class FirstLooks:
    """For each threshold of a grid: the score to release from, and the one to cut below."""

    def __init__(self, whole: Numbers, first: Numbers, grid: Numbers) -> None:
        seen = ~np.isnan(first)
        order = np.argsort(first[seen])
        begun, ended = first[seen][order], whole[seen][order]
        self._grid = grid
        self.any = len(begun) >= FEWEST
        release = [_release(begun, ended >= threshold) for threshold in grid]
        # Never lower for a higher threshold: what a strict threshold keeps, a lax one keeps too.
        self.release = np.maximum.accumulate(np.array(release, dtype=float))
        cut = [_cut(begun, ended < threshold) for threshold in grid]
        self.cut = np.minimum(np.array(cut, dtype=float), self.release)

    def kept_from(self, whole: Numbers, first: Numbers) -> Numbers:
        """The highest threshold at which an answer is kept, be it early or in the end."""
        reached = np.searchsorted(self.release, np.nan_to_num(first, nan=BELOW_ALL), "right") - 1
        early = np.where(reached >= 0, self._grid[np.maximum(reached, 0)], BELOW_ALL)
        return np.where(np.isnan(first), whole, np.maximum(whole, early))


def _release(begun: Numbers, kept: Numbers) -> float:
    """The lowest beginning from which nearly all are kept in the end; `begun` ascends."""
    if len(begun) < FEWEST:
        return ABOVE_ALL
    share = np.cumsum(kept[::-1]) / np.arange(1, len(begun) + 1)
    sure = np.flatnonzero(share[FEWEST - 1 :] >= SURE)
    return float(begun[::-1][sure[-1] + FEWEST - 1]) if len(sure) else ABOVE_ALL


def _cut(begun: Numbers, given_up: Numbers) -> float:
    """The highest beginning below which nearly all are given up in the end."""
    if len(begun) < FEWEST:
        return BELOW_ALL
    share = np.cumsum(given_up) / np.arange(1, len(begun) + 1)
    sure = np.flatnonzero(share[FEWEST - 1 :] >= SURE)
    if not len(sure):
        return BELOW_ALL
    last = sure[-1] + FEWEST - 1
    return float(begun[last + 1]) if last + 1 < len(begun) else float(begun[last])
