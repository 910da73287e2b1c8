"""Fake models that share one device, and how it looks from outside."""

from typing import Any

from tests.cold.scenes import cold
from tests.gateway import GatewayProcess

NAMES = ("one", "two", "three", "four")
ROOM_FOR_TWO = {"gpu0": {"memory": "32GiB", "max_wait": "1s"}}


def on_device(*options: str, **more: Any) -> dict[str, Any]:
    placement = more.pop("placement", None)
    model = cold(*options, **{"device": "gpu0", "memory": "16GiB", **more})
    return {**model, "placement": placement} if placement else model


def device(gateway: GatewayProcess, name: str = "gpu0") -> dict[str, Any]:
    found = gateway.admin("GET", "/devices").json()["devices"]
    return next(d for d in found if d["device"] == name)


def residents(gateway: GatewayProcess) -> set[str]:
    """Models that have memory of the device now."""
    return {r["model"] for r in device(gateway)["residents"]}


def evicted(gateway: GatewayProcess) -> list[str]:
    """Models that had to make room so far, in order."""
    return [e["instance"].split("@")[0] for e in device(gateway)["evictions"]]
