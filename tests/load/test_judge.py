"""When a number is worth printing."""

import math

import pytest

from load_tests.rig.judge import (
    BUSY_MACHINE,
    FAILED,
    GENERATOR_BOUND,
    OVERLOADED,
    Result,
    Sample,
    Shares,
    closed_loop,
    latency,
    paced,
    percentile,
    throughput,
    together,
)


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        (Shares(gateway=1.0, rig=0.3), ""),
        (Shares(gateway=0.5, rig=0.99), GENERATOR_BOUND),
        (Shares(gateway=0.9, rig=0.95), ""),  # both full: the gateway had all it can take
        (Shares(gateway=0.5, rig=0.2, others=0.5), ""),  # what is left of its core it used up
        (Shares(gateway=0.4, rig=0.4, rig_others=0.6), BUSY_MACHINE),
        (Shares(gateway=0.6, rig=0.3), ""),  # neither full: latencies, not the rig
    ],
)
def test_cpu_per_request_is_refused_when_the_rig_was_the_limit(
    shares: Shares, verdict: str
) -> None:
    assert closed_loop(shares) == verdict


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        (Shares(gateway=0.95, rig=0.99), ""),
        (Shares(gateway=0.7, rig=0.99), GENERATOR_BOUND),
        (Shares(gateway=0.5, rig=0.3, others=0.5), BUSY_MACHINE),
    ],
)
def test_rate_is_refused_unless_the_gateway_used_its_core(shares: Shares, verdict: str) -> None:
    assert throughput(shares) == verdict


@pytest.mark.parametrize(
    ("shares", "chunks", "verdict"),
    [
        (Shares(gateway=0.2, rig=0.2), 9_900, ""),
        (Shares(gateway=0.2, rig=0.2), 9_000, GENERATOR_BOUND),
        (Shares(gateway=0.2, rig=0.95), 10_000, GENERATOR_BOUND),
        (Shares(gateway=0.2, rig=0.2, rig_others=0.75), 9_000, BUSY_MACHINE),
        (Shares(gateway=1.0, rig=0.1), 3_000, ""),  # late by its own fault: still CPU per chunk
    ],
)
def test_cpu_per_chunk_is_refused_when_chunks_are_missing_without_need(
    shares: Shares, chunks: int, verdict: str
) -> None:
    assert paced(shares, chunks, due=10_000) == verdict


@pytest.mark.parametrize(
    ("shares", "late_ms", "answered", "verdict"),
    [
        (Shares(gateway=0.5, rig=0.4), 0.1, 1.0, ""),
        (Shares(gateway=0.5, rig=0.4, others=0.2), 0.1, 1.0, BUSY_MACHINE),
        (Shares(gateway=0.5, rig=0.4, rig_others=0.2), 0.1, 1.0, BUSY_MACHINE),
        (Shares(gateway=0.5, rig=0.95), 0.1, 1.0, GENERATOR_BOUND),
        (Shares(gateway=0.5, rig=0.4), 3.0, 1.0, GENERATOR_BOUND),
        (Shares(gateway=0.99, rig=0.4), 0.1, 1.0, OVERLOADED),
        (Shares(gateway=0.5, rig=0.4), 0.1, 0.5, OVERLOADED),
    ],
)
def test_latency_is_refused_when_anything_but_the_gateway_was_full_or_late(
    shares: Shares, late_ms: float, answered: float, verdict: str
) -> None:
    assert latency(shares, late_ms, answered) == verdict


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_percentile_is_a_value_that_was_seen(share: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))


def samples(*values: tuple[float, str]) -> list[Sample]:
    return [Sample("row", "peer", value, refused) for value, refused in values]


def test_median_of_the_good_rounds_counts() -> None:
    found = together(samples((3.0, ""), (9.0, GENERATOR_BOUND), (1.0, ""), (2.0, "")))
    assert found == Result(2.0, "", (3.0, 1.0, 2.0))


def test_mostly_refused_rounds_give_the_reason_and_no_number() -> None:
    found = together(samples((3.0, ""), (9.0, FAILED), (9.0, FAILED)))
    assert math.isnan(found.value)
    assert found.refused == FAILED
