"""The hybrid histogram of Shahrad et al. (ATC'20), as a baseline: made for cheap CPU memory.

Idle times in minutes over four hours. While they tell something, a model is unloaded at once,
loaded again shortly before the 5th percentile of the gaps and kept until the 99th, with margins of
10 percent. Else it is kept for four hours. Where most gaps are longer than four hours the paper
forecasts with ARIMA; here that case is kept for four hours too.
"""

from policies.rungs import RungName
from router.replay.keepers import Fixed, Passed, Steps

BIN_S = 60.0
BINS = 240
HEAD, TAIL = 0.05, 0.99
MARGIN = 0.1
REPRESENTATIVE_CV = 2.0
KNOWN_ENOUGH = 10


class Histogram(Fixed):
    """Satisfies `Keeper`; a load is begun at the time when the paper begins it."""

    def __init__(self) -> None:
        super().__init__(())
        self._counts = [0] * BINS
        self._seen = 0
        self._outside = 0
        self._squares = 0
        self._ended_s: float | None = None
        self._window: tuple[float, float] | None = None  # for how many gaps it was worked out
        self._known = -1

    def began(self, now_s: float) -> None:
        if self._ended_s is None:
            return
        minute = int((now_s - self._ended_s) // BIN_S)
        self._seen += 1
        if minute >= BINS:
            self._outside += 1
            return
        self._squares += 2 * self._counts[minute] + 1
        self._counts[minute] += 1

    def passed(self, passed: Passed) -> None:
        self._ended_s = passed.now_s

    def descent(self) -> Steps:
        window = self.window()
        longest_s = BINS * BIN_S
        if window is None:
            return ((longest_s, _OFF),)
        head_s, tail_s = window
        return ((0.0 if head_s > 0 else tail_s, _OFF),)

    def early(self) -> tuple[float, float] | None:
        window = self.window()
        return window if window is not None and window[0] > 0 else None

    def window(self) -> tuple[float, float] | None:
        """From when to when into a gap it is to be loaded; None while nobody knows."""
        if self._known != self._seen:
            self._known, self._window = self._seen, self._work_out()
        return self._window

    def _work_out(self) -> tuple[float, float] | None:
        inside = self._seen - self._outside
        if inside < KNOWN_ENOUGH or inside < self._outside:
            return None
        mean = inside / BINS
        cv = max(self._squares / BINS - mean * mean, 0.0) ** 0.5 / mean
        if cv < REPRESENTATIVE_CV:
            return None
        head = self._percentile(HEAD, inside)
        tail = self._percentile(TAIL, inside) + 1
        return head * BIN_S * (1 - MARGIN), tail * BIN_S * (1 + MARGIN)

    def _percentile(self, share: float, inside: int) -> int:
        left = share * inside
        for minute, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return minute
        return BINS - 1


_OFF: RungName = "off"
