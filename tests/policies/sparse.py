"""A seeded workload of many models that are seldom asked: sessions, and long times without."""

import math
import random
from functools import cache

MODELS = 87
DAYS = 23
SESSION_GAP_S = 60.0  # median, lognormal
SESSION_REQUESTS = 9.0  # mean
SESSIONS = 40  # at most: busier models are cut off there
SEED = 4


@cache
def sparse_gaps() -> tuple[tuple[float, ...], ...]:
    """Idle gaps in seconds by model."""
    rng = random.Random(SEED)
    return tuple(_gaps(rng, 10 ** rng.uniform(-5.5, -3)) for _ in range(MODELS))


def _gaps(rng: random.Random, sessions_per_s: float) -> tuple[float, ...]:
    gaps_s: list[float] = []
    sessions = min(int(DAYS * 86400 * sessions_per_s) + 1, SESSIONS)
    for _ in range(sessions):
        gaps_s.append(rng.expovariate(sessions_per_s))
        requests = 1 + int(rng.expovariate(1 / (SESSION_REQUESTS - 1)))
        gaps_s += [rng.lognormvariate(math.log(SESSION_GAP_S), 1.0) for _ in range(requests - 1)]
    return tuple(gaps_s)
