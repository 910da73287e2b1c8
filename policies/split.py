"""Which of several models answers, by their weights: the same one for the same key.

Weighted rendezvous hashing: each model draws a number from the key and its own name, and the
highest wins. When a weight changes, or a model comes or goes, only the keys move that must.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

from config.policy import Weighted

_DRAWS = 2.0**64


def pick(split: Sequence[Weighted], key: str) -> str:
    """The model for a key. Each gets a share of all keys that is its share of the weights."""
    if len(split) == 1:
        return split[0].model
    state = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8)
    return max(split, key=lambda item: _score(state, item)).model


def _score(state: blake2b, item: Weighted) -> float:
    drawn = state.copy()
    drawn.update(b"\0" + item.model.encode("utf-8", "surrogatepass"))
    # Between the steps of the draw, so that it is neither 0 nor 1.
    share = (int.from_bytes(drawn.digest(), "big") + 0.5) / _DRAWS
    return -item.weight / math.log(min(share, 1 - 2**-53))
