"""A trace of rates: for each client and window how many requests came, and how bunched they were.

The shape of ServeGen's published rates. Every client is taken as a model of its own. Windows of at
most `DRAWN_UP_TO_RPS` are drawn into requests, busier ones into spells (`arrivals.py`), by a seed
that depends on the client alone, so that one client is drawn the same in any company.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from router.replay.arrivals import Family, Form, draw, spells
from router.replay.columns import TraceError, number
from router.replay.requests import Requests
from router.replay.traces import MONDAY_S, Table, open_text, refuse_ages, table_of

DRAWN_UP_TO_RPS = 1.0
MOST_RPS = 1e6  # of one client: no number of requests beyond can be drawn
UNKNOWN_WINDOW_S = 600.0
_FAMILIES: Mapping[str, Family] = {
    "g": "gamma",
    "gamma": "gamma",
    "w": "weibull",
    "weibull": "weibull",
    "e": "gamma",
    "exponential": "gamma",
    "poisson": "gamma",
}


@dataclass(frozen=True, slots=True)
class Window:
    begin_s: float
    rate_rps: float
    form: Form


@dataclass(frozen=True, slots=True)
class Tokens:
    """Means per request; None where nobody knows."""

    input: float | None
    output: float | None


@dataclass(frozen=True)
class RateTrace:
    """Satisfies `Trace`. `lengths_s` is by model as the trace names it, `windows` by client."""

    windows: dict[str, list[Window]]
    lengths_s: dict[str, float]
    tokens: dict[str, Tokens]
    width_s: float
    seed: int
    notes: tuple[str, ...]
    drawn_up_to_rps: float = DRAWN_UP_TO_RPS
    epoch_s: float = MONDAY_S
    starts_s: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.windows)

    def end_s(self, model: str) -> float:
        return self.lengths_s[_source(model)]

    def requests(self, model: str, floor_s: float) -> Requests:
        rng = Random(f"{self.seed}/{model}")
        tokens = self._tokens(model)
        out = Requests(input_tokens=tokens.input or 0.0, output_tokens=tokens.output or 0.0)
        until_s, counts = array("d"), array("d")
        for window in self.windows[model]:
            self._draw(rng, window, floor_s, (out.at_s, until_s, counts))
        if any(count != 1.0 for count in counts):
            out.until_s, out.counts = until_s, counts
        return out

    def _draw(
        self, rng: Random, window: Window, floor_s: float, into: tuple[array[float], ...]
    ) -> None:
        at_s, until_s, counts = into
        count = window.rate_rps * self.width_s
        whole = int(count + rng.random()) if abs(count - round(count)) > 0.01 else round(count)
        if window.rate_rps <= self.drawn_up_to_rps:
            times = array("d", draw(rng, window.form, whole, window.begin_s, self.width_s))
            at_s.extend(times)
            until_s.extend(times)
            counts.extend([1.0] * whole)
            return
        for spell in spells(rng, window.form, whole, window.begin_s, self.width_s, floor_s):
            for column, value in zip(into, spell, strict=True):
                column.append(value)

    def _tokens(self, model: str) -> Tokens:
        """Its own, else the median of those that are known, of the same source if there are any."""
        own = self.tokens.get(model, Tokens(None, None))
        if own.input is not None and own.output is not None:
            return own
        near = [t for name, t in self.tokens.items() if _source(name) == _source(model)]
        known = [t for t in near if t.output is not None] or list(self.tokens.values())
        return Tokens(_median(t.input for t in known), _median(t.output for t in known))


def is_rates(table: Table) -> bool:
    return {"window", "rate"} <= table.columns.found.keys()


def read_rates(table: Table, seed: int, days: float | None = None) -> RateTrace:
    """Every row of a table of rates."""
    windows: dict[str, list[Window]] = {}
    found = table.columns.found
    for line, row in table.rows:
        try:
            window = _window(found, row)
            name = "/".join(str(row[found[n]]) for n in ("model", "client") if n in found)
        except (ValueError, TypeError) as error:
            raise table.error(line, error) from error
        if window.rate_rps > 0 and (days is None or window.begin_s < days * 86400.0):
            windows.setdefault(name or "all", []).append(window)
    if not windows:
        raise TraceError(f"{table.name}: no window with a request in it")
    lengths_s: dict[str, float] = {}
    for of_one in windows.values():
        of_one.sort(key=lambda w: w.begin_s)
    width_s = _width_s(windows)
    for name, of_one in windows.items():
        end_s = of_one[-1].begin_s + width_s
        lengths_s[_source(name)] = max(lengths_s.get(_source(name), 0.0), end_s)
    refuse_ages(table.name, max(lengths_s.values()))
    tokens, note = _read_tokens(Path(table.name))
    notes = (
        f"columns: {table.columns.sentence()}",
        f"windows of {width_s:g} s; up to {DRAWN_UP_TO_RPS:g} request/s drawn with seed {seed},"
        " busier ones as spells",
        note,
        *table.notes,
    )
    return RateTrace(windows, lengths_s, tokens, width_s, seed, notes)


def _window(found: Mapping[str, int], row: Sequence[Any]) -> Window:
    begin_s = number(row[found["window"]], "window")
    rate_rps = number(row[found["rate"]], "rate")
    if rate_rps > MOST_RPS:
        raise ValueError(f"the rate {rate_rps:g} is above {MOST_RPS:,.0f} requests/s")
    text = str(row[found["family"]]).strip().lower() if "family" in found else "gamma"
    family = _FAMILIES.get(text)
    if family is None:
        raise ValueError(f"the distribution {text!r} is not G (gamma) or W (Weibull)")
    shape = 1.0
    if "shape" in found and row[found["shape"]] not in (None, ""):
        shape = number(row[found["shape"]], "shape")
    elif "cv" in found and row[found["cv"]] not in (None, ""):
        family, shape = "gamma", max(number(row[found["cv"]], "cv"), 1e-3) ** -2.0
    if not shape > 0:
        raise ValueError("the shape is not above 0")
    return Window(begin_s, rate_rps, Form(family, shape))


def _width_s(windows: Mapping[str, list[Window]]) -> float:
    """The shortest step between two windows of one client, which are in order."""
    steps = (
        b.begin_s - a.begin_s
        for of_one in windows.values()
        for a, b in zip(of_one, of_one[1:], strict=False)
    )
    return min((step for step in steps if step > 0), default=UNKNOWN_WINDOW_S)


def _read_tokens(rates: Path) -> tuple[dict[str, Tokens], str]:
    """Mean tokens by client from a table beside the rates, if there is one."""
    for path in sorted(rates.parent.glob("*client*")):
        if path == rates or path.is_dir():
            continue
        with open_text(path) as file:
            table = table_of(path, file)
            names = [name.lower() for name in table.columns.header]
            if {"client", "mean_input_tokens", "mean_output_tokens"} <= set(names):
                return _tokens_in(table, names), f"mean tokens by client from {path.name}"
    return {}, "no table of clients beside it tells tokens: nobody knows what an API would charge"


def _tokens_in(table: Table, names: list[str]) -> dict[str, Tokens]:
    tokens = {}
    for line, row in table.rows:
        cells = dict(zip(names, row, strict=True))
        try:
            name = "/".join(str(cells[n]) for n in ("model", "client") if n in cells)
            means = (_mean(cells["mean_input_tokens"]), _mean(cells["mean_output_tokens"]))
        except ValueError as error:
            raise table.error(line, error) from error
        tokens[name] = Tokens(*means)
    return tokens


def _mean(cell: Any) -> float | None:
    return None if cell in (None, "") else number(cell, "mean tokens")


def _median(values: Any) -> float | None:
    there = [value for value in values if value is not None]
    return median(there) if there else None


def _source(name: str) -> str:
    return name.partition("/")[0]
