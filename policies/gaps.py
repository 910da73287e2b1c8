"""The last idle gaps of one model: what a keep-alive rule learns from."""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable
from itertools import accumulate

REMEMBERED = 200


class Gaps:
    """The last `REMEMBERED` gaps, in seconds, kept sorted beside their order of arrival.

    Gaps up to `floor_s` are not kept: no rule goes down sooner than that, so they tell nothing
    and would only push out those that do.
    """

    def __init__(self, floor_s: float = 0.0, values: Iterable[float] = ()) -> None:
        self.floor_s = floor_s
        self.seen = 0  # of those above the floor, ever
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        for gap_s in values:
            self.add(gap_s)

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, gap_s: float) -> bool:
        """Whether it was kept."""
        if gap_s <= self.floor_s:
            return False
        if len(self._recent) == REMEMBERED:
            oldest_s = self._recent.popleft()
            del self._sorted[bisect_right(self._sorted, oldest_s) - 1]
        self._recent.append(gap_s)
        insort(self._sorted, gap_s)
        self.seen += 1
        return True

    def values(self) -> list[float]:
        """In order of arrival."""
        return list(self._recent)

    @property
    def ascending(self) -> list[float]:
        """Shortest first. Not to be changed."""
        return self._sorted

    def sums(self) -> list[float]:
        """`sums()[k]` is the sum of the k shortest."""
        return list(accumulate(self._sorted, initial=0.0))

    def at_most(self, gap_s: float) -> int:
        """How many are no longer than this."""
        return bisect_right(self._sorted, gap_s)
