"""One model's decisions over time: what was seen of its demand, and what follows from it.

The live router and `lamplighter replay` drive the same planner, with the time as an argument, so
that a replayed week decides as the week itself would have. It asks the policies, and owns the
state that they need. Times are seconds of one monotonic clock.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from policies.arrival import Priority, Terms
from policies.budget import NORMAL, Allowance, Purse, allowance
from policies.gaps import Gaps
from policies.keep_alive import Learned, descend, descend_at_random, fixed, floor_s, jittered
from policies.placement import Placement, PlacementName, Prospect, place
from policies.prestart import Prestart, Prices, prestart
from policies.rungs import Descent, Ladder, RungName, break_even_s
from policies.waiting import remaining_start_s
from router.bursts import Bursts
from router.economics import Economics
from router.periods import Periods

STARTS_REMEMBERED = 20
STARTS_TELL = 3  # measured ones, before they replace the configured distribution
BYTES_PER_TOKEN = 4.0  # of English text, as tokenizers of today cut it
OUTPUT_GUESS = 300.0  # tokens, before answers were counted
OUTPUT_WEIGHT = 0.05  # of the last answer in the running mean
WAKES_FROM: tuple[RungName, ...] = ("sleep_1", "sleep_2", "off")
ON_TIME_S = 0.5  # a choice falls due by the wall clock, which does not keep step with ours
SOONER_S = 0.1  # than the stop that it prevents comes an early start
RATE_OVER_S = 60.0  # the shortest time over which requests make a rate that servers must carry


class Planner:
    """`arrived` and `finished` frame each request; the rest asks for decisions."""

    def __init__(self, economics: Economics, now_s: float) -> None:
        self.economics = economics
        self.gaps = Gaps()
        self.periods = Periods(economics, now_s)
        self.placement = Placement(_first_placement(economics), now_s, "nothing was seen yet")
        self.allowance: Allowance = NORMAL
        self.overspent_usd = 0.0
        self.output_mean = OUTPUT_GUESS  # tokens of an answer
        self.active = 0
        self.idle_since_s: float | None = None
        self.wakes_s: dict[RungName, deque[float]] = {}  # "off" has the starts
        self.ladder: Ladder = ()  # the rungs that the server offers, at what they cost now
        self._extra_ladder: Ladder = ()  # for a server beyond the first
        self._offered: Collection[RungName] = ("hot", *WAKES_FROM)
        self._extras_idle = 0  # how often one fell idle
        self._learned = Learned()
        self._bursts = Bursts()
        self._busy_since_s = now_s
        self._busy_requests = 0.0  # that came since
        self._descent: Descent | None = None
        self._early: tuple[Prestart | None] | None = None  # None while it is not worked out
        self._price_rungs()

    def reconfigure(self, economics: Economics) -> None:
        """New prices and rules over what was learned."""
        self.economics = self.periods.economics = economics
        self._offered = ("hot", *WAKES_FROM)  # of a new level nobody has told yet
        if economics.rules.pin is not None or self.placement.name not in economics.prospective:
            first = _first_placement(economics)
            self.placement = Placement(first, self.placement.since_s, "the configuration changed")
        self._price_rungs()

    def recall(self, gaps_s: Sequence[float], wakes_s: Mapping[RungName, Sequence[float]]) -> None:
        """Take up what was learned before a restart."""
        for rung, times_s in wakes_s.items():
            self.wakes_s[rung] = deque(times_s, maxlen=STARTS_REMEMBERED)
        self._price_rungs()
        for gap_s in gaps_s:
            self._learn(gap_s)

    # --- what happens ---------------------------------------------------------------------------

    def arrived(self, now_s: float, requests: int = 1) -> None:
        """A request came, or several at once, whoever serves them."""
        if not self.active:
            if self.idle_since_s is not None:
                self._gap_ended(max(now_s - self.idle_since_s, 0.0))
            self._begin_busy(now_s)
        self.active += requests
        self._busy_requests += requests
        self._bursts.came(now_s, requests)
        self.periods.now.requests += requests

    def finished(
        self,
        now_s: float,
        input_tokens: float = 0.0,
        output_tokens: float = 0.0,
        requests: int = 1,
    ) -> None:
        """Its last byte has gone, or its caller has; the tokens are those of each of several."""
        requests = min(requests, self.active)
        if not requests:
            return  # it came before this model was planned for
        self.active -= requests
        if output_tokens:
            weight = OUTPUT_WEIGHT if requests == 1 else 1 - (1 - OUTPUT_WEIGHT) ** requests
            self.output_mean += weight * (output_tokens - self.output_mean)
        self.periods.now.api_usd += requests * self.api_usd(input_tokens, output_tokens)
        if not self.active:
            self.idle_since_s = now_s
            self._end_busy(now_s)

    def flowed(
        self,
        began_s: float,
        ended_s: float,
        requests: float,
        input_tokens: float,
        output_tokens: float,
    ) -> None:
        """Many requests without a gap between them that matters: a replay's way to be fast.

        Called while none is active; `ended_s` > `began_s`; the tokens are those of all of them.
        """
        if self.idle_since_s is not None:
            self._gap_ended(began_s - self.idle_since_s)
        self._begin_busy(began_s)
        self._busy_requests = requests
        self._bursts.came(began_s, requests)
        self.periods.now.requests += requests
        self.periods.now.api_usd += self.api_usd(input_tokens, output_tokens)
        self._end_busy(ended_s)
        self.idle_since_s = ended_s

    def woke(self, rung: RungName, took_s: float) -> None:
        """An instance became ready: started ("off") or woken from a sleep level."""
        self.wakes_s.setdefault(rung, deque(maxlen=STARTS_REMEMBERED)).append(took_s)
        self.overspent_usd = 0.0
        self._price_rungs()

    def overflowed(self, usd: float) -> None:
        """A request went elsewhere because no instance was ready in time."""
        self.overspent_usd += usd

    def offer(self, rungs: Collection[RungName]) -> None:
        """The rungs that the server offers, as far as is known: some refuse to sleep."""
        if rungs != self._offered:
            self._offered = rungs
            self._price_rungs()

    def allow(self, allowance: Allowance) -> None:
        """What the budgets say from now on."""
        changed = allowance.stance != self.allowance.stance
        self.allowance = allowance
        if changed:
            self._price_rungs()

    def spent(self, usd: float, shared: Purse | None) -> None:
        """What the model has spent today; `shared` is the budget of all models, if there is one."""
        own, purses = self.economics.usd_per_day, []
        if own is not None:
            purses.append(Purse(f"model '{self.economics.model}'", own, usd))
        if shared is not None:
            purses.append(shared)
        self.allow(allowance(purses))

    # --- what follows ---------------------------------------------------------------------------

    def descent(self) -> Descent:
        """When an instance that just became idle goes down which rung, jitter included."""
        if self.allowance.stance == "refusing":
            return Descent(((0.0, "off"),), self.allowance.reason)
        if self.placement.name == "api":
            return Descent(((0.0, "off"),), "the model is placed at the outside API")
        return self._on_demand()

    def extra_descent(self) -> Descent:
        """The same for a server that falls idle while others of the model serve.

        No gap of the model tells how long it is not needed: it goes down at random.
        """
        gone = self.allowance.stance == "refusing" or self.placement.name == "api"
        if gone or isinstance(self.economics.idle, float):
            return self.descent()
        self._extras_idle += 1
        return descend_at_random(self._extra_ladder, self.economics.model, self._extras_idle)

    def prestart(self) -> Prestart | None:
        """Whether to start again before the next arrival; counted from the same moment."""
        if self.placement.name != "on_demand" or self.allowance.stance != "normal":
            return None
        if self._early is None:
            self._early = (self._decide_prestart(),)
        return self._early[0]

    def terms(
        self, left_s: float, priority: Priority, overflow: bool, rung: RungName = "off"
    ) -> Terms:
        """What weighs for a request; `rung` is where the model's nearest server is."""
        return Terms(
            left_s=left_s,
            priority=priority,
            placement=self.placement.name,
            allowance=self.allowance,
            overspent_usd=self.overspent_usd,
            start_usd=self.wake_mean_s(rung) * self.economics.hold_usd_s,
            overflow=overflow,
        )

    def eta_s(self, rung: RungName, waking_for_s: float | None) -> float:
        """p90 of what is left until ready, from a rung; `waking_for_s` when it is on its way."""
        guess_s = self.economics.start_s[1] if rung == "off" else self._sleep_wake_s(rung)
        return remaining_start_s(self.wakes_s.get(rung, ()), waking_for_s, guess_s)

    def wake_mean_s(self, rung: RungName) -> float:
        """How long a return from a rung takes on average."""
        measured = self.wakes_s.get(rung, ())
        if len(measured) >= STARTS_TELL:
            return sum(measured) / len(measured)
        return self.economics.start_mean_s if rung == "off" else self._sleep_wake_s(rung)

    def api_usd(self, input_tokens: float, output_tokens: float) -> float:
        """What the outside API charges for these tokens; 0 without a stated price."""
        per_input, per_output = self.economics.api_usd or (0.0, 0.0)
        return input_tokens * per_input + output_tokens * per_output

    def instances_for(self, requests_s: float) -> int:
        """Servers that carry a rate, within what the configuration allows."""
        needed = -(-requests_s // self.economics.requests_s)
        return max(1, min(int(needed), self.economics.max_instances))

    def instances_wanted(self, *, warm: bool) -> int:
        """Servers that are to be ready whatever comes; `warm`: a time has come that people know."""
        if self.allowance.stance == "refusing" or not self.economics.has_cold:
            return 0
        if self.placement.name == "always_on":
            return self.always_on_instances()
        return 1 if warm else 0

    def always_on_instances(self) -> int:
        """Servers that an always-on pool of this model needs: those of its busiest period."""
        return min(max(self.periods.peak_instances(), 1), self.economics.max_instances)

    def expected_usd(self, size: int) -> float:
        """What a request of `size` bytes would likely cost at the outside API."""
        return self.api_usd(size / BYTES_PER_TOKEN, self.output_mean)

    def place(self, now_s: float) -> Placement:
        """Choose the placement anew; to be asked every `place_every_s`."""
        if self.active:
            self._end_busy(now_s)
            self._begin_busy(now_s)
        self.periods.close(now_s)
        prospects = self.prospects()
        rules = self.economics.rules
        rules = replace(rules, dwell_s=rules.dwell_s - ON_TIME_S)
        self.placement = place(self.placement, now_s, prospects, self.periods.qps(), rules)
        return self.placement

    def prospects(self) -> dict[PlacementName, Prospect]:
        """What each placement that the model can have would cost at the demand that was seen."""
        possible = self.economics.prospective
        return {n: p for n, p in self.periods.prospects().items() if n in possible}

    # --- within ---------------------------------------------------------------------------------

    def _price_rungs(self) -> None:
        facts = self.economics
        self._descent = self._early = None
        if not facts.has_cold:
            self.ladder = self._extra_ladder = ()
            return
        self.ladder = self._rungs({})
        self._extra_ladder = self._rungs(
            {name: 1.0 + facts.requests_s * self.wake_mean_s(name) / 2 for name in WAKES_FROM}
        )
        self.gaps.floor_s = floor_s(self.ladder)
        self.periods.linger_s = break_even_s(self._extra_ladder[0], self._extra_ladder[-1])

    def _rungs(self, callers: Mapping[RungName, float]) -> Ladder:
        """The ladder at the prices of now; `callers` wait for a wake, or else as many as did."""
        # Near the end of a budget nobody's waiting is paid for: idle times get shorter.
        delay_usd_s = self.economics.delay_usd_s if self.allowance.stance == "normal" else 0.0
        offered = [name for name in self.economics.holds if name in self._offered]
        return self.economics.ladder(
            {name: self.wake_mean_s(name) for name in offered},
            lambda rung: delay_usd_s * callers.get(rung, self._bursts.callers(rung)),
        )

    def _sleep_wake_s(self, rung: RungName) -> float:
        return next((level.wake_s for level in self.economics.sleep if level.name == rung), 0.0)

    def _on_demand(self) -> Descent:
        """The descent while the model is placed on demand, whatever it is placed at."""
        if self._descent is None:
            self._descent = self._decide_descent()
        return self._descent

    def _decide_descent(self) -> Descent:
        facts, stance = self.economics, self.allowance.stance
        if not self.ladder:
            return Descent((), "is not started on demand")
        idle = facts.idle
        if stance == "saving" and isinstance(idle, float):
            idle = min(idle, break_even_s(self.ladder[0], self.ladder[-1]))
        if isinstance(idle, float):
            decided = fixed(self.ladder, idle)
        else:
            decided = descend(idle, self.ladder, self.gaps, self._learned)
        steps = tuple(
            (jittered(after_s, facts.jitter, facts.model, self.gaps.seen), rung)
            for after_s, rung in decided.steps
        )
        return Descent(steps, decided.reason)

    def _decide_prestart(self) -> Prestart | None:
        facts, steps = self.economics, self._on_demand().steps
        if not steps or steps[-1][1] != "off":
            return None
        delay_usd_s = facts.delay_usd_s * self._bursts.callers("off")
        prices = Prices(self.wake_mean_s("off"), facts.hold_usd_s, delay_usd_s)
        found = prestart(self.gaps, steps[-1][0], prices)
        if found is None or found.after_s > steps[-1][0]:
            return found
        # What would be stopped at that very moment is held instead, whatever comes first.
        after_s = max(found.after_s - SOONER_S, 0.0)
        return Prestart(after_s, found.after_s + found.hold_s - after_s, found.reason)

    def _begin_busy(self, now_s: float) -> None:
        self._busy_since_s, self._busy_requests = now_s, 0.0

    def _end_busy(self, now_s: float) -> None:
        length_s = max(now_s - self._busy_since_s, 0.0)
        instances = self.instances_for(self._busy_requests / max(length_s, RATE_OVER_S))
        self.periods.busy(length_s, instances)

    def _gap_ended(self, gap_s: float) -> None:
        if not self.ladder:
            return
        met = self.periods.gap(gap_s, self.ladder, self._on_demand().steps)
        if gap_s > self.gaps.floor_s and self.idle_since_s is not None:
            wakes_s = {rung.name: rung.wake_s for rung in self.ladder[1:]}
            if self._bursts.ended(self.idle_since_s, wakes_s):
                self._bursts.price()
                self._price_rungs()
        if met.name != "hot":
            period, callers = self.periods.now, self._bursts.callers(met.name)
            period.slow += callers
            period.delay_s += callers * met.wake_s
            period.longest_delay_s = max(period.longest_delay_s, self.eta_s(met.name, None))
        self._learn(gap_s)

    def _learn(self, gap_s: float) -> None:
        if gap_s > self.gaps.floor_s:
            self._learned.saw(self.ladder, self.gaps, gap_s)
            self.gaps.add(gap_s)
            self._descent = self._early = None


def _first_placement(economics: Economics) -> PlacementName:
    if economics.rules.pin is not None:
        return economics.rules.pin
    return "on_demand" if economics.has_cold or economics.api_usd is None else "api"
