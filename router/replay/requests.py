"""One model's requests over time, as arrays: 7.7 million of them take some 60 MB.

A row is one request, or, where a trace gives rates instead of requests, a *spell*: `count`
requests spread over the time from `at_s` to `until_s` with no gap among them that matters.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

PRIORITIES = ("low", "normal", "high")


def _doubles() -> array[float]:
    return array("d")


@dataclass(slots=True)
class Requests:
    """Rows in order of time; a column is None when the trace does not have it.

    `input_tokens` and `output_tokens` per request stand in for columns that are missing.
    """

    at_s: array[float] = field(default_factory=_doubles)
    until_s: array[float] | None = None
    counts: array[float] | None = None
    inputs: array[float] | None = None
    outputs: array[float] | None = None
    durations_s: array[float] | None = None
    deadlines_s: array[float] | None = None  # 0 for none
    priorities: array[int] | None = None  # indices into PRIORITIES, -1 for none
    sizes: array[float] | None = None  # bytes of the request's body
    input_tokens: float = 0.0
    output_tokens: float = 0.0

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def count(self) -> float:
        return sum(self.counts) if self.counts is not None else float(len(self.at_s))

    @property
    def columns(self) -> dict[str, Sequence[float]]:
        """Those that are there, by their names."""
        names = ("at_s", "until_s", "counts", "inputs", "outputs", "durations_s", "deadlines_s")
        there = {name: getattr(self, name) for name in (*names, "priorities", "sizes")}
        return {name: column for name, column in there.items() if column is not None}

    @property
    def tells_tokens(self) -> bool:
        columns = (self.inputs, self.outputs)
        return any(c is not None for c in columns) or self.input_tokens + self.output_tokens > 0

    def until(self, end_s: float) -> Requests:
        """The rows that begin before a time."""
        return self._rows(slice(0, bisect_left(self.at_s, end_s)))

    def in_order(self) -> Requests:
        """Sorted by time; itself when it is already."""
        at_s = self.at_s
        if all(a <= b for a, b in zip(at_s, at_s[1:], strict=False)):
            return self
        order = sorted(range(len(at_s)), key=at_s.__getitem__)
        return self._rows(order)

    def _rows(self, rows: slice | list[int]) -> Requests:
        new = Requests(input_tokens=self.input_tokens, output_tokens=self.output_tokens)
        for name, column in self.columns.items():
            assert isinstance(column, array)
            kept = column[rows] if isinstance(rows, slice) else _picked(column, rows)
            setattr(new, name, kept)
        return new


def _picked(column: array[float], rows: list[int]) -> array[float]:
    return array(column.typecode, (column[n] for n in rows))


def running(values: Sequence[float]) -> array[float]:
    """`running(v)[n]` is the sum of the first n."""
    return array("d", accumulate(values, initial=0.0))
