"""Counters and histograms that a request may touch: plain numbers, given to Prometheus when asked.

The client library's own cost a lock and three calls each, together 7 us a request
(docs/performance.md). One event loop writes these, so they need no lock.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Dump = list[tuple[tuple[str, ...], list[float]]]  # labels, and the numbers that they stand for


class Count:
    """One counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def numbers(self) -> list[float]:
        return [self.value]

    def add(self, numbers: Sequence[float]) -> None:
        self.value += int(numbers[0])


class Distribution:
    """One histogram; `bounds` are the inclusive upper ends of its buckets, ascending."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def numbers(self) -> list[float]:
        return [self.total, *self.counts]

    def add(self, numbers: Sequence[float]) -> None:
        self.total += numbers[0]
        self.counts = [
            mine + int(more) for mine, more in zip(self.counts, numbers[1:], strict=True)
        ]


Cell = TypeVar("Cell", Count, Distribution)


class Table(Collector, Generic[Cell]):
    """What has one name, by its labels' values: counted here and, by `learn`, elsewhere."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.labels = labels
        self._text = text
        self._cells: dict[tuple[str, ...], Cell] = {}
        self._elsewhere: dict[int, Dump] = {}

    def _new(self) -> Cell:
        raise NotImplementedError

    def at(self, *labels: str) -> Cell:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = self._new()
        return cell

    def dump(self) -> Dump:
        return [(labels, cell.numbers()) for labels, cell in self._cells.items()]

    def learn(self, worker: int, dump: Dump) -> None:
        """What `worker` has counted so far; replaces what it told before."""
        self._elsewhere[worker] = dump

    def keep(self, worker: int) -> None:
        """`worker` has ended: what it told last stays counted."""
        for labels, numbers in self._elsewhere.pop(worker, []):
            self.at(*labels).add(numbers)

    def sums(self) -> dict[tuple[str, ...], Cell]:
        """By the labels' values: what all processes have counted."""
        sums: dict[tuple[str, ...], Cell] = {}
        for labels, numbers in [*self.dump(), *chain.from_iterable(self._elsewhere.values())]:
            sums.setdefault(tuple(labels), self._new()).add(numbers)
        return sums

    def first_sums(self) -> dict[tuple[str, ...], float]:
        """The same of a counter's count or a histogram's sum alone, which is much cheaper."""
        sums: dict[tuple[str, ...], float] = {}
        for labels, numbers in [*self.dump(), *chain.from_iterable(self._elsewhere.values())]:
            labels = tuple(labels)
            sums[labels] = sums.get(labels, 0) + numbers[0]
        return sums


class Counters(Table[Count]):
    """The counters of one name."""

    def _new(self) -> Count:
        return Count()

    def describe(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self.name, self._text, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self.name, self._text, labels=self.labels)
        for labels, count in self.sums().items():
            family.add_metric(labels, count.value)
        yield family


class Histograms(Table[Distribution]):
    """The histograms of one name."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        super().__init__(name, text, labels)
        self._bounds = bounds
        self._names = [*map(floatToGoString, bounds), "+Inf"]

    def _new(self) -> Distribution:
        return Distribution(self._bounds)

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(self.name, self._text, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self.name, self._text, labels=self.labels)
        for labels, found in self.sums().items():
            buckets = list(zip(self._names, accumulate(found.counts), strict=True))
            family.add_metric(labels, buckets, found.total)
        yield family
