"""Counters and histograms as Prometheus sees them, of one process and of several."""

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from proxy.tables import Counters, Histograms

BOUNDS = (0.01, 0.02, 0.04)


def shown(*tables: Counters | Histograms) -> dict[str, float]:
    registry = CollectorRegistry()
    for table in tables:
        registry.register(table)
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in registry.collect()
        for sample in family.samples
    }


@pytest.mark.parametrize("values", [[], [0.0, 0.01, 0.0100001, 0.04, 0.05, 7.0]])
def test_histogram_is_the_one_of_the_client_library(values: list[float]) -> None:
    theirs = CollectorRegistry()
    reference = Histogram("h", "Text", ["m"], buckets=BOUNDS, registry=theirs).labels("x")
    ours = Histograms("h", "Text", ["m"], BOUNDS)
    for value in values:
        reference.observe(value)
        ours.at("x").observe(value)
    ours.at("x")
    registry = CollectorRegistry()
    registry.register(ours)
    expected = generate_latest(theirs).splitlines()
    assert generate_latest(registry).splitlines() == [x for x in expected if b"_created" not in x]


def test_what_workers_count_is_added_and_stays_when_they_end() -> None:
    mine, theirs = (Counters("c", "Text", ["m"]) for _ in range(2))
    mine.at("x").value += 1
    theirs.at("x").value += 2
    theirs.at("y").value += 3
    mine.learn(1, theirs.dump())
    mine.learn(1, theirs.dump())  # the same worker again: no more than it told last
    mine.learn(2, theirs.dump())
    expected = {"c_total[('m', 'x')]": 5.0, "c_total[('m', 'y')]": 6.0}
    assert shown(mine) == expected
    mine.keep(1)
    mine.keep(2)
    mine.keep(3)
    assert shown(mine) == expected


def test_histograms_of_workers_are_added_bucket_by_bucket() -> None:
    mine, theirs = (Histograms("h", "Text", ["m"], BOUNDS) for _ in range(2))
    for value in (0.01, 5.0):
        mine.at("x").observe(value)
        theirs.at("x").observe(value)
    mine.learn(1, theirs.dump())
    found = shown(mine)
    assert found["h_bucket[('le', '0.01'), ('m', 'x')]"] == 2
    assert found["h_count[('m', 'x')]"] == 4
    assert found["h_sum[('m', 'x')]"] == pytest.approx(10.02)


def test_first_sums_are_the_counts_and_the_sums_of_all_processes() -> None:
    counts, times = Counters("c", "Text", ["m"]), Histograms("h", "Text", ["m"], BOUNDS)
    for table in (counts, times):
        for worker in (1, 2):
            table.learn(worker, [(("x",), [2.5, 1, 0, 0, 0])])
    counts.at("x").value += 1
    times.at("y").observe(0.25)
    assert counts.first_sums() == {("x",): 6.0}
    assert times.first_sums() == {("x",): 5.0, ("y",): 0.25}
