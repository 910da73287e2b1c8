"""Pictures of a replay: cost and wait by policy, and what happened to one model."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.pictures import NoMatplotlib
from router.replay.outcome import Outcome
from router.replay.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours; hatches tell parts apart without them.
_PARTS = (
    ("serving", "#0072B2", ""),
    ("holding", "#E69F00", "//"),
    ("starting", "#D55E00", "xx"),
    ("api", "#009E73", ".."),
    ("delay", "#999999", "\\\\"),
)
_STATES = {
    "off": (0, "#bbbbbb"),
    "sleep_2": (1, "#56B4E9"),
    "sleep_1": (2, "#0072B2"),
    "start": (3, "#D55E00"),
    "wake": (3, "#D55E00"),
    "hot": (4, "#009E73"),
    "ready": (4, "#009E73"),
}
_HEIGHTS = ("off", "sleep 2", "sleep 1", "starting", "hot")
_HOUR_S = 3600.0


def draw_comparison(file: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Write an SVG or PNG. Raises NoMatplotlib, OSError."""
    height = 1.6 + 0.36 * len(outcomes)
    figure = _figure(10, height)
    costs, waits = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    names = list(outcomes)
    left = [0.0] * len(names)
    for part, colour, hatch in _PARTS:
        usd = [getattr(outcomes[name], f"{part}_usd") for name in names]
        costs.barh(names, usd, left=left, color=colour, hatch=hatch, edgecolor="white", label=part)
        left = [a + b for a, b in zip(left, usd, strict=True)]
    for row, total in enumerate(left):
        costs.annotate(
            f"{total:,.4g}",
            (total, row),
            xytext=(4, 0),
            textcoords="offset points",
            verticalalignment="center",
            fontsize=9,
        )
    costs.set_xlim(0, max(left) * 1.12 or 1.0)
    costs.set_xlabel("USD; delay is the worth of callers' waiting")
    costs.invert_yaxis()
    costs.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(_PARTS), frameon=False)
    _draw_waits(waits, outcomes)
    _save(figure, file)


def _draw_waits(axes: "Axes", outcomes: Mapping[str, Outcome]) -> None:
    figures = [outcome.as_json() for outcome in outcomes.values()]
    rows = range(len(figures))
    axes.plot([f["wait_mean_s"] for f in figures], rows, "o", color="#000000", label="mean")
    axes.plot([f["wait_p99_s"] for f in figures], rows, "D", color="#D55E00", label="p99")
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel("added wait, seconds")
    axes.grid(True, axis="x", color="#dddddd")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def draw_timeline(file: Path, found: Timeline) -> None:
    """Write an SVG or PNG. Raises NoMatplotlib, OSError."""
    figure = _figure(10, 4.5)
    rates, states = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1.4))
    rates.set_title(found.model, loc="left", fontsize=11)
    rates.fill_between(
        [at_s / _HOUR_S for at_s, _ in found.rates],
        [rate for _, rate in found.rates],
        step="post",
        color="#0072B2",
    )
    rates.set_ylabel("requests/s")
    rates.set_ylim(bottom=0)
    for (since_s, name), (until_s, _) in pairwise([*found.states, (found.end_s, "off")]):
        height, colour = _STATES[name]
        states.broken_barh(
            [(since_s / _HOUR_S, (until_s - since_s) / _HOUR_S)], (height - 0.4, 0.8), color=colour
        )
    states.set_yticks(range(len(_HEIGHTS)), _HEIGHTS)
    states.set_xlabel("hours")
    for at_s, placement in found.placements:
        states.axvline(at_s / _HOUR_S, color="#000000", linewidth=0.8)
        states.annotate(placement, (at_s / _HOUR_S, 4.6), fontsize=8, annotation_clip=False)
    _save(figure, file)


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoMatplotlib from error
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def _save(figure: "Figure", file: Path) -> None:
    from matplotlib import rc_context

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": "lamplighter"}):
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {})
