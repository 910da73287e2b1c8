"""What was spent, in USD by model, kind and UTC day: integrals that change only at transitions.

No clock and no I/O: `now_s` is seconds of the router's clock, and `settle` says which time of
day that is. Sums are whole picodollars, so that a million small amounts lose nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from msgspec import Struct

Kind = Literal["holding", "starting", "serving", "api"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PICO = 10**12  # picodollars in a dollar
DAYS_KEPT = 31
_HOUR_S = 3600.0
_DAY_S = 86400.0

_STARTING = frozenset({"provisioning", "loading", "warming", "waking"})
_GONE = frozenset({"off", "failed"})


class Rates(Struct, frozen=True):
    """What a model's servers cost, USD per hour.

    `instance` is one started server, `asleep` the share of it by rung of the ladder, `always_on`
    the whole always-on pool.
    """

    instance: float = 0.0
    asleep: Mapping[str, float] = {}
    always_on: float = 0.0


class Amount(Struct, frozen=True):
    """Spent in one UTC day, counted in days since the epoch."""

    day: int
    model: str
    kind: Kind
    pico: int


@dataclass(slots=True)
class _Meter:
    """Something that costs by the hour; `state` and `rung` are those of an instance."""

    model: str
    since_s: float
    state: str
    rung: str = "hot"
    busy: bool = False


class Spend:
    """All models of one gateway."""

    def __init__(self, now_s: float, epoch_s: float) -> None:
        self._offset_s = epoch_s - now_s
        self.today = self._day(now_s)  # in days since the epoch, as of the last `settle`
        self._rates: dict[str, Rates] = {}
        self._pools: dict[str, _Meter] = {}
        self._instances: dict[str, _Meter] = {}
        self._days: dict[int, dict[tuple[str, Kind], int]] = {}
        self._by_model: dict[tuple[int, str | None], int] = {}  # by day; None: all models
        self._totals: dict[tuple[str, Kind], int] = {}
        self._unsaved: dict[tuple[int, str, Kind], int] = {}

    # --- what happens ---------------------------------------------------------------------------

    def follow(self, rates: Mapping[str, Rates], now_s: float) -> None:
        """What servers cost from now on. One whose model is gone costs on as it did."""
        for meter in self._meters():
            self._read(meter, now_s)
        self._rates = {**self._rates, **rates}
        self._pools = {
            model: _Meter(model, now_s, "always_on")
            for model, found in rates.items()
            if found.always_on
        }

    def instance_changed(
        self, model: str, instance_id: str, state: str, rung: str, now_s: float
    ) -> None:
        """An instance entered a state; `rung` counts while it sleeps."""
        meter = self._instances.get(instance_id)
        if meter is None:
            if state not in _GONE:
                self._instances[instance_id] = _Meter(model, now_s, state, rung)
            return
        self._read(meter, now_s)
        meter.state, meter.rung = state, rung
        if state in _GONE:
            del self._instances[instance_id]

    def busy(self, instance_id: str, busy: bool, now_s: float) -> None:
        """An instance got its first request, or gave back the last one that it had."""
        meter = self._instances.get(instance_id)
        if meter is not None and meter.busy is not busy:
            self._read(meter, now_s)
            meter.busy = busy

    def api(self, model: str, pico: int, now_s: float) -> None:
        """An outside API charged so many picodollars."""
        self._charge(self._day(now_s), model, "api", pico)

    def settle(self, now_s: float, epoch_s: float) -> None:
        """Count all up to now. `epoch_s` is the same moment on the wall's clock."""
        self._offset_s = epoch_s - now_s
        for meter in self._meters():
            self._read(meter, now_s)
        self.today = self._day(now_s)
        for day in [day for day in self._days if day <= self.today - DAYS_KEPT]:
            del self._days[day]
            self._by_model = {key: pico for key, pico in self._by_model.items() if key[0] != day}

    # --- what came of it ------------------------------------------------------------------------

    def today_usd(self, model: str | None = None) -> float:
        """Spent since 00:00 UTC by one model, or by all together; as of what was settled last."""
        return self._by_model.get((self.today, model), 0) / PICO

    def day_usd(self, day: int) -> dict[str, dict[Kind, float]]:
        """By model and kind; `day` is counted since the epoch."""
        found: dict[str, dict[Kind, float]] = {}
        for (model, kind), pico in sorted(self._days.get(day, {}).items()):
            found.setdefault(model, dict.fromkeys(KINDS, 0.0))[kind] = pico / PICO
        return found

    @property
    def days(self) -> list[int]:
        """Those of the last month in which something was spent."""
        return sorted(self._days)

    def totals_usd(self) -> dict[tuple[str, Kind], float]:
        """By model and kind, since the process began."""
        return {key: pico / PICO for key, pico in self._totals.items()}

    def restore(self, amounts: Iterable[Amount]) -> None:
        """Add what an earlier process spent."""
        for amount in amounts:
            self._add(amount.day, amount.model, amount.kind, amount.pico)

    def take_unsaved(self) -> list[Amount]:
        """What was added since this was asked last."""
        taken = [Amount(*key, pico) for key, pico in self._unsaved.items()]
        self._unsaved.clear()
        return taken

    # --- counting -------------------------------------------------------------------------------

    def _meters(self) -> list[_Meter]:
        return [*self._pools.values(), *self._instances.values()]

    def _read(self, meter: _Meter, now_s: float) -> None:
        """Charge what the meter has run since it was read last, each day its part."""
        kind, usd_per_hour = self._price(meter)
        from_s, meter.since_s = meter.since_s, max(now_s, meter.since_s)
        if not usd_per_hour:
            return
        while from_s < now_s:
            day = self._day(from_s)
            until_s = min(now_s, (day + 1) * _DAY_S - self._offset_s)
            if until_s <= from_s:  # it is midnight, which a float is too coarse to tell
                day, until_s = day + 1, min(now_s, from_s + _DAY_S)
            pico = round(usd_per_hour * (until_s - from_s) / _HOUR_S * PICO)
            self._charge(day, meter.model, kind, pico)
            from_s = until_s

    def _price(self, meter: _Meter) -> tuple[Kind, float]:
        """What it costs now, USD per hour."""
        rates = self._rates.get(meter.model, _FREE)
        if meter.state == "always_on":
            return "holding", rates.always_on
        if meter.state in _STARTING:
            return "starting", rates.instance
        if meter.state == "sleeping":
            return "holding", rates.instance * rates.asleep.get(meter.rung, 1.0)
        return "serving" if meter.busy else "holding", rates.instance

    def _charge(self, day: int, model: str, kind: Kind, pico: int) -> None:
        if not pico:
            return
        self._add(day, model, kind, pico)
        self._totals[model, kind] = self._totals.get((model, kind), 0) + pico
        key = (day, model, kind)
        self._unsaved[key] = self._unsaved.get(key, 0) + pico

    def _add(self, day: int, model: str, kind: Kind, pico: int) -> None:
        amounts = self._days.setdefault(day, {})
        amounts[model, kind] = amounts.get((model, kind), 0) + pico
        for whose in (model, None):
            self._by_model[day, whose] = self._by_model.get((day, whose), 0) + pico

    def _day(self, now_s: float) -> int:
        return int((now_s + self._offset_s) // _DAY_S)


_FREE = Rates()
