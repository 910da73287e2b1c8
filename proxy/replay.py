"""`lamplighter replay`: what a configuration would have cost on recorded demand, and others."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.durations import seconds
from config.schema import Config
from proxy.configured import FILE, configured
from proxy.outputs import writing
from proxy.pictures import SUFFIXES
from proxy.replay_pictures import draw_comparison, draw_timeline
from router.economics import ASSUMED_GPU_HOUR_USD
from router.replay.columns import TraceError
from router.replay.comparison import (
    Comparison,
    Unmatched,
    compare,
    contenders,
    match,
    ratios,
)
from router.replay.outcome import Outcome
from router.replay.policies import CLAIRVOYANT
from router.replay.reading import read
from router.replay.simulate import Setting
from router.replay.timeline import timeline
from router.replay.traces import Trace

MONEY = ("USD", "HOLDING", "STARTING", "SERVING", "API", "DELAY", "x BEST", "GAPS x BEST")
SERVICE = (
    "COLD REQ", "COLD GAPS", "WAIT MEAN", "P50", "P99", "MISSED", "OVERFLOW", "WARM IDLE H",
    "STARTS", "IDLE", "FLAPS",
)  # fmt: skip
WIDTH = 200  # no line is wrapped: these tables are no wider than they need be


class Lasting(click.ParamType[float]):
    """A duration as in the configuration, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("file", type=FILE)
@click.option("--trace", "trace_file", type=FILE, required=True, help="Requests, or rates of them.")
@click.option(
    "--compare", "others", type=FILE, multiple=True, help="Another file; may be repeated."
)
@click.option("--baselines", is_flag=True, help="What everybody else does, beside it.")
@click.option("--like", help="The model of FILE that models are treated as which it does not name.")
@click.option("--deadline", type=Lasting(), help="How long callers wait who say nothing; max_wait.")
@click.option("--days", type=click.FloatRange(0, min_open=True), help="The first days only.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of all that is drawn.")
@click.option("--json", "json_file", type=FILE, help="Write everything, by model too.")
@click.option("--picture", type=FILE, help="Draw cost and wait: a file in .svg or .png.")
@click.option("--timeline", "model", help="Draw into --picture what happens to this model instead.")
def replay(
    file: Path,
    trace_file: Path,
    others: Sequence[Path],
    baselines: bool,
    like: str | None,
    deadline: float | None,
    days: float | None,
    seed: int,
    json_file: Path | None,
    picture: Path | None,
    model: str | None,
) -> None:
    """Replay TRACE against FILE: what it would have cost, and how long callers had waited."""
    if picture is not None and picture.suffix not in SUFFIXES:
        raise click.UsageError(f"--picture {picture} must end in {' or '.join(SUFFIXES)}")
    if model is not None and picture is None:
        raise click.UsageError("--timeline needs the --picture that it is drawn into")
    configs = [configured(path) for path in (file, *others)]
    try:
        trace = read(trace_file, seed, days)
        held_s = math.inf if deadline is None else deadline
        settings = [
            Setting(config, match(trace, config, like, str(path)), seed, held_s, trace.starts_s)
            for config, path in zip(configs, (file, *others), strict=True)
        ]
    except (TraceError, Unmatched) as error:
        raise click.ClickException(str(error)) from error
    if model is not None:
        _known(model, trace)  # a long replay should not end with a typing mistake
    for note in (*trace.notes, *_limits(configs)):
        click.echo(note)
    own, compared = settings[0], dict(zip(_names(others), settings[1:], strict=True))
    found = _compare(trace, contenders(own, compared, all_baselines=baselines))
    _print(found, trace, own)
    if json_file is not None:
        about = {"file": str(file), "trace": str(trace_file), "seed": seed, "deadline_s": deadline}
        with writing(json_file):
            json_file.write_text(json.dumps({**about, **found.as_json()}, indent=1) + "\n")
    if picture is not None:
        with writing(picture):
            if model is None:
                draw_comparison(picture, {n: f.outcome for n, f in found.totals().items()})
            else:
                draw_timeline(picture, timeline(own, trace, model))


def _limits(configs: Sequence[Config]) -> list[str]:
    """What the simulation leaves out of these files, so that nobody trusts it for that."""
    found = []
    models = [model for config in configs for model in config.models.values()]
    if any(model.cold is not None and model.cold.device for model in models):
        found.append("devices are not simulated: each model is replayed as if it had its own")
    if any(model.overflow or model.fallback for model in models):
        found.append("overflow and fallback to other models are not simulated")
    if any(model.hot is not None for model in models):
        found.append("always-on servers are taken to carry everything that comes")
    if any(model.cold is not None and not model.cold.gpu_hour for model in models):
        usd = f"{ASSUMED_GPU_HOUR_USD:g} USD an hour"
        found.append(f"a server without gpu_hour is taken to cost {usd}")
    return found


def _names(files: Sequence[Path]) -> list[str]:
    """The files' names; whole paths where two are the same."""
    short = [path.name for path in files]
    return [n if short.count(n) == 1 else str(p) for n, p in zip(short, files, strict=True)]


def _compare(trace: Trace, rivals: Any) -> Comparison:
    console = Console(stderr=True)
    with console.status("reading") as status:

        def progress(number: int, name: str) -> None:
            status.update(Text(f"{number + 1} of {len(trace.models)}: {name}"))  # no markup

        return compare(trace, rivals, progress)


def _known(model: str, trace: Trace) -> None:
    if model not in trace.models:
        shown = ", ".join(map(repr, trace.models[:5])) + (", ..." if len(trace.models) > 5 else "")
        raise click.UsageError(f"--timeline: the trace has no model {model}, but {shown}")


def _print(found: Comparison, trace: Trace, own: Setting) -> None:
    totals = found.totals()
    best = totals[CLAIRVOYANT.name].outcome
    requests = best.requests
    models = _models(len(trace.models))
    click.echo(f"{models}, {requests:,.0f} requests, {best.gaps:,} gaps\n")
    console = Console(width=WIDTH, markup=False)
    money = {name: _money(each.outcome, best) for name, each in totals.items()}
    service = {name: _service(each.outcome) for name, each in totals.items()}
    for columns, rows in ((MONEY, money), (SERVICE, service)):
        table = Table(box=None, header_style="bold")
        table.add_column("POLICY", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for name, cells in rows.items():
            table.add_row(name, *cells)
        console.print(table)
        click.echo()
    for name, count in found.absent.items():
        click.echo(f"{name}: not possible for {_models(count)}, so no sum (no price is stated)")


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _money(outcome: Outcome, best: Outcome) -> list[str]:
    parts = ("usd", "holding_usd", "starting_usd", "serving_usd", "api_usd", "delay_usd")
    against = ratios(outcome, best).values()
    return [
        *(f"{getattr(outcome, part):,.2f}" for part in parts),
        *("-" if ratio is None else f"{ratio:.3f}" for ratio in against),
    ]


def _service(outcome: Outcome) -> list[str]:
    figures = outcome.as_json()
    return [
        f"{100 * figures['cold_per_request']:.2f}%",
        f"{100 * figures['cold_per_gap']:.1f}%",
        *(f"{figures[name]:.2f}" for name in ("wait_mean_s", "wait_p50_s", "wait_p99_s")),
        f"{outcome.missed + outcome.refused:,.0f}",
        f"{100 * figures['overflow_share']:.1f}%",
        f"{outcome.warm_idle_h:,.1f}",
        *(f"{n:,}" for n in (outcome.starts + outcome.wakes, outcome.idle_starts, outcome.flaps)),
    ]
