"""One model's requests as work for its servers: the same for every policy, so worked out once.

A *stretch* is a time without a gap at a server that is always hot: from a request to the last byte
of the last one that overlaps. Policies differ only in what they do between stretches, and in who
waits when one begins.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.economics import Economics
from router.planner import BYTES_PER_TOKEN, Planner
from router.replay.requests import PRIORITIES, Requests, running

BIN_S = 60.0  # over which the rate is taken that says how many servers are needed
NO_DEADLINE = 0.0


@dataclass(frozen=True, slots=True)
class Need:
    """So many servers from then on; the last of them gets `beyond_s` requests per second."""

    at_s: float
    servers: int
    beyond_s: float


@dataclass(frozen=True, slots=True)
class Caller:
    """What weighs for a request that finds no server ready.

    `held_s` is how long it may be held, `usd` what it would likely cost at the outside API.
    """

    held_s: float
    priority: str
    usd: float


@dataclass(slots=True)
class Work:
    """Rows are requests or spells, none of which crosses a multiple of the tick it was cut at."""

    requests: Requests
    economics: Economics
    end_s: float
    deadline_s: float  # of requests that state none; how long a caller may be held at most
    priority: str = "normal"  # of requests that state none
    begins_s: array[float] = field(default_factory=lambda: array("d"))
    ends_s: array[float] = field(default_factory=lambda: array("d"))
    firsts: array[int] = field(default_factory=lambda: array("l"))
    counted: array[float] = field(default_factory=lambda: array("d"))
    inputs: array[float] | None = None  # running sums
    outputs: array[float] | None = None
    needs: list[Need] = field(default_factory=list)
    peak: int = 1
    unserved: float = 0.0  # requests beyond what all servers together carry

    @property
    def total(self) -> float:
        """Requests."""
        return self.counted[-1]

    @property
    def api_usd(self) -> float:
        return self.usd_of(0, len(self.requests))

    @property
    def busy_s(self) -> float:
        """Of the first server."""
        return sum(self.ends_s) - sum(self.begins_s)

    def gaps_s(self) -> Iterator[float]:
        """Between the stretches."""
        ends_s, begins_s = self.ends_s, self.begins_s
        return (begins_s[n + 1] - ends_s[n] for n in range(len(ends_s) - 1))

    def count(self, row: int) -> float:
        counts = self.requests.counts
        return 1.0 if counts is None else counts[row]

    def until_s(self, row: int) -> float:
        untils_s = self.requests.until_s
        return self.requests.at_s[row] if untils_s is None else untils_s[row]

    def service_s(self, row: int) -> float:
        """How long a server is busy with one request of a row."""
        requests = self.requests
        if requests.durations_s is not None:
            return requests.durations_s[row]
        return self.economics.service_s(
            requests.input_tokens if requests.inputs is None else requests.inputs[row],
            requests.output_tokens if requests.outputs is None else requests.outputs[row],
        )

    def held_s(self, row: int) -> float:
        """How long the caller may be held."""
        deadlines_s = self.requests.deadlines_s
        if deadlines_s is None or deadlines_s[row] == NO_DEADLINE:
            return self.deadline_s
        return min(deadlines_s[row], self.deadline_s)

    def _priority(self, row: int) -> str:
        priorities = self.requests.priorities
        stated = -1 if priorities is None else priorities[row]
        return self.priority if stated < 0 else PRIORITIES[stated]

    def caller(self, row: int, planner: Planner) -> Caller:
        """Of one request of a row, with a price as a gateway guesses it."""
        return Caller(self.held_s(row), self._priority(row), self._expected_usd(row, planner))

    def _expected_usd(self, row: int, planner: Planner) -> float:
        sizes = self.requests.sizes
        if sizes is not None:
            return planner.expected_usd(round(sizes[row]))
        into, _ = self.tokens(row, row + 1)
        return planner.expected_usd(round(into / self.count(row) * BYTES_PER_TOKEN))

    @property
    def even(self) -> bool:
        """Whether all requests take the same time, so that who came last ends last."""
        requests = self.requests
        columns = (requests.durations_s, requests.inputs, requests.outputs)
        return all(column is None for column in columns)

    def tokens(self, first: int, end: int) -> tuple[float, float]:
        """Input and output tokens of the rows of a range, all requests together."""
        requests = self.requests
        count = self.counted[end] - self.counted[first]
        into = requests.input_tokens * count
        out = requests.output_tokens * count
        if self.inputs is not None:
            into = self.inputs[end] - self.inputs[first]
        if self.outputs is not None:
            out = self.outputs[end] - self.outputs[first]
        return into, out

    def usd_of(self, first: int, end: int) -> float:
        """What the outside API charges for the rows of a range."""
        per_input, per_output = self.economics.api_usd or (0.0, 0.0)
        into, out = self.tokens(first, end)
        return into * per_input + out * per_output


def work_of(
    requests: Requests,
    economics: Economics,
    end_s: float,
    deadline_s: float,
    tick_s: float,
    priority: str = "normal",
    epoch_s: float = 0.0,
) -> Work:
    """Cut at ticks, counted and joined into stretches; the trace begins at `epoch_s`."""
    work = Work(_cut(requests, tick_s, epoch_s), economics, end_s, deadline_s, priority)
    requests = work.requests
    counts = requests.counts
    rows = len(requests)
    work.counted = running(counts) if counts is not None else array("d", range(rows + 1))
    work.inputs = _sums(requests.inputs, counts)
    work.outputs = _sums(requests.outputs, counts)
    _join(work)
    _count_servers(work)
    return work


def _sums(column: array[float] | None, counts: array[float] | None) -> array[float] | None:
    if column is None:
        return None
    if counts is None:
        return running(column)
    return running([tokens * count for tokens, count in zip(column, counts, strict=True)])


def to_tick_s(now_s: float, tick_s: float, epoch_s: float) -> float:
    """The next moment that is a multiple of a tick by the wall clock of a trace."""
    offset_s = epoch_s % tick_s
    return ((now_s + offset_s) // tick_s + 1) * tick_s - offset_s


def _cut(requests: Requests, tick_s: float, epoch_s: float) -> Requests:
    """Spells cut at the multiples of a tick; their requests fall evenly."""
    if requests.until_s is None or requests.counts is None:
        return requests
    new = Requests(input_tokens=requests.input_tokens, output_tokens=requests.output_tokens)
    new.until_s, new.counts = array("d"), array("d")
    for at_s, until_s, count in zip(requests.at_s, requests.until_s, requests.counts, strict=True):
        length_s = until_s - at_s
        next_s = to_tick_s(at_s, tick_s, epoch_s)
        while next_s < until_s:
            new.at_s.append(at_s)
            new.until_s.append(next_s)
            new.counts.append(count * (next_s - at_s) / length_s)
            at_s, next_s = next_s, next_s + tick_s
        new.at_s.append(at_s)
        new.until_s.append(until_s)
        new.counts.append(count * (until_s - at_s) / length_s if length_s > 0 else count)
    return new


def _join(work: Work) -> None:
    """The stretches."""
    requests = work.requests
    begins_s, ends_s, firsts = work.begins_s, work.ends_s, work.firsts
    end_s = -1.0
    for row, (at_s, last_s) in enumerate(zip(requests.at_s, _finishes(work), strict=True)):
        if at_s > end_s:
            if row:
                ends_s.append(end_s)
            begins_s.append(at_s)
            firsts.append(row)
            end_s = last_s
        elif last_s > end_s:
            end_s = last_s
    if len(requests):
        ends_s.append(end_s)


def _finishes(work: Work) -> Iterator[float]:
    """When each row's last byte has gone, if it need not wait."""
    requests, facts = work.requests, work.economics
    last_s = requests.until_s if requests.until_s is not None else requests.at_s
    if requests.durations_s is not None:
        return (at_s + took_s for at_s, took_s in zip(last_s, requests.durations_s, strict=True))
    if requests.inputs is None and requests.outputs is None:
        service_s = facts.service_s(requests.input_tokens, requests.output_tokens)
        return (at_s + service_s for at_s in last_s)
    return (at_s + work.service_s(row) for row, at_s in enumerate(last_s))


def _count_servers(work: Work) -> None:
    """When how many servers are needed; more than all of them carry stays unserved."""
    facts = work.economics
    bins = _binned(work.requests)
    most, carried = facts.max_instances, facts.requests_s * BIN_S
    needed = 1
    for n, count in sorted(bins.items()):
        need = min(max(math.ceil(count / carried), 1), most)
        work.unserved += max(count - most * carried, 0.0)
        if need != needed:
            beyond = min(count - (need - 1) * carried, carried)
            work.needs.append(Need(n * BIN_S, need, beyond / BIN_S))
            needed = need
        if need > 1 and n + 1 not in bins:
            work.needs.append(Need((n + 1) * BIN_S, 1, 0.0))
            needed = 1
    work.peak = max((need.servers for need in work.needs), default=1)


def _binned(requests: Requests) -> dict[int, float]:
    """Requests by minute."""
    bins: dict[int, float] = {}
    if requests.counts is None or requests.until_s is None:
        for at_s in requests.at_s:
            n = int(at_s // BIN_S)
            bins[n] = bins.get(n, 0.0) + 1.0
        return bins
    for at_s, until_s, count in zip(requests.at_s, requests.until_s, requests.counts, strict=True):
        n, last = int(at_s // BIN_S), int(until_s // BIN_S)
        if n == last:
            bins[n] = bins.get(n, 0.0) + count
            continue
        per_s = count / (until_s - at_s)
        for m in range(n, last + 1):
            inside_s = min(until_s, (m + 1) * BIN_S) - max(at_s, m * BIN_S)
            bins[m] = bins.get(m, 0.0) + per_s * inside_s
    return bins
