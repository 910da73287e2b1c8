"""Where one request goes: the always-on pool, an instance started on demand, or an outside API.

One pure function, `choose`. It prefers what is already paid for; deciding by money replaces its
body, not its callers.
"""

from functools import lru_cache
from typing import Literal

from msgspec import Struct

Kind = Literal["hot", "cold", "api"]


class HotState(Struct, frozen=True):
    """A hot pool now: healthy endpoints, and free places among them (`inf` without a limit)."""

    healthy: int
    free: float


class ColdState(Struct, frozen=True):
    """A cold model now. `refusing_for_s` > 0 after a start that failed for good."""

    ready: int
    free: float
    starting: bool
    refusing_for_s: float


class Step(Struct, frozen=True):
    """One place to ask for a lease, and why. `wait` says whether to queue there for room."""

    kind: Kind
    wait: bool
    reason: str


def choose(
    hot: HotState | None, cold: ColdState | None, api_healthy: bool | None
) -> tuple[Step, ...]:
    """The places to try, in order; None stands for what the model does not have.

    Empty when nothing can answer: then no endpoint is healthy and nothing can be started.
    """
    steps: list[Step] = []
    if hot is not None and hot.free >= 1:
        steps.append(_hot_with_room(hot.healthy))
    if cold is not None and cold.refusing_for_s <= 0:
        steps.append(Step("cold", True, _why_cold(hot, cold)))
    if api_healthy:
        steps.append(Step("api", False, _why_api(hot, cold)))
    if hot is not None and hot.free < 1 and hot.healthy:
        steps.append(Step("hot", True, "every always-on endpoint is full: wait for a place"))
    if not steps and cold is not None:
        steps.append(Step("cold", True, "its last start failed: ask it for the reason"))
    return tuple(steps)


@lru_cache(maxsize=1024)  # what nearly every request gets
def _hot_with_room(healthy: int) -> Step:
    return Step("hot", False, f"{healthy} healthy always-on endpoint(s) with room")


def _why_cold(hot: HotState | None, cold: ColdState) -> str:
    instead = ""
    if hot is not None:
        instead = "always-on endpoints are full: " if hot.healthy else "no always-on endpoint: "
    if cold.free >= 1:
        return f"{instead}{cold.ready} instance(s) ready with room"
    if cold.starting:
        return f"{instead}an instance is starting"
    return f"{instead}{'instances are full' if cold.ready else 'off: start an instance'}"


def _why_api(hot: HotState | None, cold: ColdState | None) -> str:
    if hot is None and cold is None:
        return "only an outside API is configured"
    return "overflow to the outside API when nothing of our own can answer"
