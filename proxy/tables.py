"""Counters and histograms that a request may touch: plain numbers, given to Prometheus when asked.

The client library's own cost a lock and three calls each, together 7 us a request
(docs/performance.md). One event loop writes these, so they need no lock.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """One counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


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


class Counters(Collector):
    """The counters of one name, by their labels' values."""

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name = name
        self.labels = labels
        self._text = text
        self._counts: dict[tuple[str, ...], Count] = {}

    def at(self, *labels: str) -> Count:
        return self._counts.setdefault(labels, Count())

    def describe(self) -> Iterator[Metric]:
        yield CounterMetricFamily(self.name, self._text, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self.name, self._text, labels=self.labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count.value)
        yield family


class Histograms(Collector):
    """The histograms of one name, by their labels' values."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]):
        self.name = name
        self.labels = labels
        self._text = text
        self._bounds = bounds
        self._names = [*map(floatToGoString, bounds), "+Inf"]
        self._distributions: dict[tuple[str, ...], Distribution] = {}

    def at(self, *labels: str) -> Distribution:
        return self._distributions.setdefault(labels, Distribution(self._bounds))

    def describe(self) -> Iterator[Metric]:
        yield HistogramMetricFamily(self.name, self._text, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self.name, self._text, labels=self.labels)
        for labels, found in self._distributions.items():
            buckets = list(zip(self._names, accumulate(found.counts), strict=True))
            family.add_metric(labels, buckets, found.total)
        yield family
