"""Tells a planner of requests one by one, each end in its turn, as the gateway does.

For traces whose requests differ; where all are alike, `Planned.passed` is enough and faster.
"""

from heapq import heappop, heappush

from router.planner import Planner


class Singly:
    """Times are in seconds and ascend over all calls but those of `ends`."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._under_way: list[tuple[float, float, float]] = []  # end, tokens in and out

    def came(self, now_s: float) -> None:
        """A request; `ends` says when its last byte goes."""
        self.passed(now_s)
        self._planner.arrived(now_s)

    def ends(self, at_s: float, tokens: tuple[float, float]) -> None:
        heappush(self._under_way, (at_s, *tokens))

    def passed(self, now_s: float) -> None:
        """All that ends until now has ended."""
        while self._under_way and self._under_way[0][0] <= now_s:
            self._planner.finished(*heappop(self._under_way))
