"""From the load tool's records to one table. Pure.

Latencies of all rounds are taken together, so a percentile is one of requests, or of the gaps
between tokens, and not a mean of percentiles. Turns that other programs disturbed are left out.
What the engine alone differs by between its own rounds is shown beside each difference: a smaller
difference says nothing.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DISTURBED = 0.15  # of a core
ALONE, THROUGH = "engine alone", "through Lamplighter"
HEAD = ("engine, at a time", "", ALONE, THROUGH, "difference", "engine alone, between rounds")


@dataclass(frozen=True)
class Answers:
    """What one run of the tool, or several together, got."""

    first_token_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: int = 0
    lasted_s: float = 0.0

    def lasting(self, seconds: float) -> "Answers":
        return dataclasses.replace(self, lasted_s=seconds)


@dataclass(frozen=True)
class Turn:
    """One run: at what, how, and what came of it."""

    engine: str
    concurrency: int
    way: str
    answers: Answers
    others: float = 0.0  # cores that programs used which are none of ours

    @property
    def disturbed(self) -> bool:
        return self.others > DISTURBED


@dataclass(frozen=True)
class Row:
    label: str
    read: Callable[[Answers], float]
    digits: int = 1
    always: bool = False  # read from disturbed turns too


def answers(
    records: Iterable[Mapping[str, Any]], requests: int, asked: Mapping[str, int]
) -> Answers:
    """Of `requests`, each for as many tokens as `asked`; one not answered whole is an error."""
    first_token_ms: list[float] = []
    gaps_ms: list[float] = []
    tokens = 0
    for record in records:
        if record["metadata"]["benchmark_phase"] != "profiling" or record.get("error"):
            continue
        metrics, expected = record["metrics"], asked[record["metadata"]["conversation_id"]]
        if metrics.get("output_sequence_length", {}).get("value") != expected:
            continue
        tokens += expected
        first_token_ms.append(metrics["time_to_first_token"]["value"])
        gaps_ms.extend(metrics["inter_chunk_latency"]["value"])
    return Answers(first_token_ms, gaps_ms, tokens, requests - len(first_token_ms))


def together(parts: Sequence[Answers]) -> Answers:
    return Answers(
        [value for part in parts for value in part.first_token_ms],
        [value for part in parts for value in part.gaps_ms],
        sum(part.tokens for part in parts),
        sum(part.errors for part in parts),
        sum(part.lasted_s for part in parts),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is not below `percent` of them; no number of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def tokens_per_s(one: Answers) -> float:
    return one.tokens / one.lasted_s if one.lasted_s else math.nan


ROWS = (
    Row("first token p50 (ms)", lambda one: percentile(one.first_token_ms, 50)),
    Row("first token p99 (ms)", lambda one: percentile(one.first_token_ms, 99)),
    Row("between tokens p50 (ms)", lambda one: percentile(one.gaps_ms, 50), 2),
    Row("between tokens p99 (ms)", lambda one: percentile(one.gaps_ms, 99), 2),
    Row("tokens a second", tokens_per_s),
    Row("errors", lambda one: float(one.errors), 0, always=True),
)


def number(value: float, digits: int, sign: str = "") -> str:
    return "none" if math.isnan(value) else f"{value:{sign},.{digits}f}"


def difference(alone: float | None, through: float | None, digits: int) -> str:
    if alone is None or through is None:
        return ""
    text = number(through - alone, digits, "+")
    if math.isnan(through - alone) or not alone:
        return text
    return f"{text} ({(through - alone) / alone:+.1%})"


def between(rounds: Sequence[float], digits: int) -> str:
    """How far the rounds are from each other; nothing, of one round."""
    if len(rounds) < 2 or any(map(math.isnan, rounds)):
        return ""
    return number(max(rounds) - min(rounds), digits)


def lines_of(turns: Sequence[Turn]) -> list[list[str]]:
    """Of one engine at one concurrency. Errors are counted in disturbed turns too."""
    name = f"{turns[0].engine}, {turns[0].concurrency}"
    quiet = [turn for turn in turns if not turn.disturbed]
    lines = []
    for row in ROWS:
        counted = turns if row.always else quiet
        alone = [turn.answers for turn in counted if turn.way == ALONE]
        through = [turn.answers for turn in counted if turn.way == THROUGH]
        theirs, ours = (row.read(together(one)) if one else None for one in (alone, through))
        shown = ["disturbed" if v is None else number(v, row.digits) for v in (theirs, ours)]
        apart = between([row.read(one) for one in alone], row.digits)
        lines.append([name, row.label, *shown, difference(theirs, ours, row.digits), apart])
    return lines


def table(turns: Sequence[Turn]) -> str:
    """Markdown."""
    groups: dict[tuple[str, int], list[Turn]] = {}
    for turn in turns:
        groups.setdefault((turn.engine, turn.concurrency), []).append(turn)
    lines = [list(HEAD), *(line for group in groups.values() for line in lines_of(group))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    rule = ["-" * (width - (n > 1)) + ":" * (n > 1) for n, width in enumerate(widths)]
    padded = [
        [
            text.rjust(width) if column > 1 else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def note(turns: Sequence[Turn]) -> str:
    """How much stands behind the numbers."""
    quiet = [turn for turn in turns if not turn.disturbed]
    answered = sum(len(turn.answers.first_token_ms) for turn in quiet)
    return (
        f"{len(quiet)} turns with {answered} answers; {len(turns) - len(quiet)} more left out, "
        f"because other programs used over {DISTURBED:.0%} of a core."
    )
