"""One server over simulated time: which rung it is on, and what that costs.

It rises (starts or wakes), serves, and idles down its ladder; `settle` brings it up to a moment.
Costs are counted when a stretch of time is over. The same rules as `backends/lifecycle.py`: idle
time begins with the last byte and runs on while it sleeps, a hold only delays what is due.
"""

import math
from collections.abc import Callable, Mapping

from policies.rungs import RungName
from router.replay.keepers import Holding, Steps
from router.replay.outcome import HOUR_S, Outcome

DOWNWARDS: tuple[RungName, ...] = ("hot", "sleep_1", "sleep_2", "off")
Draw = Callable[[RungName, float], float]  # how long a rise from a rung takes that begins then
Happened = Callable[[float, str], None]  # time and what; for a timeline


class Server:
    """Times in seconds. `hold_usd_s` by rung."""

    __slots__ = (
        "base_s",
        "busy_s",
        "down_s",
        "draw_s",
        "gap_s",
        "happened",
        "hold_usd_s",
        "keeper",
        "next_step",
        "outcome",
        "ready_s",
        "rising_from",
        "rose_s",
        "rung",
        "served",
        "serving",
        "since_s",
        "steps",
        "until_s",
        "waiting_s",
    )

    def __init__(
        self,
        keeper: Holding,
        outcome: Outcome,
        hold_usd_s: Mapping[RungName, float],
        draw_s: Draw,
        happened: Happened | None = None,
    ) -> None:
        self.keeper = keeper
        self.outcome = outcome
        self.hold_usd_s = hold_usd_s
        self.draw_s = draw_s
        self.happened = happened
        self.rung: RungName = "off"
        self.rising_from: RungName | None = None
        self.serving = False
        self.served = True  # since it was started
        self.since_s = 0.0  # costs are counted up to here
        self.base_s = 0.0  # idle since
        self.down_s = -math.inf  # not hot since
        self.steps: Steps = ()
        self.next_step = 0
        self.until_s = -math.inf  # held until
        self.busy_s = 0.0  # serving until
        self.rose_s = self.ready_s = 0.0
        self.waiting_s = -math.inf  # when the last of those that wait for it will be served
        self.gap_s: float | None = None  # when the gap began that an early start may end

    @property
    def hot(self) -> bool:
        return self.rung == "hot"

    def settle(self, now_s: float) -> None:
        """Let pass what happens before a moment; what is due at it has not happened yet."""
        while True:
            if self.rising_from is not None:
                if self.ready_s > now_s:
                    return
                self._ready()
            if self.serving:
                if self.busy_s >= now_s:
                    return
                self._rest()
            if self.next_step < len(self.steps):
                after_s, rung = self.steps[self.next_step]
                due_s = max(self.base_s + after_s, self.until_s, self.since_s)
                if self._held_early(min(due_s, now_s)):
                    continue
                if due_s < now_s:
                    self._go_down(due_s, rung)
                    continue
            elif self.rung == "off" and self._rises_early(now_s):
                continue
            self._hold(now_s)
            return

    def rise(self, now_s: float) -> None:
        """Start it, or wake it; it is settled up to now, and down."""
        took_s = self.draw_s(self.rung, now_s)
        self.rising_from, self.rose_s, self.ready_s = self.rung, now_s, now_s + took_s
        self.gap_s = None
        self.waiting_s = -math.inf
        self.outcome.starting_usd += took_s * self.hold_usd_s["hot"]
        if self.rung == "off":
            self.outcome.starts += 1
        else:
            self.outcome.wakes += 1
        if now_s - self.down_s < took_s:
            self.outcome.flaps += 1
        if self.happened is not None:
            self.happened(now_s, "start" if self.rung == "off" else "wake")

    def await_ready(self, service_s: float) -> float:
        """A request waits for it; when it will have been served."""
        done_s = self.ready_s + service_s
        if done_s > self.waiting_s:
            self.waiting_s = done_s
        return done_s

    def serve(self, now_s: float, until_s: float) -> None:
        """Requests that came while it was hot; it is settled up to now."""
        if not self.serving:
            self.serving = self.served = True
            self.since_s = self.busy_s = now_s
        if until_s > self.busy_s:
            self.busy_s = until_s

    def hold(self, now_s: float, until_s: float) -> None:
        """Keep it until then, starting it if it is down; the past ends it."""
        if self.rung != "hot" and self.rising_from is None and until_s > now_s:
            self.rise(now_s)
        if self.until_s > now_s >= until_s and self.rung == "hot" and not self.serving:
            self.steps, self.next_step = self.keeper.descent(), 0
        self.until_s = until_s

    def ask_again(self) -> None:
        """The descent of one that is idle, after what decides on it has changed."""
        if self.rung != "off" and not self.serving and self.rising_from is None:
            self.steps, self.next_step = self.keeper.descent(), 0
            while self.next_step < len(self.steps) and self._above(self.steps[self.next_step][1]):
                self.next_step += 1

    def count(self, now_s: float) -> None:
        """Bring the costs up to now while it serves."""
        if self.serving:
            self.outcome.serving_usd += (now_s - self.since_s) * self.hold_usd_s["hot"]
            self.since_s = now_s

    def _ready(self) -> None:
        assert self.rising_from is not None
        self.keeper.woke(self.rising_from, self.ready_s - self.rose_s)
        self.served = False if self.rising_from == "off" else self.served
        self.rising_from, self.rung = None, "hot"
        self.since_s = self.ready_s
        if self.happened is not None:
            self.happened(self.ready_s, "ready")
        if self.waiting_s >= self.ready_s:
            self.serve(self.ready_s, self.waiting_s)
        else:
            self._idle(self.ready_s)

    def _rest(self) -> None:
        self.count(self.busy_s)
        self.serving = False
        self._idle(self.busy_s)

    def _idle(self, now_s: float) -> None:
        self.base_s = self.since_s = now_s
        self.steps, self.next_step = self.keeper.descent(), 0

    def _go_down(self, now_s: float, rung: RungName) -> None:
        self._hold(now_s)
        if self.rung == "hot":
            self.down_s = now_s
        self.rung = rung
        self.next_step += 1
        if rung == "off" and not self.served:
            self.outcome.idle_starts += 1
            self.served = True
        if self.happened is not None:
            self.happened(now_s, rung)

    def _above(self, rung: RungName) -> bool:
        """Whether a rung is no lower than where it is."""
        return DOWNWARDS.index(rung) <= DOWNWARDS.index(self.rung)

    def _hold(self, now_s: float) -> None:
        passed_s = now_s - self.since_s
        self.since_s = now_s
        if self.rung == "hot":
            self.outcome.warm_idle_h += passed_s / HOUR_S
        self.outcome.holding_usd += passed_s * self.hold_usd_s[self.rung]

    def _held_early(self, now_s: float) -> bool:
        """Whether an early start fell due while it was up: then it is held, once in a gap."""
        if self.gap_s is None or self.rung != "hot":
            return False
        early = self.keeper.early()
        if early is None or self.gap_s + early[0] >= now_s:
            return False
        self.until_s, self.gap_s = self.gap_s + early[1], None
        return True

    def _rises_early(self, now_s: float) -> bool:
        """Whether it was started before anybody asked: once in a gap."""
        early = self.keeper.early() if self.gap_s is not None else None
        if self.gap_s is None or early is None:
            return False
        at_s = max(self.gap_s + early[0], self.since_s)
        if at_s >= now_s:
            return False
        self.until_s = self.gap_s + early[1]
        self._hold(at_s)
        self.rise(at_s)
        self.outcome.early_starts += 1
        return True
