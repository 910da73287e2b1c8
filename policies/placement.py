"""Which way of serving a model is held ready: always on, on demand, or the outside API.

Decided every few minutes over what was measured, with hysteresis and a shortest stay, because a
change costs a start and a wrong one costs an hour.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

PlacementName = Literal["always_on", "on_demand", "api"]


class Prospect(Struct, frozen=True):
    """What one placement would cost at the measured demand, and how long its callers would wait.

    `usd_per_hour` is the bill; `delay_usd_per_hour` the worth of its callers' waiting.
    """

    usd_per_hour: float
    delay_usd_per_hour: float = 0.0
    p99_wait_s: float = 0.0

    @property
    def total_usd_per_hour(self) -> float:
        return self.usd_per_hour + self.delay_usd_per_hour


class Placement(Struct, frozen=True):
    """A choice. `since_s` is when the model came to it."""

    name: PlacementName
    since_s: float
    reason: str


class Rules(Struct, frozen=True):
    """What the configuration says of placement. Times in seconds, rates in requests per second."""

    pin: PlacementName | None
    by_qps: bool
    hot_above_qps: float
    cold_below_qps: float
    p99_wait_s: float
    hysteresis: float
    dwell_s: float


def place(
    now: Placement,
    now_s: float,
    prospects: Mapping[PlacementName, Prospect],
    qps: float,
    rules: Rules,
) -> Placement:
    """The placement from now on; `prospects` has the ones that the model can have."""
    if rules.pin is not None:
        return _move(now, now_s, rules.pin, "pinned by the configuration")
    if rules.by_qps:
        return _by_qps(now, now_s, prospects, qps, rules)
    return _by_money(now, now_s, prospects, rules)


def _move(now: Placement, now_s: float, to: PlacementName, reason: str) -> Placement:
    return Placement(to, now.since_s if to == now.name else now_s, reason)


def _by_qps(
    now: Placement,
    now_s: float,
    prospects: Mapping[PlacementName, Prospect],
    qps: float,
    rules: Rules,
) -> Placement:
    """The rule that people write by hand; between the two rates everything stays."""
    if qps > rules.hot_above_qps and "always_on" in prospects:
        reason = f"{qps:.3g} requests/s, over {rules.hot_above_qps:g}"
        return _move(now, now_s, "always_on", reason)
    if qps < rules.cold_below_qps and "on_demand" in prospects:
        reason = f"{qps:.3g} requests/s, below {rules.cold_below_qps:g}"
        return _move(now, now_s, "on_demand", reason)
    return _move(now, now_s, now.name, f"{qps:.3g} requests/s, between the two rates")


def _by_money(
    now: Placement, now_s: float, prospects: Mapping[PlacementName, Prospect], rules: Rules
) -> Placement:
    """The cheapest that meets the class; the fastest when none does."""
    if not prospects:
        return now
    meeting = {n: p for n, p in prospects.items() if p.p99_wait_s <= rules.p99_wait_s}
    if not meeting:
        fastest = min(prospects, key=lambda n: prospects[n].p99_wait_s)
        reason = f"none keeps the p99 wait below {rules.p99_wait_s:g} s, this one waits least"
        return _move(now, now_s, fastest, reason)
    best = min(meeting, key=lambda n: meeting[n].total_usd_per_hour)
    costs = ", ".join(f"{n} {p.total_usd_per_hour:.3g}" for n, p in sorted(prospects.items()))
    reason = f"USD an hour, delay included: {costs}"
    if best == now.name or now.name not in meeting:
        return _move(now, now_s, best, reason)
    if now_s - now.since_s < rules.dwell_s:
        return _move(now, now_s, now.name, f"{reason}; it came here less than {rules.dwell_s:g} s")
    saved = meeting[now.name].total_usd_per_hour - meeting[best].total_usd_per_hour
    if saved <= rules.hysteresis * meeting[now.name].total_usd_per_hour:
        return _move(now, now_s, now.name, f"{reason}; not worth a change")
    return _move(now, now_s, best, reason)
