"""Who was asked to make room on a device, what has come of it, and the clock of greedy-dual.

Decides nothing: whose memory is needed says `devices.py`, who of them goes the injected `Eviction`.
An eviction counts, and moves the clock, when the instance goes and not when it is asked.
"""

import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from backends.holding import Rung
from backends.instance import State
from backends.memory import Tenant
from backends.occupancy import Resident, resident

log = logging.getLogger("lamplighter.devices")

EVICTIONS_KEPT = 200
GRAIN_S = 0.001  # so much too early may a timer fire, and be wrong the sum of two times

Candidate = tuple[Tenant, Resident]


class Victim(Protocol):
    @property
    def instance_id(self) -> str: ...
    @property
    def to(self) -> Rung: ...


class Eviction(Protocol):
    """Decides who makes room; pure functions, as in `policies/eviction.py`."""

    def priority(self, resident: Resident, /) -> float: ...

    def rest_s(self, resident: Resident, /) -> float:
        """Seconds until an idle resident counts as out of use."""
        ...

    def pick(
        self, residents: Sequence[Resident], needed: int, host_free: float, /
    ) -> Sequence[Victim]:
        """Who goes, the first first; nobody when all of them would not be enough."""
        ...


class Evicted(Struct, frozen=True):
    """One eviction. `candidates` are all that might have made room when it was decided, each with
    its priority then; `priority` is that of the one who went, when it went.
    """

    number: int  # of those that were asked on this device, from 1
    at_s: float
    instance_id: str
    to: Rung
    in_favour_of: str
    served: bool  # it was in use, and had to end first
    priority: float
    candidates: tuple[tuple[Resident, float], ...]  # the lowest first


@dataclass(frozen=True)
class Asked:
    """Who was asked to make room and has not answered yet."""

    tenant: Tenant
    evicted: Evicted
    memory: int  # bytes

    @property
    def held_until_s(self) -> float:
        return self.tenant.held_until_s(self.tenant.instances[self.evicted.instance_id])


class Evictions:
    """Of one device."""

    def __init__(self, device: str, eviction: Eviction, clock: Callable[[], float]) -> None:
        self.clock = 0.0  # the highest priority of any that went
        self.last: deque[Evicted] = deque(maxlen=EVICTIONS_KEPT)
        self.counts: Counter[tuple[str, Rung]] = Counter()  # by model and where to
        self.policy = eviction
        self._asked: dict[str, Asked] = {}
        self._device = device
        self._now = clock
        self._numbers = itertools.count(1)

    def __contains__(self, instance_id: object) -> bool:
        return instance_id in self._asked

    def __bool__(self) -> bool:
        return bool(self._asked)

    @property
    def leaving(self) -> int:
        """Bytes of those that were idle, and go unless they are used in this very moment."""
        return sum(a.memory for a in self._asked.values() if not a.evicted.served)

    @property
    def yielding(self) -> int:
        """Bytes of those that end what they serve first, and may be told to stay."""
        return sum(a.memory for a in self.recallable())

    def recallable(self) -> list[Asked]:
        """Those that still serve, the one that is worth most first."""
        asked = [a for a in self._asked.values() if a.evicted.served]
        return sorted(asked, key=lambda a: -a.evicted.priority)

    def rests(self, resident: Resident) -> bool:
        return resident.doing == "idle" and self.policy.rest_s(resident) <= GRAIN_S

    def ask(
        self,
        candidates: Sequence[Candidate],
        needed: int,
        host_free: float,
        in_favour_of: str,
        *,
        in_use: bool = False,
    ) -> list[Asked]:
        """Ask as many to make room as it takes; nobody when all together are not enough.

        Nor when one of those whose turn it is was used a moment ago, unless they may be `in_use`:
        it is asked as soon as it rests, and no other that is worth more in its place.
        """
        by_id = {r.instance_id: (t, r) for t, r in candidates}
        victims = self.policy.pick([r for _, r in candidates], needed, host_free)
        if not in_use and not all(self.rests(by_id[v.instance_id][1]) for v in victims):
            return []
        priorities = {id: self.policy.priority(r) for id, (_, r) in by_id.items()}
        ordered = sorted(priorities.items(), key=lambda item: item[1])
        among = tuple((by_id[id][1], priority) for id, priority in ordered)
        asked = []
        for victim in victims:
            tenant, going = by_id[victim.instance_id]
            evicted = Evicted(
                number=next(self._numbers),
                at_s=self._now(),
                instance_id=victim.instance_id,
                to=victim.to,
                in_favour_of=in_favour_of,
                served=not self.rests(going),
                priority=priorities[victim.instance_id],
                candidates=among,
            )
            asked.append(Asked(tenant, evicted, going.memory))
            self._asked[victim.instance_id] = asked[-1]
            tenant.post(tenant.make_room, victim.instance_id, victim.to, evicted.served)
        return asked

    def went(self, instance_id: str, to: Rung) -> None:
        asked = self._asked.pop(instance_id, None)
        if asked is None:
            return
        instance = asked.tenant.instances[instance_id]
        going = resident(asked.tenant, instance, self._now())
        # One that still served may have been used once more, and to sleep one may have refused.
        evicted = replace(asked.evicted, to=to, priority=self.policy.priority(going))
        self.clock = max(self.clock, evicted.priority)
        self.last.append(evicted)
        self.counts[asked.tenant.model, to] += 1
        log.info(
            "device %s: %s makes room for %s, to %s (priority %.4g)",
            *(self._device, instance_id, evicted.in_favour_of, to, evicted.priority),
        )

    def stays(self, instance_id: str) -> None:
        self._asked.pop(instance_id, None)

    def forget(self, tenant: Tenant | None = None) -> None:
        """Those of a model; and those that will not answer, because they end by themselves."""
        for id, asked in list(self._asked.items()):
            instance = asked.tenant.instances.get(id)
            ready = instance is not None and instance.state is State.READY
            if asked.tenant is tenant or not ready:
                del self._asked[id]
