"""Which models make room on a shared device: greedy-dual, as FaasCache has it (ASPLOS'21).

A device has a clock that only evictions move. A resident's priority is that clock at its last use,
plus how often it was used since it was loaded times what loading it again costs, by its size; the
lowest goes first, and the clock becomes the priority of who went. So what is used often, is dear to
load or is small stays, and what is not used any more ages as others go.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct

GIB = 2**30
REST_SHARE = 0.1


class Resident(Protocol):
    """A model's instance that could make room. Memory in bytes, times in seconds."""

    @property
    def instance_id(self) -> str: ...
    @property
    def memory(self) -> int: ...
    @property
    def host_memory(self) -> int: ...
    @property
    def frequency(self) -> int: ...  # requests since it was loaded
    @property
    def start_cost_s(self) -> float: ...
    @property
    def clock(self) -> float: ...  # the device's at its last use
    @property
    def idle_s(self) -> float | None: ...  # None: it serves
    @property
    def can_sleep(self) -> bool: ...


class Victim(Struct, frozen=True):
    """Who makes room, and where it goes: asleep with its weights in host memory, or off."""

    instance_id: str
    to: Literal["sleep_1", "off"]


def priority(resident: Resident) -> float:
    """The higher the longer it stays. In seconds of loading a GiB, and what the clock is worth."""
    size_gib = max(resident.memory, 1) / GIB
    return resident.clock + resident.frequency * resident.start_cost_s / size_gib


def rest_s(resident: Resident) -> float:
    """Seconds until an idle resident counts as out of use; 0 when it does, or serves.

    Between two requests of a busy model there are moments without any. To unload it in such a
    moment would cost it a start with its next request, so that the device would do nothing but
    load; a tenth of that start is waited first.
    """
    if resident.idle_s is None:
        return 0.0
    return max(REST_SHARE * resident.start_cost_s - resident.idle_s, 0.0)


def pick(residents: Sequence[Resident], needed: int, host_free: float = 0.0) -> tuple[Victim, ...]:
    """Who of `residents` goes so that `needed` bytes become free; nobody when that cannot be.

    Lowest priority first, idle ones before those that serve; who need not go after all, because
    a larger one that goes makes room enough, is spared. What can sleep does while `host_free`
    bytes of host memory last.
    """
    going: list[Resident] = []
    freed = 0
    for resident in sorted(residents, key=_order):
        if freed >= needed:
            break
        going.append(resident)
        freed += resident.memory
    if freed < needed:
        return ()
    for resident in reversed(list(going)):
        if freed - resident.memory >= needed:
            going.remove(resident)
            freed -= resident.memory
    victims = []
    for resident in going:
        asleep = resident.can_sleep and resident.host_memory <= host_free
        host_free -= resident.host_memory if asleep else 0
        victims.append(Victim(resident.instance_id, "sleep_1" if asleep else "off"))
    return tuple(victims)


def _order(resident: Resident) -> tuple[bool, float, float, str]:
    """Of equals the one that is idle longest."""
    serves = resident.idle_s is None
    return serves, priority(resident), -(resident.idle_s or 0.0), resident.instance_id
