"""The gamma distribution: its share below a value, and the inverse of the share above."""

import math

TINY = 1e-300
EPS = 1e-12
STEPS = 500


def below(shape: float, value: float) -> float:
    """The share of a gamma distribution with scale 1 that lies below a value."""
    if value <= 0:
        return 0.0
    if math.isinf(value):
        return 1.0
    front = math.exp(shape * math.log(value) - value - math.lgamma(shape))
    if value < shape + 1.0:
        return min(front * _series(shape, value), 1.0)
    return 1.0 - front * _fraction(shape, value)


def above(shape: float, value: float) -> float:
    """The share above, exact where it is tiny."""
    if value < shape + 1.0:
        return 1.0 - below(shape, value)
    front = math.exp(shape * math.log(value) - value - math.lgamma(shape))
    return front * _fraction(shape, value)


def upper_quantile(shape: float, share: float) -> float:
    """The value that `share` of the distribution lies above.

    Newton's steps on the logarithms of both, which is concave, within a bracket.
    """
    if share >= 1.0:
        return 0.0
    low, high = -700.0, 700.0
    y, wanted = math.log(shape + 1.0), math.log(share)
    for _ in range(100):
        value = math.exp(y)
        there = above(shape, value)
        if there > share:
            low = y
        else:
            high = y
        density = math.exp(shape * y - value - math.lgamma(shape))
        step = there * (math.log(there) - wanted) / density if there > 0 and density > 0 else 0.0
        if abs(step) < 1e-9 and step:
            break
        y = y + step if step and low < y + step < high else 0.5 * (low + high)
        if high - low < 1e-9:
            break
    return math.exp(y)


def _series(shape: float, value: float) -> float:
    term = total = 1.0 / shape
    a = shape
    for _ in range(STEPS):
        a += 1.0
        term *= value / a
        total += term
        if term < total * EPS:
            break
    return total


def _fraction(shape: float, value: float) -> float:
    """Lentz's continued fraction."""
    b = value + 1.0 - shape
    c = 1.0 / TINY
    d = 1.0 / b
    out = d
    for i in range(1, STEPS):
        an = -i * (i - shape)
        b += 2.0
        d = 1.0 / (an * d + b or TINY)
        c = b + an / c or TINY
        out *= d * c
        if abs(d * c - 1.0) < EPS:
            break
    return out
