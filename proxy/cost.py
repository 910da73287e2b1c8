"""`lamplighter cost`: a month in each way of serving a model, and where one overtakes another."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from policies.costs import (
    DAY_S,
    MONTH_DAYS,
    Crossover,
    Placement,
    Way,
    crossovers,
    month_usd,
)
from policies.on_demand import OnDemand, use_on_demand
from proxy.configured import FILE, configured
from proxy.cost_inputs import Inputs, Missing, of_model
from proxy.outputs import writing
from proxy.pictures import SUFFIXES, Axis, Line, Mark, draw_lines

ROWS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
LOOKED_AT = (1.0, 1e7)  # requests a day between which ways are compared
POINTS = 200  # of a line in the picture
ABOUT = 1 + 1e-6  # at a crossover two ways cost the same, but for rounding
NAMES: Mapping[Placement, str] = {
    "always_on": "always on",
    "on_demand": "on demand",
    "api": "outside API",
}


class Number(click.FloatRange):
    """A finite number; click lets `nan` and `inf` through."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


ABOVE_0 = Number(min=0, min_open=True)
FROM_0 = Number(min=0)


@click.command()
@click.option("--request-s", type=Number(0, 86_400, min_open=True), help="Seconds of a request.")
@click.option("--gpu-hour", type=ABOVE_0, help="USD for an hour of a server on demand.")
@click.option("--gpu-second", type=ABOVE_0, help="The same for a second.")
@click.option("--concurrency", type=click.IntRange(1), help="Requests at a time to it; else 1.")
@click.option("--start-s", type=FROM_0, help="Seconds of a start, which are paid; else 0.")
@click.option("--idle-s", type=FROM_0, help="Seconds that it is kept after a request; else 0.")
@click.option("--always-on-hour", type=ABOVE_0, help="USD for an hour of an always-on server.")
@click.option("--always-on-concurrency", type=ABOVE_0, help="Requests at a time to it; else any.")
@click.option("--input-tokens", type=FROM_0, help="Of one request.")
@click.option("--output-tokens", type=FROM_0, help="Of one request.")
@click.option("--api-input", type=FROM_0, help="USD per million input tokens of an outside API.")
@click.option("--api-output", type=FROM_0, help="USD per million output tokens.")
@click.option("--config", "file", type=FILE, help="Take what is not given from this file...")
@click.option("--model", help="... and this model of it.")
@click.option("--json", "json_file", type=FILE, help="Write all figures to this file too.")
@click.option("--picture", type=FILE, help="Draw them: a file that ends in .svg or .png.")
def cost(
    gpu_second: float | None,
    file: Path | None,
    model: str | None,
    json_file: Path | None,
    picture: Path | None,
    gpu_hour: float | None,
    **given: Any,
) -> None:
    """Compare always-on, on-demand and outside-API serving by their cost a month."""
    if gpu_hour is not None and gpu_second is not None:
        raise click.UsageError("--gpu-hour and --gpu-second say the same thing twice")
    if picture is not None and picture.suffix not in SUFFIXES:
        raise click.UsageError(f"--picture {picture} must end in {' or '.join(SUFFIXES)}")
    hour = gpu_second * 3600 if gpu_second is not None else gpu_hour
    inputs = Inputs(on_demand_hour=hour, **given)
    if file is not None:
        inputs = inputs.or_else(_configured(file, model, inputs))
    elif model is not None:
        raise click.UsageError("--model needs the --config that it stands in")
    try:
        request_s, ways = inputs.ways()
    except Missing as missing:
        raise click.UsageError(str(missing)) from missing
    crossings = crossovers(ways, request_s, *LOOKED_AT)
    rows = [_row(ways, float(number), request_s) for number in ROWS]
    _print(rows, ways, crossings, request_s)
    if json_file is not None:
        figures = {
            "inputs": {k: v if v != math.inf else None for k, v in asdict(inputs).items()},
            "days": MONTH_DAYS,
            "rows": rows,
            "crossovers": msgspec.to_builtins(crossings),
        }
        with writing(json_file):
            json_file.write_text(json.dumps(figures, indent=2) + "\n")
    if picture is not None:
        with writing(picture):
            _draw(picture, ways, crossings, request_s)


def _configured(file: Path, name: str | None, options: Inputs) -> Inputs:
    """What the configuration says of the model; without a name, of its only one."""
    config = configured(file)
    if name is None and len(config.models) > 1:
        raise click.UsageError(f"--model: which one? {file} has {', '.join(config.models)}")
    model = next(iter(config.models)) if name is None else config.resolve(name)
    if model is None:
        raise click.UsageError(f"--model: {file} has no {name}, but {', '.join(config.models)}")
    return of_model(config.models[model], options)


def _row(ways: Mapping[Placement, Way], requests_a_day: float, request_s: float) -> dict[str, Any]:
    usd = {name: month_usd(way, requests_a_day, request_s) for name, way in ways.items()}
    row: dict[str, Any] = {
        "requests_a_day": requests_a_day,
        "usd": usd,
        "cheapest": min(usd, key=lambda name: usd[name]),
    }
    on_demand = ways.get("on_demand")
    if isinstance(on_demand, OnDemand):
        use = use_on_demand(requests_a_day / DAY_S, request_s, on_demand)
        row["servers"] = {"busy": use.busy, "idle": use.idle, "starting": use.starting}
        row["starts_a_day"] = use.starts_per_s * DAY_S
    return row


def _print(
    rows: Sequence[Mapping[str, Any]],
    ways: Mapping[Placement, Way],
    crossings: Sequence[Crossover],
    request_s: float,
) -> None:
    click.echo(
        f"A month of {MONTH_DAYS} days in USD, {request_s:g} s a request at a ready server.\n"
    )
    table = Table(box=None, header_style="bold")
    for column in ("REQUESTS A DAY", *(NAMES[name].upper() for name in ways)):
        table.add_column(column, justify="right")
    table.add_column("CHEAPEST")
    if "on_demand" in ways:
        table.add_column("STARTS A DAY", justify="right")
    for row in rows:
        cells = [f"{row['requests_a_day']:,.0f}", *(f"{usd:,.2f}" for usd in row["usd"].values())]
        cells.append(NAMES[row["cheapest"]])
        if "on_demand" in ways:
            cells.append(f"{row['starts_a_day']:,.0f}")
        table.add_row(*cells)
    Console(soft_wrap=True).print(table)
    click.echo()
    for sentence in _sentences(ways, crossings, rows):
        click.echo(sentence)


def _sentences(
    ways: Mapping[Placement, Way],
    crossings: Sequence[Crossover],
    rows: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Each crossover; and for two ways that never cross, which is the cheaper one."""
    found = [
        f"At {c.requests_a_day:,.0f} requests a day {NAMES[c.above]} becomes cheaper than"
        f" {NAMES[c.below]}."
        for c in crossings
    ]
    crossed = {frozenset((c.below, c.above)) for c in crossings}
    for pair in combinations(ways, 2):
        if frozenset(pair) not in crossed:
            cheap, dear = sorted(pair, key=lambda name: rows[0]["usd"][name])
            range_ = " to ".join(f"{number:,.0f}" for number in LOOKED_AT)
            found.append(
                f"At any number from {range_} requests a day {NAMES[cheap]} is no dearer than"
                f" {NAMES[dear]}."
            )
    return found


def _draw(
    file: Path, ways: Mapping[Placement, Way], crossings: Sequence[Crossover], request_s: float
) -> None:
    """Marked is where the cheapest way changes."""
    low, high = ROWS[0], ROWS[-1]
    grid = [low * (high / low) ** (step / POINTS) for step in range(POINTS + 1)]
    draw_lines(
        file,
        "What a month costs, and where the cheapest way changes",
        Axis("requests a day", "log"),
        Axis("USD a month", "log"),
        [
            Line(NAMES[name], [(x, month_usd(way, x, request_s)) for x in grid])
            for name, way in ways.items()
        ],
        [
            Mark((c.requests_a_day, usd), f"{c.requests_a_day:,.0f}")
            for c in crossings
            if low <= c.requests_a_day <= high
            and (usd := month_usd(ways[c.above], c.requests_a_day, request_s))
            <= min(month_usd(way, c.requests_a_day, request_s) for way in ways.values()) * ABOUT
        ],
    )
