"""One device that models share: whose instances have its memory, who waits for it, who makes room.

Synchronous, with time and effects injected. A model asks before it launches or wakes (`take`).
What does not fit waits, and is looked at whenever something has changed (`poke`), in a turn of its
own and never in the middle of a model's event; what is decided reaches models as events, and each
looks again whether it still holds. Rules:

- Memory is never given twice: what instances have is read from them, grants that are not used yet
  are kept beside it.
- First come first served, but what fits beside waits for nobody.
- Idle instances make room at once, in the order that the injected `Eviction` gives. None that
  serves, loads, wakes or is held does.
- When those that serve have all of it, the one who waits longest has its turn after `max_wait`:
  others are told to take nothing new, end what they have and make room. There is one turn in each
  `max_wait`, only for a model that is not served at all, and never at the cost of one that still
  owes those who waited for it when it was loaded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from backends.evictions import Candidate, Eviction, Evictions
from backends.holding import Rung
from backends.memory import Tenant
from backends.occupancy import (
    Resident,
    blocked_until_s,
    doing,
    host_memory_used,
    memory_leaving,
    memory_used,
    residents,
    shortage,
)


@dataclass(frozen=True)
class Limits:
    """Of one device; bytes and seconds."""

    memory: int
    host_memory: float  # `inf` without a limit
    max_wait_s: float


@dataclass
class Budget:
    """What one look at the device may still give away, in bytes."""

    free: int
    leaving: int  # comes for certain
    yielding: int  # comes unless it is taken back

    @property
    def all(self) -> int:
        return self.free + self.leaving + self.yielding

    def reserve(self, needed: int) -> None:
        """Take what is there, what is certain first."""
        for source in ("free", "leaving", "yielding"):
            taken = min(needed, max(getattr(self, source), 0))
            setattr(self, source, getattr(self, source) - taken)
            needed -= taken


class Device:
    """Satisfies `Memory` for every model on it."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        eviction: Eviction,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.name = name
        self.limits = limits
        self.evictions = Evictions(name, eviction, clock)
        self._now = clock
        self._call_later = call_later
        self._tenants: list[Tenant] = []
        self._wants: dict[Tenant, float] = {}  # since when
        self._granted: dict[Tenant, int] = {}  # bytes that are theirs and not used yet
        self._turn_s = -math.inf  # when somebody who served was last told to make room
        self._calm = True  # nobody wants anything
        self._poked = False
        self._timer_s = math.inf

    @property
    def clock(self) -> float:
        """Greedy-dual's, not one of seconds."""
        return self.evictions.clock

    # --- for the models ------------------------------------------------------------------------

    def join(self, tenant: Tenant) -> None:
        self._tenants.append(tenant)
        self.look_again()

    def leave(self, tenant: Tenant) -> None:
        self._tenants.remove(tenant)
        self._wants.pop(tenant, None)
        self._granted.pop(tenant, None)
        self.evictions.forget(tenant)
        self.look_again()

    def resize(self, limits: Limits) -> None:
        self.limits = limits
        self.look_again()

    def take(self, tenant: Tenant) -> bool:
        if self._granted.pop(tenant, None) is not None or self.has_room(tenant):
            return True
        self._wants.setdefault(tenant, self._now())
        self.look_again()
        return False

    def hand_back(self, tenant: Tenant) -> None:
        if self._granted.pop(tenant, None) is not None:
            self.poke()

    def has_room(self, tenant: Tenant) -> bool:
        return not self._wants and tenant.settings.memory <= self.free

    def may_sleep(self, tenant: Tenant) -> bool:
        return tenant.settings.host_memory <= self.host_free

    def goes(self, instance_id: str, to: Rung) -> None:
        self.evictions.went(instance_id, to)
        self.poke()

    def stays(self, instance_id: str) -> None:
        self.evictions.stays(instance_id)
        self.poke()

    def poke(self) -> None:
        """Look, once those events are through that happen now."""
        if not self._calm and not self._poked:
            self._poked = True
            self._call_later(0.0, self._poked_now)

    def look_again(self) -> None:
        self._calm = False
        self.poke()

    def _poked_now(self) -> None:
        self._poked = False
        self._settle()

    # --- what is there ---------------------------------------------------------------------------

    @property
    def used(self) -> int:
        return memory_used(self._tenants) + self.granted

    @property
    def granted(self) -> int:
        """Bytes for launches and wakes that begin in a moment."""
        return sum(self._granted.values())

    @property
    def free(self) -> int:
        """Below zero after the device was made smaller."""
        return self.limits.memory - self.used

    @property
    def host_used(self) -> int:
        return host_memory_used(self._tenants)

    @property
    def host_free(self) -> float:
        return self.limits.host_memory - self.host_used

    @property
    def tenants(self) -> list[Tenant]:
        return list(self._tenants)

    @property
    def residents(self) -> list[Resident]:
        return [each for _, each in residents(self._tenants, self._now())]

    @property
    def waiting(self) -> list[tuple[Tenant, float]]:
        """Models that wait for memory, and since when; the first first."""
        wanting = [(t, self._since_s(t)) for t in self._wants if t.wants_room()]
        return sorted(wanting, key=lambda want: want[1])

    def shortage(self, tenant: Tenant) -> tuple[str, float] | None:
        """What a model waits for, in words, and the seconds until its turn; None: for nothing."""
        if tenant not in self._wants:
            return None
        why = shortage(self.name, self.limits.memory, tenant, self._tenants, self._now())
        return why, max(self._turn_at(tenant) - self._now(), 0.0)

    # --- one look at it --------------------------------------------------------------------------

    def _settle(self) -> None:
        self.evictions.forget()
        for tenant in [t for t in self._wants if not t.wants_room()]:
            del self._wants[tenant]  # whoever wanted it has left
        leaving = memory_leaving(self._tenants) + self.evictions.leaving
        budget = Budget(self.free, leaving, self.evictions.yielding)
        self._shrink(budget)
        unserved: list[Tenant] = []
        for tenant, _ in self.waiting:
            if self._blocked(tenant):
                continue
            if not self._serve(tenant, budget, may_evict=not self._overdue(unserved)):
                unserved.append(tenant)
        self._recall(budget)
        self._calm = not (self._wants or self.evictions or self.free < 0)
        self._look_when_due(unserved)

    def _serve(self, tenant: Tenant, budget: Budget, *, may_evict: bool) -> bool:
        """Give a model its memory, or see that it comes; False when neither can be yet."""
        needed = tenant.settings.memory
        if needed <= budget.free:
            budget.free -= needed
            self._grant(tenant)
            return True
        missing = needed - budget.all
        if missing > 0 and may_evict:
            missing -= self._evict(tenant, missing, budget)
        if missing <= 0 or self._overdue([tenant]):
            budget.reserve(needed)  # nobody who came later takes it away
        return missing <= 0

    def _grant(self, tenant: Tenant) -> None:
        del self._wants[tenant]
        self._granted[tenant] = tenant.settings.memory
        tenant.post(tenant.room_made)

    def _evict(self, tenant: Tenant, missing: int, budget: Budget) -> int:
        """Ask others to make room; how many bytes that will be, 0 when it would not be enough."""
        movable = self._movable()
        idle = [(t, r) for t, r in movable if r.doing == "idle"]
        asked = self.evictions.ask(idle, missing, self.host_free, tenant.model)
        if not asked and self._may_have_turn(tenant) and self._now() >= self._turn_at(tenant):
            asked = self.evictions.ask(movable, missing, self.host_free, tenant.model, in_use=True)
            if asked:
                self._turn_s = self._now()
        leaving = sum(a.memory for a in asked if not a.evicted.served)
        yielding = sum(a.memory for a in asked if a.evicted.served)
        budget.leaving += leaving
        budget.yielding += yielding
        return leaving + yielding

    def _movable(self) -> list[Candidate]:
        """Those that might make room; its own too, when one is asked for that sleeps."""
        now_s = self._now()
        return [
            (t, r)
            for t, r in residents(self._tenants, now_s)
            if r.doing in ("idle", "serves")
            and r.held_until_s <= now_s
            and not r.owes
            and r.instance_id not in self.evictions
        ]

    def _shrink(self, budget: Budget) -> None:
        """The device was made smaller than what is on it: idle ones go, as far as need be."""
        missing = -budget.all
        if missing > 0:
            idle = [(t, r) for t, r in self._movable() if self.evictions.rests(r)]
            enough = min(missing, sum(r.memory for _, r in idle))
            if enough:
                asked = self.evictions.ask(idle, enough, self.host_free, "its new size")
                budget.leaving += sum(a.memory for a in asked)
        short, budget.free = max(-budget.free, 0), max(budget.free, 0)
        budget.reserve(short)

    def _recall(self, budget: Budget) -> None:
        """Those who were to make room for somebody who left go on; held ones do in any case."""
        for each in self.evictions.recallable():
            held = each.held_until_s > self._now()
            if held or each.memory <= budget.yielding:
                budget.yielding -= 0 if held else each.memory
                each.tenant.post(each.tenant.keep, each.evicted.instance_id)

    def _blocked(self, tenant: Tenant) -> bool:
        """Whether what others hold leaves too little for it; then those hear it who wait."""
        until_s = blocked_until_s(self.limits.memory, tenant, self._tenants, self._now())
        if until_s <= self._now():
            return False
        why = shortage(self.name, self.limits.memory, tenant, self._tenants, self._now())
        tenant.post(tenant.no_room, why, until_s)
        self._look_at(until_s)
        return True

    # --- whose turn it is ------------------------------------------------------------------------

    def _since_s(self, tenant: Tenant) -> float:
        oldest_s = tenant.oldest_s()
        return self._wants[tenant] if oldest_s is None else oldest_s

    def _turn_at(self, tenant: Tenant) -> float:
        """The time from which others make room for it though they serve."""
        return max(self._since_s(tenant), self._turn_s) + self.limits.max_wait_s

    def _may_have_turn(self, tenant: Tenant) -> bool:
        """One more instance of a model that is served already is not worth another's only one,
        and neither is one that nobody asked for yet.
        """
        doings = {doing(tenant, i) for i in tenant.instances.values()}
        return tenant.is_owed() and not doings & {"loads", "serves", "idle"}

    def _overdue(self, tenants: list[Tenant]) -> bool:
        """Whether one of them waits for so long that those who came later stand back."""
        now_s, max_wait_s = self._now(), self.limits.max_wait_s
        return any(
            self._may_have_turn(t) and now_s >= self._since_s(t) + max_wait_s for t in tenants
        )

    def _look_when_due(self, unserved: list[Tenant]) -> None:
        """Nothing may happen by itself before a turn comes, or before an idle one rests."""
        if not unserved and self.free >= 0:
            return
        now_s = self._now()
        due_s = [self._turn_at(t) for t in unserved if self._may_have_turn(t)]
        idle = [r for r in self.residents if r.doing == "idle"]
        due_s += [now_s + self.evictions.policy.rest_s(r) for r in idle]
        self._look_at(min((at_s for at_s in due_s if at_s > now_s), default=math.inf))

    def _look_at(self, at_s: float) -> None:
        if at_s < self._timer_s:
            self._timer_s = at_s
            self._call_later(max(at_s - self._now(), 0.0), partial(self._due, at_s))

    def _due(self, at_s: float) -> None:
        if at_s == self._timer_s:  # else an earlier look has taken its place
            self._timer_s = math.inf
            self._settle()
