"""One model over the whole trace under one policy: a loop over stretches, not over requests.

While a server is hot the requests of a stretch need no look at each; only those that come when
none is ready do. The live router's rules hold: who comes while a start is on its way waits for it
or goes elsewhere as `policies.arrival.choose` says, one start serves all, a caller whose time is
over is gone. Servers beyond the first come and go by minutes (`servers.py`).
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from policies.budget import Purse
from router.replay.keepers import Keeper, Planned
from router.replay.outcome import Outcome
from router.replay.server import Draw, Happened, Server
from router.replay.servers import Servers
from router.replay.sessions import Sessions
from router.replay.work import Work

PIECES = 8  # into which the requests of a spell that wait for one start are cut
LEAST = 1e-9
DAY_S = 86400.0
ON_THE_GRID_S = 1e-3  # sums of times are not exact

Placed = Callable[[int, str, bool], None]  # a request's row, where it went, whether it met a start


class Run:
    """`until` is called with ascending times; `tick` is what a gateway does without a request."""

    def __init__(
        self,
        work: Work,
        keeper: Keeper,
        draw_s: Draw,
        happened: Happened | None = None,
        placed: Placed | None = None,
    ) -> None:
        self.work = work
        self.planned = keeper if isinstance(keeper, Planned) else None
        self.outcome = Outcome(requests=work.total)
        self._servers = Servers(work, keeper, self.outcome, draw_s, happened)
        self.server = self._servers.first
        self._happened = happened
        self._placed = placed
        self._sessions = Sessions(work, keeper)
        self._row = 0
        self._even = work.even
        self._bought_later = False  # whether the API answers who waited in vain
        self._stretch = 0
        self._day = (0, 0.0)  # and the bill when it began

    # --- requests -------------------------------------------------------------------------------

    def until(self, limit_s: float) -> None:
        """All requests that come before a time."""
        server, sessions = self.server, self._sessions
        at_s, rows = self.work.requests.at_s, len(self.work.requests)
        while self._row < rows:
            now_s = at_s[self._row]
            if now_s >= limit_s:
                break
            begins = now_s > sessions.end_s
            if begins and sessions.open:
                self._close()
            server.settle(now_s)
            if begins:
                self._begin(now_s)
            if self._goes_away(server):
                self._send_away(limit_s)
            elif server.rung == "hot":
                self._serve(limit_s)
            else:
                self._meet_cold(self._row)
                self._row += 1
        self._servers.follow(limit_s)

    def _begin(self, now_s: float) -> None:
        if self._row:
            self.outcome.gaps += 1
            self.outcome.cold_gaps += not self.server.hot
        self._sessions.begin(now_s, self._row)

    def _close(self) -> None:
        self._sessions.close(self._row)
        self.server.gap_s = self._sessions.end_s

    def _serve(self, limit_s: float) -> None:
        """The rest of a stretch at a hot server."""
        row = self._row
        end_s = self._pass(limit_s)
        self.server.serve(self.work.requests.at_s[row], end_s)
        self._tell_rows(row, "cold")

    def _pass(self, limit_s: float) -> float:
        """Go on past requests that are treated alike; when the last of them has its last byte."""
        if self._sessions.singly:
            return self._pass_overlap(limit_s)
        if not self._even:
            firsts = self.work.firsts
            if firsts[bisect_right(firsts, self._row) - 1] != self._row:
                return self._pass_overlap(limit_s)
        return self._pass_stretch(limit_s)

    def _pass_overlap(self, limit_s: float) -> float:
        """Go on while requests overlap at the server; when that ends.

        In a stretch they may overlap only with those that went elsewhere.
        """
        work, at_s, rows = self.work, self.work.requests.at_s, len(self.work.requests)
        end_s = at_s[self._row]
        while self._row < rows and at_s[self._row] < limit_s and at_s[self._row] <= end_s:
            end_s = max(end_s, at_s[self._row] + work.service_s(self._row))
            self._row += 1
        self._sessions.lasts_until(end_s)
        return end_s

    def _tell_rows(self, first: int, where: str) -> None:
        """What came since a row, and did not have to wait."""
        if not self._sessions.singly and self._placed is None:
            return
        for row in range(first, self._row):
            now_s = self.work.requests.at_s[row]
            self._sessions.came(now_s)
            self._ends(row, now_s + self.work.service_s(row), where)

    def _ends(self, row: int, at_s: float, where: str, *, met_start: bool = False) -> None:
        self._sessions.ends(row, at_s)
        if self._placed is not None:
            self._placed(row, where, met_start)

    def _pass_stretch(self, limit_s: float) -> float:
        """Go on to the next stretch, or to the limit within this one; when it ends."""
        work, row = self.work, self._row
        firsts, at_s = work.firsts, work.requests.at_s
        stretch, last = self._stretch, len(firsts) - 1
        while stretch < last and firsts[stretch + 1] <= row:
            stretch += 1
        self._stretch = stretch
        after = firsts[stretch + 1] if stretch < last else len(at_s)
        if at_s[after - 1] < limit_s:
            self._row, end_s = after, work.ends_s[stretch]
        else:
            self._row = bisect_left(at_s, limit_s, row, after)
            end_s = at_s[self._row]  # the stretch goes on at least until then
        self._sessions.lasts_until(end_s)
        return end_s

    def _goes_away(self, server: Server) -> bool:
        """Whether all requests go elsewhere, or nowhere, until the next tick."""
        if self.planned is None or server.rising_from is not None:
            return False
        planner = self.planned.planner
        if planner.allowance.stance == "refusing":
            return True
        if planner.placement.name != "api":
            return False
        step = self.planned.steps(server.rung, None, self.work.caller(self._row, planner))[0]
        return step.kind == "api" and step.start is None

    def _send_away(self, limit_s: float) -> None:
        assert self.planned is not None
        row = self._row
        self._pass(limit_s)
        count = self.work.counted[self._row] - self.work.counted[row]
        self.outcome.cold += count
        if self.planned.planner.allowance.stance == "refusing":
            self.outcome.refused += count
            self._tell_rows(row, "")
            return
        self.outcome.overflowed += count
        self.outcome.api_usd += self.work.usd_of(row, self._row)
        self._tell_rows(row, "api")

    # --- requests that find no server ready -----------------------------------------------------

    def _meet_cold(self, row: int) -> None:
        """One row, piece by piece: a request, or the requests of a spell."""
        work, server = self.work, self.server
        now_s, until_s = work.requests.at_s[row], work.until_s(row)
        left, service_s = work.count(row), work.service_s(row)
        self._sessions.came(now_s)
        per_s = left / (until_s - now_s) if until_s > now_s else math.inf
        while left > LEAST:
            server.settle(now_s)
            if server.hot:
                end_s = until_s + service_s
                server.serve(now_s, end_s)
                self._sessions.lasts_until(end_s)
                self._ends(row, end_s, "cold")
                return
            waits = self._waits(row, now_s)
            if waits and server.rising_from is None:
                server.rise(now_s)
            if waits:
                count = self._piece(left, per_s, server.ready_s - now_s)
                self._wait(row, now_s, count, max(count - 1.0, 0.0) / per_s)
            else:
                count = self._rent(row, left, per_s, now_s)
            left -= count
            now_s += count / per_s

    def _piece(self, left: float, per_s: float, ready_in_s: float) -> float:
        """How many requests of a spell to treat alike: an eighth of a start's, at least one."""
        if math.isinf(per_s):
            return left
        whole = per_s * ready_in_s
        return min(left, whole, max(whole / PIECES, 1.0)) if whole > LEAST else min(left, 1.0)

    def _waits(self, row: int, now_s: float) -> bool:
        """Whether a caller is held, or else goes to the outside API."""
        if self.planned is None or self.work.economics.api_usd is None:
            return True
        work, server = self.work, self.server
        rising_for_s = None if server.rising_from is None else now_s - server.rose_s
        steps = self.planned.steps(
            server.rising_from or server.rung,
            rising_for_s,
            work.caller(row, self.planned.planner),
        )
        self._step, self._bought_later = steps[0], any(step.kind == "api" for step in steps[1:])
        return steps[0].kind == "cold"

    def _wait(self, row: int, now_s: float, count: float, over_s: float) -> None:
        """Requests that come from now on, over so many seconds, wait for the rise."""
        work, server, outcome = self.work, self.server, self.outcome
        wait_s = server.ready_s - now_s - over_s / 2
        outcome.cold += count
        held_s = work.held_s(row)
        outcome.waited(min(wait_s, held_s), count, work.economics.delay_usd_s)
        if wait_s > held_s:
            self._in_vain(row, now_s + held_s, count)
            return
        end_s = server.await_ready(work.service_s(row))
        self._sessions.lasts_until(end_s)
        self._ends(row, end_s, "cold", met_start=True)

    def _in_vain(self, row: int, now_s: float, count: float) -> None:
        """The time that requests had for a start is over before it is: who else can answers."""
        work, outcome, where, end_s = self.work, self.outcome, "", now_s
        if self._bought_later:
            outcome.overflowed += count
            outcome.api_usd += work.usd_of(row, row + 1) / work.count(row) * count
            where, end_s = "api", now_s + work.service_s(row)
        else:
            outcome.missed += count
        self._sessions.lasts_until(end_s)
        self._ends(row, end_s, where)

    def _rent(self, row: int, left: float, per_s: float, now_s: float) -> float:
        """Requests that the outside API answers; how many are alike."""
        assert self.planned is not None
        work, server, step = self.work, self.server, self._step
        planner = self.planned.planner
        caller = work.caller(row, planner)
        count = left if math.isinf(per_s) else min(left, 1.0)
        if math.isinf(per_s):
            pass
        elif server.rising_from is not None:
            count = self._piece(left, per_s, server.ready_s - now_s)
        elif step.start is None:
            count = left
        elif not step.start and caller.usd > 0:
            terms = planner.terms(caller.held_s, "normal", False, server.rung)
            lacking = (terms.start_usd - terms.overspent_usd) / caller.usd
            count = min(left, max(math.floor(lacking), 1.0))
        self.outcome.cold += count
        self.outcome.overflowed += count
        self.outcome.api_usd += work.usd_of(row, row + 1) / work.count(row) * count
        end_s = now_s + count / per_s + work.service_s(row)
        self._sessions.lasts_until(end_s)
        self._ends(row, end_s, "api")
        if step.start is not None:
            planner.overflowed(caller.usd * count)
            if step.start and server.rising_from is None:
                server.rise(now_s)
        return count

    # --- what happens without a request ---------------------------------------------------------

    def tick(self, now_s: float, epoch_s: float, shared: Purse | None, *, warm: bool) -> None:
        """Budgets, the placement if it is due, and what is to be kept ready."""
        assert self.planned is not None
        planner, sessions = self.planned.planner, self._sessions
        if sessions.open and sessions.end_s < now_s:
            self._close()
        self._servers.settle(now_s)
        if sessions.open:
            sessions.tell(now_s, self._row, over=False)
        planner.spent(self.today_usd(epoch_s), shared)
        every_s, began_s = planner.economics.place_every_s, planner.periods.now.began_s
        began_epoch_s = epoch_s - now_s + began_s
        if (began_epoch_s + ON_THE_GRID_S) // every_s != (epoch_s + ON_THE_GRID_S) // every_s:
            before = planner.placement.name
            after = planner.place(now_s).name
            if after != before:
                self.outcome.moves += 1
                if self._happened is not None:
                    self._happened(now_s, after)
                self._servers.moved(now_s)
        self._servers.keep_ready(now_s, planner.instances_wanted(warm=warm))

    def finish(self) -> None:
        """The trace is over."""
        work, outcome = self.work, self.outcome
        self.until(math.inf)
        if self._sessions.open:
            self._close()
        self._servers.settle(max(work.end_s, self._sessions.end_s))
        if work.unserved and work.economics.api_usd is not None and self.planned is not None:
            outcome.overflowed += work.unserved
            outcome.api_usd += work.unserved * work.api_usd / work.total
        else:
            outcome.missed += work.unserved

    def today_usd(self, epoch_s: float) -> float:
        """Spent since midnight UTC, as far as was counted."""
        day = int(epoch_s // DAY_S)
        if day != self._day[0]:
            self._day = (day, self.outcome.usd)
        return self.outcome.usd - self._day[1]
