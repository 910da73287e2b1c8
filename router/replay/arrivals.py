"""Requests drawn from a rate: where in a window they may have fallen.

A window tells how many requests it had and the form of the time between two of them: gamma or
Weibull with a shape. The form's own mean is not used, for published fits miss the measured rate
by up to a thousandfold (Weibull fits, ServeGen); the number of requests is taken as given, and
the gaps are drawn from the form and scaled until they fill the window. For gamma that is exactly
a renewal process under the condition that so many requests came. Each window is drawn alone.

A busy window is drawn as spells. Only its gaps longer than a floor are drawn: of `n` gaps the
longest, the second longest and so on, as order statistics from the tail of the form, and the mean
of all that are shorter stands for these. So 3.6 billion requests cost a draw per long gap.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from router.replay.gamma import below, upper_quantile

Family = Literal["gamma", "weibull"]
TAIL_DRAWS = 100  # draws that one gap from the tail of a gamma distribution is worth
SURELY_NONE = 1e-4  # expected gaps above the floor, under which a window is one spell
SHORTEST_STEP = 1e-300


@dataclass(frozen=True, slots=True)
class Form:
    """A distribution of gaps with mean 1."""

    family: Family
    shape: float

    def draw(self, rng: Random) -> float:
        if self.family == "gamma":
            return rng.gammavariate(self.shape, 1.0 / self.shape)
        return rng.weibullvariate(self._unit, self.shape)

    def tail(self, gap: float) -> float:
        """The share of gaps that are longer."""
        if self.family == "gamma":
            return 1.0 - below(self.shape, gap * self.shape)
        return math.exp(-((gap / self._unit) ** self.shape))

    def longer_by(self, share: float) -> float:
        """The gap that this share of gaps is longer than."""
        if self.family == "gamma":
            return upper_quantile(self.shape, share) / self.shape
        return float(self._unit * (-math.log(share)) ** (1.0 / self.shape))

    def mean_up_to(self, gap: float) -> float:
        """The mean of the gaps that are not longer."""
        if self.family == "gamma":
            inside, weighted = below(self.shape, gap * self.shape), self.shape + 1.0
            return below(weighted, gap * self.shape) / inside if inside > 0 else 0.0
        power = (gap / self._unit) ** self.shape
        inside = -math.expm1(-power)
        return below(1.0 + 1.0 / self.shape, power) / inside if inside > 0 else 0.0

    @property
    def _unit(self) -> float:
        return math.exp(-math.lgamma(1.0 + 1.0 / self.shape))


def draw(rng: Random, form: Form, count: int, begin_s: float, width_s: float) -> Iterator[float]:
    """The times of `count` requests in a window, ascending."""
    if form.family == "gamma":
        shape, unit = form.shape, 1.0
        gaps = [rng.gammavariate(shape, unit) for _ in range(count + 1)]
    else:
        gaps = [rng.weibullvariate(1.0, form.shape) for _ in range(count + 1)]
    total = sum(gaps)
    if not 0 < total < math.inf:
        yield from sorted(begin_s + width_s * rng.random() for _ in range(count))
        return
    scale, at_s, last_s = width_s / total, begin_s, begin_s + width_s
    for gap in gaps[:-1]:
        at_s += gap * scale
        yield min(at_s, last_s)


def long_gaps(rng: Random, form: Form, count: int, width_s: float, floor_s: float) -> list[float]:
    """Of `count` gaps that fill a window, those longer than a floor."""
    expected = count * form.tail(floor_s * count / width_s)
    if expected < SURELY_NONE:
        return []
    if form.family == "gamma" and count < TAIL_DRAWS * expected:
        times = [0.0, *draw(rng, form, count - 1, 0.0, width_s), width_s]
        gaps = (b - a for a, b in zip(times, times[1:], strict=False))
        return [gap for gap in gaps if gap > floor_s]
    drawn: list[float] = []
    total, share = 0.0, 0.0
    scale = width_s / count
    while len(drawn) < count:
        left = count - len(drawn)
        # The smallest of `left` uniform shares above the last one.
        share += (1.0 - share) * -math.expm1(math.log1p(-rng.random()) / left)
        gap = form.longer_by(max(share, SHORTEST_STEP))
        rest = (left - 1) * form.mean_up_to(gap)
        scale = width_s / max(total + gap + rest, SHORTEST_STEP)
        if gap * scale <= floor_s:
            break
        drawn.append(gap)
        total += gap
    return [gap * scale for gap in drawn if gap * scale > floor_s]


def spells(
    rng: Random, form: Form, count: int, begin_s: float, width_s: float, floor_s: float
) -> Iterator[tuple[float, float, int]]:
    """A busy window as (first request, last request, requests): the runs between its long gaps.

    The window has a gap before each of its requests and one after the last. Which of them are the
    long ones is drawn; all others are alike.
    """
    gaps = long_gaps(rng, form, count + 1, width_s, floor_s)
    places = rng.sample(range(count + 1), len(gaps))
    short_s = (width_s - sum(gaps)) / max(count + 1 - len(gaps), 1)
    at_s, done = begin_s, 0
    for place, gap_s in sorted(zip(places, gaps, strict=True)):
        if place > done:
            first_s = at_s + (short_s if done == 0 and at_s == begin_s else 0.0)
            last_s = first_s + (place - done - 1) * short_s
            yield first_s, last_s, place - done
            at_s, done = last_s, place
        at_s += gap_s
    if count > done:
        first_s = at_s + (short_s if done == 0 and at_s == begin_s else 0.0)
        yield first_s, first_s + (count - done - 1) * short_s, count - done
