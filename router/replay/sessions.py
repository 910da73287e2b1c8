"""What the keeper of a run hears of its requests: session by session, or each in its turn.

A session is a time in which some request is under way.
"""

import math

from router.replay.keepers import Keeper, Passed, Planned
from router.replay.singly import Singly
from router.replay.work import Work


class Sessions:
    """Of one run; `row` is the one that comes next."""

    def __init__(self, work: Work, keeper: Keeper) -> None:
        self.open = False
        self.end_s = -math.inf  # when all requests so far have had their last byte
        self._work = work
        self._keeper = keeper
        differ = work.requests.counts is None and not work.even
        self._singly = Singly(keeper.planner) if isinstance(keeper, Planned) and differ else None
        self._since_s = 0.0  # when the keeper heard last of this session,
        self._first = 0  # the row up to which it did,
        self._told = 0.0  # and the requests from there on that it knows

    @property
    def singly(self) -> bool:
        """Whether each request is told in its turn, by `came` and `ends`."""
        return self._singly is not None

    def begin(self, now_s: float, row: int) -> None:
        if self._singly is None:
            self._keeper.began(now_s)
        self._since_s, self._first, self.open, self._told = now_s, row, True, 1.0

    def lasts_until(self, at_s: float) -> None:
        """At least: a request has its last byte then."""
        self.end_s = max(self.end_s, at_s)

    def close(self, row: int) -> None:
        self.tell(self.end_s, row, over=True)
        self.open = False

    def tell(self, now_s: float, row: int, *, over: bool) -> None:
        """Let the keeper know of the requests since it heard of any."""
        if self._singly is not None:
            self._singly.passed(now_s)
            return
        work = self._work
        requests = work.counted[row] - work.counted[self._first]
        into, out = work.tokens(self._first, row)
        share = (requests - self._told) / requests if requests > 0 else 0.0
        tokens = into * share, out * share
        self._keeper.passed(Passed(self._since_s, now_s, requests - self._told, tokens, over))
        self._since_s, self._first, self._told = now_s, row, 0.0

    def came(self, now_s: float) -> None:
        if self._singly is not None:
            self._singly.came(now_s)

    def ends(self, row: int, at_s: float) -> None:
        if self._singly is not None:
            self._singly.ends(at_s, self._work.tokens(row, row + 1))
