"""The one table: a line for each thing measured, a column for each peer, and comparisons. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from load_tests.rig.judge import Result, Sample, together

US = "lamplighter"
COMPARED = ("vllm-router", "litellm", "nginx")
BEGIN = "<!-- load_tests.peers: begin -->"
END = "<!-- load_tests.peers: end -->"


@dataclass(frozen=True)
class Row:
    """What one line of the table says. `by` is how two peers are compared, if they can be."""

    key: str
    label: str
    by: Literal["ratio", "difference", "nothing"] = "ratio"
    digits: int = 1
    unit: str = ""  # of a difference
    reach: str = ""  # what the project wants, and what it must have


Results = Mapping[tuple[str, str], Result]


def gathered(samples: Sequence[Sample]) -> dict[tuple[str, str], Result]:
    """By row and peer."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.row, sample.peer), []).append(sample)
    return {key: together(group) for key, group in groups.items()}


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def cell(result: Result | None, digits: int) -> str:
    if result is None:
        return ""
    return result.refused or number(result.value, digits)


def comparison(row: Row, ours: Result | None, theirs: Result | None) -> str:
    """Ours to theirs; the reason instead, where either number is worth nothing."""
    if row.by == "nothing" or ours is None or theirs is None:
        return ""
    if ours.refused or theirs.refused:
        return ours.refused or theirs.refused
    if row.by == "difference":
        return f"{ours.value - theirs.value:+.{row.digits}f} {row.unit}".rstrip()
    if theirs.value <= 0 or math.isnan(theirs.value):
        return ""
    ratio = ours.value / theirs.value
    return f"1/{1 / ratio:.0f}" if 0 < ratio < 0.1 else f"{ratio:.2f} x"


def table(rows: Sequence[Row], peers: Sequence[str], results: Results) -> str:
    """Markdown. Peers and comparisons that have nothing in any row get no column."""
    shown = [row for row in rows if any((row.key, peer) in results for peer in peers)]
    compared = [name for name in COMPARED if name in peers and US in peers]
    head = ["", *peers, *(f"to {name}" for name in compared), "reach"]
    lines = [head, ["---", *("---:" for _ in head[1:-1]), "---"]]
    for row in shown:
        ours = results.get((row.key, US))
        line = [row.label, *(cell(results.get((row.key, peer)), row.digits) for peer in peers)]
        line += [comparison(row, ours, results.get((row.key, name))) for name in compared]
        lines.append([*line, row.reach])
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    texts = []
    for number_of, line in enumerate(lines):
        if number_of == 1:
            parts = ["-" * (w - 1) + m[-1] for w, m in zip(widths, line, strict=True)]
        else:
            parts = [
                text.ljust(w) if n in (0, len(head) - 1) else text.rjust(w)
                for n, (text, w) in enumerate(zip(line, widths, strict=True))
            ]
        texts.append("| " + " | ".join(parts) + " |")
    return "\n".join(texts)


def put_between_marks(page: str, text: str) -> str:
    """`page` with `text` in place of what stands between the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text.strip()}\n{END}{after}"
