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


class _Wish(Struct, frozen=True):
    """Where a rule would have the model; `urgent`: before its shortest stay is over."""

    name: PlacementName
    reason: str
    urgent: bool = False


def place(
    now: Placement,
    now_s: float,
    prospects: Mapping[PlacementName, Prospect],
    qps: float,
    rules: Rules,
) -> Placement:
    """The placement from now on; `prospects` has the ones that the model can have."""
    if rules.pin is not None:
        wish = _Wish(rules.pin, "pinned by the configuration", urgent=True)
    elif rules.by_qps:
        wish = _by_qps(now.name, prospects, qps, rules)
    elif prospects:
        wish = _by_money(now.name, prospects, rules)
    else:
        return now
    if wish.name == now.name:
        return Placement(now.name, now.since_s, wish.reason)
    if now_s - now.since_s < rules.dwell_s and not wish.urgent:
        early = f"it came here less than {rules.dwell_s:g} s ago"
        return Placement(now.name, now.since_s, f"{wish.reason}; {early}")
    return Placement(wish.name, now_s, wish.reason)


def _by_qps(
    now: PlacementName, prospects: Mapping[PlacementName, Prospect], qps: float, rules: Rules
) -> _Wish:
    """The rule that people write by hand; between the two rates everything stays."""
    if qps > rules.hot_above_qps and "always_on" in prospects:
        return _Wish("always_on", f"{qps:.3g} requests/s, over {rules.hot_above_qps:g}")
    if qps < rules.cold_below_qps and "on_demand" in prospects:
        return _Wish("on_demand", f"{qps:.3g} requests/s, below {rules.cold_below_qps:g}")
    return _Wish(now, f"{qps:.3g} requests/s, between the two rates")


def _by_money(
    now: PlacementName, prospects: Mapping[PlacementName, Prospect], rules: Rules
) -> _Wish:
    """The cheapest that meets the class; the one that waits least when none does."""
    meeting = {n: p for n, p in prospects.items() if p.p99_wait_s <= rules.p99_wait_s}
    if not meeting:
        fastest = min(prospects, key=lambda n: prospects[n].p99_wait_s)
        reason = f"none keeps the p99 wait below {rules.p99_wait_s:g} s, this one waits least"
        return _Wish(fastest, reason, urgent=now not in prospects)
    best = min(meeting, key=lambda n: meeting[n].total_usd_per_hour)
    costs = ", ".join(f"{n} {p.total_usd_per_hour:.3g}" for n, p in sorted(prospects.items()))
    reason = f"USD an hour, delay included: {costs}"
    if now not in meeting:
        return _Wish(best, f"{reason}; {now} does not keep the p99 wait", urgent=True)
    costs_usd = meeting[now].total_usd_per_hour
    if costs_usd - meeting[best].total_usd_per_hour <= rules.hysteresis * costs_usd:
        return _Wish(now, reason if best == now else f"{reason}; not worth a change")
    return _Wish(best, reason)
