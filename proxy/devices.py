"""Devices that models share, as JSON in /admin/devices and as metrics. Read, never kept."""

import math
from collections import Counter
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from backends.devices import Device
from backends.evictions import Evicted
from backends.fleet import Fleet
from backends.memory import Tenant
from backends.occupancy import Doing, Resident, in_host

STATES: tuple[Doing, ...] = ("loads", "serves", "idle", "leaves")


def device_state(device: Device, now_s: float) -> dict[str, Any]:
    """All that an operator may want to know of a device. Memory in bytes, times in seconds."""
    limits = device.limits
    return {
        "device": device.name,
        "memory": limits.memory,
        "used": device.used,
        "host_memory": None if math.isinf(limits.host_memory) else limits.host_memory,
        "host_used": device.host_used,
        "max_wait_s": limits.max_wait_s,
        "clock": device.clock,
        "residents": [_resident(device, r, now_s) for r in device.residents],
        "asleep": [
            {"instance": i.id, "model": t.model, "host_memory": t.settings.host_memory}
            for t in device.tenants
            for i in t.instances.values()
            if in_host(i)
        ],
        "waiting": [_waiting(device, t, since_s, now_s) for t, since_s in device.waiting],
        "evictions": [_eviction(e, now_s) for e in device.evictions.last],
    }


def _resident(device: Device, resident: Resident, now_s: float) -> dict[str, Any]:
    return {
        **_candidate(resident, device.evictions.policy.priority(resident)),
        "model": resident.model,
        "doing": resident.doing,
        "idle_s": resident.idle_s,
        "held": resident.held_until_s > now_s,
        "makes_room": resident.instance_id in device.evictions,
    }


def _candidate(resident: Resident, priority: float) -> dict[str, Any]:
    return {
        "instance": resident.instance_id,
        "memory": resident.memory,
        "requests": resident.frequency,
        "start_s": resident.start_cost_s,
        "clock": resident.clock,
        "priority": priority,
    }


def _waiting(device: Device, tenant: Tenant, since_s: float, now_s: float) -> dict[str, Any]:
    shortage = device.shortage(tenant)
    return {
        "model": tenant.model,
        "memory": tenant.settings.memory,
        "for_s": now_s - since_s,
        "turn_in_s": shortage[1] if shortage is not None else 0.0,
    }


def _eviction(evicted: Evicted, now_s: float) -> dict[str, Any]:
    return {
        "number": evicted.number,
        "ago_s": now_s - evicted.at_s,
        "instance": evicted.instance_id,
        "to": evicted.to,
        "in_favour_of": evicted.in_favour_of,
        "served": evicted.served,
        "priority": evicted.priority,
        "candidates": [_candidate(r, priority) for r, priority in evicted.candidates],
    }


class DeviceGauges:
    """What is on the devices when somebody asks, and how often models had to make room."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        memory = GaugeMetricFamily(
            "lamplighter_device_memory_bytes",
            "Memory of a shared device by what its models do; asleep is host memory",
            labels=["device", "state"],
        )
        evictions = CounterMetricFamily(
            "lamplighter_evictions",
            "Instances that made room for another model, and where to",
            labels=["model", "to"],
        )
        counts: Counter[tuple[str, str]] = Counter()
        for device in self._fleet.devices().values():
            taken = dict.fromkeys(STATES, 0)
            for resident in device.residents:
                taken[resident.doing] += resident.memory
            taken["loads"] += device.granted
            for state, size in taken.items():
                memory.add_metric([device.name, state], size)
            memory.add_metric([device.name, "free"], max(device.free, 0))
            memory.add_metric([device.name, "asleep"], device.host_used)
            counts.update(device.evictions.counts)
        for (model, to), count in counts.items():
            evictions.add_metric([model, to], count)
        return [memory, evictions]
