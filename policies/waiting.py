"""How long a caller may be kept waiting, and what to tell the one who cannot wait."""

import math
from collections.abc import Sequence

CALLER_MARGIN_S = 1.0  # answer this long before the caller's own timeout, so that it hears why
SHORTEST_WAIT_S = 0.1
LONGEST_RETRY_AFTER_S = 60  # the OpenAI SDK for Node obeys no more; the one for Python 120
FIRST_START_GUESS_S = 20.0  # before any start was measured


def may_wait_s(max_wait_s: float, read_timeout_s: float | None, stream: bool) -> float:
    """Seconds that a request may be held.

    A streaming caller is kept awake by comments, so only the policy bounds it; any other caller
    gives up at its read timeout, which the SDKs send along.
    """
    if stream or read_timeout_s is None:
        return max_wait_s
    return max(min(max_wait_s, read_timeout_s - CALLER_MARGIN_S), SHORTEST_WAIT_S)


def comments_s(grace_s: float, every_s: float, read_timeout_s: float | None) -> tuple[float, float]:
    """When the first comment goes to a waiting stream, and how often they follow.

    A caller who said that it waits four seconds for bytes hears something every two.
    """
    if read_timeout_s is None:
        return grace_s, every_s
    return min(grace_s, read_timeout_s / 2), min(every_s, read_timeout_s / 2)


def remaining_start_s(
    start_times_s: Sequence[float],
    starting_for_s: float | None,
    guess_s: float = FIRST_START_GUESS_S,
) -> float:
    """The 90th percentile of what is left of a start, from the last ones (nearest rank).

    `guess_s` stands for it before any start was measured.
    """
    passed_s = starting_for_s or 0.0
    longer = sorted(t for t in start_times_s if t > passed_s)
    if longer:
        return longer[math.ceil(0.9 * len(longer)) - 1] - passed_s
    longest_yet_s = max(passed_s * 0.5, 1.0)  # it takes longer than expected, or than ever
    return longest_yet_s if start_times_s else max(guess_s - passed_s, longest_yet_s)


def retry_after_s(estimate_s: float | None) -> int:
    """Whole seconds for a Retry-After header, within what every SDK obeys."""
    if estimate_s is None or math.isinf(estimate_s):
        return 1
    return max(1, min(math.ceil(estimate_s), LONGEST_RETRY_AFTER_S))
