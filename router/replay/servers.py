"""All servers of one model: the first, and those beyond it that busy minutes need.

Requests meet the first one; whether others are at work follows from the rate alone (`Work.needs`).
"""

import math

from router.replay.keepers import Extra, Keeper
from router.replay.outcome import Outcome
from router.replay.server import Draw, Happened, Server
from router.replay.work import Need, Work

PIECES = 8  # into which those that wait for another server are cut


class Servers:
    """`follow` is called with ascending times."""

    def __init__(
        self,
        work: Work,
        keeper: Keeper,
        outcome: Outcome,
        draw_s: Draw,
        happened: Happened | None = None,
    ) -> None:
        hold_usd_s = work.economics.holds
        self.first = Server(keeper, outcome, hold_usd_s, draw_s, happened)
        extra = (Server(Extra(keeper), outcome, hold_usd_s, draw_s) for _ in range(work.peak - 1))
        self._all = (self.first, *extra)
        self._work = work
        self._outcome = outcome
        self._need = 0  # next of work.needs
        self._at_work = 1  # servers
        self._kept = 0  # servers that are kept ready whatever comes

    def settle(self, now_s: float) -> None:
        """All of them, and what they cost, are brought up to now."""
        for server in self._all:
            server.settle(now_s)
            server.count(now_s)

    def keep_ready(self, now_s: float, wanted: int) -> None:
        """So many, whatever comes."""
        if wanted == self._kept:
            return
        self._kept = wanted
        for n, server in enumerate(self._all):
            server.hold(now_s, math.inf if n < wanted else now_s)

    def moved(self, now_s: float) -> None:
        """The model's placement has changed."""
        for n, server in enumerate(self._all):
            if n >= self._kept:
                server.hold(now_s, now_s)  # no early start any more
            server.ask_again()

    def follow(self, limit_s: float) -> None:
        """More servers, or fewer, as the minutes before a time asked for."""
        needs = self._work.needs
        while self._need < len(needs) and needs[self._need].at_s < limit_s:
            need = needs[self._need]
            self._need += 1
            ours = self.first.hot or self.first.rising_from is not None
            self._have(need if ours else Need(need.at_s, 1, 0.0))

    def _have(self, need: Need) -> None:
        """So many servers are at work from now on."""
        at_s = need.at_s
        for server in self._all[need.servers : self._at_work]:  # these fall idle
            server.settle(at_s)
            if server.rising_from is not None:
                server.waiting_s = at_s
            server.busy_s = at_s
        for n in range(self._at_work, need.servers):
            server = self._all[n]
            server.settle(at_s)
            if server.hot:
                server.serve(at_s, math.inf)
                continue
            if server.rising_from is None:
                server.rise(at_s)
            server.waiting_s = math.inf
            last = n == need.servers - 1
            per_s = need.beyond_s if last else self._work.economics.requests_s
            self._wait_for_another(server.ready_s - at_s, per_s)
        self._at_work = need.servers

    def _wait_for_another(self, rise_s: float, per_s: float) -> None:
        """The other servers are full: who comes waits for the one that is on its way."""
        work, outcome = self._work, self._outcome
        count, held_s = per_s * rise_s / PIECES, work.deadline_s
        for piece in range(PIECES):
            wait_s = rise_s * (piece + 0.5) / PIECES
            outcome.waited(min(wait_s, held_s), count, work.economics.delay_usd_s)
            outcome.cold += count
            outcome.missed += count if wait_s > held_s else 0.0
