"""Made-up answers of a small and a large model, of which the truth is known."""

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.signals import Signals
from router.calibrate.labelled import Labelled


def answers(count: int, seed: int, signals: int = 1, streams: bool = False) -> list[Labelled]:
    """The surer, the righter. With `streams` their first tokens are labelled too."""
    chance = np.random.default_rng(seed)
    ease = chance.standard_normal(count)
    small = chance.random(count) < 1 / (1 + np.exp(-1.0 - 1.5 * ease))
    large = chance.random(count) < np.where(small, 0.97, 0.7)
    found = [
        Labelled(
            signals=_signals(chance, about, signals),
            small_right=bool(right),
            large_right=bool(other),
            small_usd=0.1,
            large_usd=1.0,
        )
        for about, right, other in zip(ease, small, large, strict=True)
    ]
    if not streams:
        return found
    return [
        replace(each, first=_signals(chance, about, signals))
        for each, about in zip(found, ease, strict=True)
    ]


def _signals(chance: np.random.Generator, ease: float, count: int) -> Signals:
    """All but the first hear of the ease through noise."""
    values = [-float(np.exp(-1.5 * ease - 1))]
    noises = chance.standard_normal(count - 1)
    values += [-float(np.exp(-ease - 2 * noise)) for noise in noises]
    names = ("mean_logprob", "low_logprob", "min_logprob", "self_check", "span_mean_logprob")
    return Signals(**dict(zip(names, values, strict=False)))


def wrongly_kept(labels: list[Labelled], keep: NDArray[np.bool_]) -> float:
    """Share of all in which the small model's wrong answer is kept, the large one's being right."""
    loss = np.array([bool(each.large_right) and not each.small_right for each in labels])
    return float((loss & keep).mean())
