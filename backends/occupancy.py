"""Who is on a device and with how much: read from the instances themselves, so it cannot drift.

Owns no state. Instances take memory of the device from their launch or wake until they are asleep
or gone, and host memory while they sleep at level 1.
"""

import math
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from backends.instance import Instance, State
from backends.memory import Tenant

Doing = Literal["loads", "serves", "idle", "leaves", "asleep"]


class Resident(Struct, frozen=True):
    """An instance with its weights on the device. Memory in bytes, times in seconds."""

    model: str
    instance_id: str
    memory: int
    host_memory: int
    frequency: int  # requests since it was loaded
    start_cost_s: float
    clock: float  # the device's clock at its last use
    idle_s: float | None  # None while it serves or loads
    can_sleep: bool
    doing: Doing
    held_until_s: float
    owes: bool  # some still wait who waited for it when it was loaded


def loaded(instance: Instance) -> bool:
    """Whether its weights are, or may be, on the device."""
    if instance.state is State.SLEEPING:
        return instance.falling_to is not None
    if instance.state is State.DRAINING and instance.falling_to is None:
        return list(instance.reached)[-2:] != [State.SLEEPING, State.DRAINING]
    return True


def in_host(instance: Instance) -> bool:
    """Whether its weights are, or are being put, in host memory."""
    return "sleep_1" in (instance.rung, instance.falling_to)


def doing(tenant: Tenant, instance: Instance) -> Doing:
    if not loaded(instance):
        return "asleep"
    if instance.state in (State.SLEEPING, State.DRAINING):
        return "leaves"
    if instance.state is not State.READY:
        return "loads"
    # Who waits beside an idle instance had no luck there, and is let in again in a moment.
    return "idle" if instance.in_flight == 0 and tenant.oldest_s() is None else "serves"


def resident(tenant: Tenant, instance: Instance, now_s: float) -> Resident:
    does = doing(tenant, instance)
    oldest_s = tenant.oldest_s()
    return Resident(
        tenant.model,
        instance.id,
        tenant.settings.memory,
        tenant.settings.host_memory,
        instance.uses,
        tenant.start_cost_s(),
        instance.used_clock,
        now_s - instance.idle_since_s if does == "idle" else None,
        tenant.can_sleep(),
        does,
        tenant.held_until_s(instance),
        does == "serves" and oldest_s is not None and oldest_s <= instance.reached[State.READY],
    )


def residents(tenants: Iterable[Tenant], now_s: float) -> list[tuple[Tenant, Resident]]:
    """All that have memory of the device now."""
    return [
        (tenant, resident(tenant, instance, now_s))
        for tenant in tenants
        for instance in tenant.instances.values()
        if loaded(instance)
    ]


def memory_used(tenants: Iterable[Tenant]) -> int:
    return sum(t.settings.memory for t in tenants for i in t.instances.values() if loaded(i))


def memory_leaving(tenants: Iterable[Tenant]) -> int:
    """What becomes free without anybody being asked."""
    return sum(
        t.settings.memory for t in tenants for i in t.instances.values() if doing(t, i) == "leaves"
    )


def host_memory_used(tenants: Iterable[Tenant]) -> int:
    return sum(t.settings.host_memory for t in tenants for i in t.instances.values() if in_host(i))


def blocked_until_s(size: int, tenant: Tenant, tenants: Iterable[Tenant], now_s: float) -> float:
    """Until when what others hold leaves too little for a model; the past when it does not."""
    holds = [
        (r.held_until_s, r.memory)
        for t, r in residents(tenants, now_s)
        if t is not tenant and r.doing != "leaves" and r.held_until_s > now_s
    ]
    left = size - sum(memory for _, memory in holds)
    for until_s, memory in [(-math.inf, 0), *sorted(holds)]:
        left += memory
        if tenant.settings.memory <= left:
            return until_s
    return math.inf


def shortage(
    device: str, size: int, tenant: Tenant, tenants: Iterable[Tenant], now_s: float
) -> str:
    """Why a model has no memory, for people: the device, its size and who has it."""
    others = [r for t, r in residents(tenants, now_s) if t is not tenant]
    there = ", ".join(f"{r.instance_id} has {_size(r.memory)}, {_how(r, now_s)}" for r in others)
    needed = _size(tenant.settings.memory)
    return f"needs {needed} of the {_size(size)} of device '{device}'" + (there and f": {there}")


def _how(resident: Resident, now_s: float) -> str:
    if resident.held_until_s > now_s:
        return "held ready"
    return _WORDS[resident.doing]


_WORDS: dict[Doing, str] = {
    "loads": "loading",
    "serves": "in use",
    "idle": "idle",
    "leaves": "leaving",
    "asleep": "asleep",
}


def _size(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"
