"""Pictures of measured and computed lines, for reports. Needs matplotlib, the extra `replay`.

Readable at 800 pixels, and without colours: lines differ in dashes too, and are labelled where
they end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
INSTALL = "pictures need matplotlib: pip install 'lamplighter[replay]'"

# Okabe and Ito's colours, told apart with every kind of colour blindness; light ones left out.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#56B4E9")
_DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 3)))
_GRID = "#dddddd"
_LABEL_HEIGHT = 0.055  # of the picture's axes: labels nearer than that would overlap

# In pixels, and about right: the axes, and the text of marks.
_PIXELS = (600, 425)
_CHARACTER, _TEXT_HEIGHT = 8, 18
_BESIDE = ((-12, 14), (12, -14), (-12, 34), (12, -34), (-12, 54), (12, -54))

Scale = Literal["linear", "log"]


class NoMatplotlib(Exception):
    """It is not installed; the message says what to do."""

    def __init__(self) -> None:
        super().__init__(INSTALL)


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A point worth reading off, such as where two lines cross."""

    at: tuple[float, float]
    text: str


@dataclass(frozen=True)
class Axis:
    title: str
    scale: Scale = "linear"


def draw_lines(
    file: Path, title: str, x: Axis, y: Axis, lines: Sequence[Line], marks: Sequence[Mark] = ()
) -> None:
    """Write an SVG or PNG of 800 by 500 pixels. Raises NoMatplotlib, OSError."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoMatplotlib from error

    # A fixed salt and no date: the same lines give the same file.
    with rc_context({"font.size": 10, "svg.hashsalt": "lamplighter", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=11)
        _set_up(axes, x, y)
        for number, line in enumerate(lines):
            axes.plot(
                [point[0] for point in line.points],
                [point[1] for point in line.points],
                color=_COLOURS[number % len(_COLOURS)],
                linestyle=_DASHES[number % len(_DASHES)],
                linewidth=2.2,
            )
        axes.get_ylim()  # fixes the limits, which are found only when somebody asks
        _mark_all(axes, marks)
        _label_ends(axes, lines)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else {})


def _set_up(axes: "Axes", x: Axis, y: Axis) -> None:
    axes.set_xlabel(x.title)
    axes.set_ylabel(y.title)
    axes.set_xscale(x.scale)
    axes.set_yscale(y.scale)
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_plain)
        axis.set_minor_formatter(lambda value, position: "")


def _plain(value: float, position: object) -> str:
    return f"{value:,.10g}"


def _mark_all(axes: "Axes", marks: Sequence[Mark]) -> None:
    """Each with its text beside it, at the first of _BESIDE where no other text is."""
    to_axes = axes.transScale + axes.transLimits
    taken: list[tuple[float, float, float]] = []  # left, right, height; pixels
    for mark in marks:
        x, y = (
            float(part) * size
            for part, size in zip(to_axes.transform(mark.at), _PIXELS, strict=True)
        )
        width = _CHARACTER * len(mark.text)
        lefts = [x + right - (width if right < 0 else 0) for right, _ in _BESIDE]
        boxes = [(left, left + width, y + up) for left, (_, up) in zip(lefts, _BESIDE, strict=True)]
        free = [
            box[1] < _PIXELS[0] and not any(_overlap(box, other) for other in taken)
            for box in boxes
        ]
        choice = free.index(True) if any(free) else 0
        right, up = _BESIDE[choice]
        taken.append(boxes[choice])
        axes.plot(*mark.at, "o", color="black", markersize=6, zorder=5)
        axes.annotate(
            mark.text,
            mark.at,
            xytext=(right, up),
            textcoords="offset pixels",
            horizontalalignment="right" if right < 0 else "left",
            verticalalignment="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )


def _overlap(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and abs(one[2] - other[2]) < _TEXT_HEIGHT


def _label_ends(axes: "Axes", lines: Sequence[Line]) -> None:
    """Each line's name to the right of its end, moved down where two ends are near."""
    to_axes = axes.transScale + axes.transLimits
    ends = []
    for number, line in enumerate(lines):
        if line.points:
            ends.append((float(to_axes.transform(line.points[-1])[1]), number, line.name))
    room = 1.0
    for height, number, name in sorted(ends, reverse=True):
        height = min(height, room)
        room = height - _LABEL_HEIGHT
        axes.annotate(
            name,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
            color=_COLOURS[number % len(_COLOURS)],
            fontweight="bold",
            annotation_clip=False,
        )
