"""How long the rises of a replay take: drawn from three points of a distribution, or from starts
that were measured."""

from collections.abc import Mapping, Sequence
from random import Random

from policies.rungs import RungName
from router.economics import Economics
from router.replay.server import Draw

_P50, _P90, _P99 = 0.5, 0.9, 0.99


def drawn_s(points: tuple[float, float, float], share: float) -> float:
    """The time that this share of starts does not exceed.

    Straight lines between p50, p90 and p99; p99 is the longest, and the shortest is as far below
    p50 as p90 is above it, as a factor.
    """
    p50, p90, p99 = points
    if share >= _P99:
        return p99
    if share >= _P90:
        return p90 + (p99 - p90) * (share - _P90) / (_P99 - _P90)
    if share >= _P50:
        return p50 + (p90 - p50) * (share - _P50) / (_P90 - _P50)
    shortest = p50 * p50 / p90 if p90 > 0 else 0.0
    return shortest + (p50 - shortest) * share / _P50


def mean_s(points: tuple[float, float, float]) -> float:
    """The mean of what `drawn_s` draws."""
    knots = [(0.0, drawn_s(points, 0.0)), (_P50, points[0]), (_P90, points[1]), (_P99, points[2])]
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(knots, knots[1:], strict=False))
    return area + (1.0 - _P99) * points[2]


def drawing(
    facts: Economics, measured_s: Sequence[float], seed: str
) -> tuple[Draw, Mapping[RungName, float]]:
    """How long the next rise from a rung takes, and the means by rung."""
    rng = Random(seed)
    means: dict[RungName, float] = {level.name: level.wake_s for level in facts.sleep}
    means["hot"] = 0.0
    means["off"] = sum(measured_s) / len(measured_s) if measured_s else mean_s(facts.start_s)
    points = facts.start_s

    def draw_s(rung: RungName, now_s: float) -> float:
        if rung != "off":
            return means[rung]
        return rng.choice(measured_s) if measured_s else drawn_s(points, rng.random())

    return draw_s, means
