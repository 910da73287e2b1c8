"""What is measured, by name: the rows each fills, and how one round at one target is made."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from load_tests.rig import memory
from load_tests.rig.bench import Bench
from load_tests.rig.calls import large_body, small_body
from load_tests.rig.drivers import Streamed, run_steady, run_streams
from load_tests.rig.gateways import Target
from load_tests.rig.judge import (
    FAILED,
    Sample,
    closed_loop,
    latency,
    paced,
    throughput,
)
from load_tests.rig.plain import run_wrk
from load_tests.rig.report import Row

Direct = Mapping[str, float]  # this round's values of the upstream itself, by row
Round = Callable[[Bench, Target, Direct], Iterator[Sample]]
STEADY_RATE = 5_000
LADDER = (8, 128, 256, 512, 768, 1024, 1500, 2000)
PACED_CHUNKS, PACE_MS, WIDEST_GAP_S = 400, 20, 0.2  # longer than all take to open
PACED_WITHIN_S = 15.0
RUNG_TRIES = 3
HELD_CHUNKS = 25
STREAM_CHUNKS = 4_000  # more than come in a round


@dataclass(frozen=True)
class Measurement:
    rows: tuple[Row, ...]
    once: Round
    direct: bool = False  # the upstream alone goes first, as what the others are held against
    fresh: bool = False  # each round in a new process, alone
    rounds: int | None = None  # if other than what was asked for


def _plain(body: str, connections: int, key: str, rate: str = "") -> Round:
    def once(bench: Bench, target: Target, direct: Direct) -> Iterator[Sample]:
        run_wrk(bench, target, body, connections, 1)  # connections and caches
        run = run_wrk(bench, target, body, connections, bench.seconds)
        refused = FAILED if run.errors else ""
        yield Sample(
            key, target.name, run.cpu_us, refused or closed_loop(run.shares), f"{run.shares}"
        )
        if rate:
            value = run.requests / run.duration_s
            yield Sample(
                rate, target.name, value, refused or throughput(run.shares), f"{run.shares}"
            )

    return once


def _one(bench: Bench, target: Target, direct: Direct) -> Iterator[Sample]:
    """Latency at one connection; of the gateways, what they add."""
    run_wrk(bench, target, small_body(), 1, 1)
    run = run_wrk(bench, target, small_body(), 1, bench.seconds)
    judged = latency(run.shares) if target.running else ""  # alone, one of the two always works
    refused = FAILED if run.errors else judged
    for key, value in (("one-p50", run.p50_ms), ("one-p99", run.p99_ms)):
        yield Sample(key, target.name, value - direct.get(key, 0.0), refused, f"{run.shares}")


def _rate(bench: Bench, target: Target, direct: Direct) -> Iterator[Sample]:
    run = run_steady(bench, target, STEADY_RATE, bench.seconds)
    refused = latency(run.shares, run.late_p99_ms, run.answered / run.due)
    refused = FAILED if run.errors and not refused else refused
    note = f"{run.shares}, late {run.late_p99_ms:.2f} ms, {run.answered} of {run.due}"
    for key, value in (("rate-p50", run.p50_ms), ("rate-p99", run.p99_ms)):
        yield Sample(key, target.name, value - direct.get(key, 0.0), refused, note)


def _stream(bench: Bench, target: Target, direct: Direct) -> Iterator[Sample]:
    run = run_streams(bench, target, 200, PACE_MS, STREAM_CHUNKS, bench.seconds)
    due = 200 * run.wall_s * 1000 / PACE_MS
    refused = FAILED if run.ended else paced(run.shares, run.chunks, due)
    note = f"{run.shares}, {run.chunks} of {due:.0f} chunks in {run.running} streams"
    yield Sample("stream", target.name, run.cpu_us, refused, note)


def _held(streams: int) -> Round:
    def once(bench: Bench, target: Target, direct: Direct) -> Iterator[Sample]:
        before = target.rss_bytes()
        run = run_streams(bench, target, streams, 1000, HELD_CHUNKS, HELD_CHUNKS + 20)
        bound = run.shares.rig_limit
        lost = streams * HELD_CHUNKS - run.all_chunks
        key = f"held-{streams}"
        yield Sample(f"{key}-whole", target.name, run.whole, bound)
        yield Sample(f"{key}-lost", target.name, lost, bound)
        failed = bound or (FAILED if run.whole < streams else "")
        each_kb = (run.most_rss_bytes - before) / streams / 1000
        yield Sample(f"{key}-kb", target.name, each_kb, failed)
        yield Sample(f"{key}-cpu", target.name, run.cpu_us, failed, f"{run.shares}")

    return once


def _paced(bench: Bench, target: Target, direct: Direct) -> Iterator[Sample]:
    """The most streams on the ladder that all came whole and without a stall; 0 if none did."""
    held, bound, note = 0, "", ""
    for streams in LADDER:
        run = _rung(bench, target, streams)
        note = f"{streams}: {run.whole} whole, gap {run.widest_gap_s * 1e3:.0f} ms, {run.shares}"
        limit = run.shares.rig_limit
        if limit:
            bound = f">= {held:,} ({limit})"
            break
        if not _flowing(run, streams):
            break
        held = streams
    yield Sample("paced", target.name, held, bound, note)


def _rung(bench: Bench, target: Target, streams: int) -> Streamed:
    """One step of the ladder, tried again when it may have failed by the fault of strangers."""
    load = (streams, PACE_MS, PACED_CHUNKS, PACED_WITHIN_S)
    for _ in range(RUNG_TRIES - 1):
        run = run_streams(bench, target, *load, with_opening=True)
        if not run.shares.disturbed or (_flowing(run, streams) and not run.shares.rig_limit):
            return run
    return run_streams(bench, target, *load, with_opening=True)


def _flowing(run: Streamed, streams: int) -> bool:
    at_once = run.ended_early == 0
    return at_once and run.whole == streams and run.widest_gap_s <= WIDEST_GAP_S


def _held_rows(streams: int) -> tuple[Row, ...]:
    what = f"{streams:,} streams, a chunk a second"
    key = f"held-{streams}"
    return (
        Row(f"{key}-whole", f"{what}: came whole", "nothing", 0, reach="all"),
        Row(f"{key}-lost", f"{what}: chunks lost", "nothing", 0, reach="0"),
        Row(f"{key}-kb", f"{what}: memory each (KB)", reach="<= 60 KB"),
        Row(f"{key}-cpu", f"{what}: CPU a chunk (us)"),
    )


MEASUREMENTS: dict[str, Measurement] = {
    "plain": Measurement(
        (Row("plain-16", "plain request, 16 connections (us CPU)", reach="<= 1.0 x, 1/90"),),
        _plain(small_body(), 16, "plain-16"),
    ),
    "plain64": Measurement(
        (
            Row("plain-64", "plain request, 64 connections (us CPU)"),
            Row("plain-64-rate", "plain requests a second, 64 connections", digits=0),
        ),
        _plain(small_body(), 64, "plain-64", "plain-64-rate"),
    ),
    "body": Measurement(
        (Row("body", "plain request of 400 KB, 16 connections (us CPU)", reach="<= 1.0 x"),),
        _plain(large_body(), 16, "body"),
    ),
    "stream": Measurement(
        (Row("stream", "chunk, 200 streams at 20 ms (us CPU)", reach="<= 1.0 x"),), _stream
    ),
    "one": Measurement(
        (
            Row("one-p50", "added latency, 1 connection, p50 (ms)", "difference", 3, "ms", "+0.15"),
            Row("one-p99", "added latency, 1 connection, p99 (ms)", "difference", 3, "ms"),
        ),
        _one,
        direct=True,
    ),
    "rate": Measurement(
        (
            Row("rate-p50", f"added latency at {STEADY_RATE:,}/s, p50 (ms)", "difference", 2, "ms"),
            Row(
                "rate-p99",
                f"added latency at {STEADY_RATE:,}/s, p99 (ms)",
                "difference",
                2,
                "ms",
                "<= 2 ms",
            ),
        ),
        _rate,
        direct=True,
    ),
    "paced": Measurement(
        (Row("paced", "streams at 20 ms at once, no gap > 200 ms", "nothing", 0, reach="2,000"),),
        _paced,
        rounds=1,
    ),
    "held2000": Measurement(_held_rows(2_000), _held(2_000), fresh=True, rounds=1),
    "held5000": Measurement(_held_rows(5_000), _held(5_000), fresh=True, rounds=1),
    "memory": Measurement(memory.ROWS, memory.once, fresh=True, rounds=1),
}
QUICK = ("plain", "stream")
EVERYDAY = tuple(name for name in MEASUREMENTS if name != "memory")  # that takes minutes
