"""How many callers wait for one return to hot: the one who comes first, and who comes meanwhile.

A burst is what comes between two gaps that keep-alive learns from. Within it requests are taken as
spread evenly, so that only its length and their number need be known.
"""

from collections.abc import Mapping

from policies.rungs import RungName

WEIGHT = 0.1  # of the last burst in the running means
MOVED = 0.1  # a smaller relative change does not change prices


class Bursts:
    """Running means by rung, in callers who wait as long as the whole wake takes."""

    def __init__(self) -> None:
        self._callers: dict[RungName, float] = {}
        self._priced: dict[RungName, float] = {}
        self._requests = 0.0
        self._began_s: float | None = None

    def came(self, now_s: float, requests: float) -> None:
        if self._began_s is None:
            self._began_s = now_s
        self._requests += requests

    def ended(self, ended_s: float, wakes_s: Mapping[RungName, float]) -> bool:
        """A gap has followed it; whether the means have moved so far that prices must."""
        if self._began_s is None:
            return False
        length_s, requests = ended_s - self._began_s, self._requests
        self._began_s, self._requests = None, 0.0
        for rung, wake_s in wakes_s.items():
            mean = self._callers.get(rung, 1.0)
            self._callers[rung] = mean + WEIGHT * (_callers(requests, length_s, wake_s) - mean)
        return any(abs(now - self.callers(r)) > MOVED * now for r, now in self._callers.items())

    def callers(self, rung: RungName) -> float:
        """As priced: at least 1."""
        return self._priced.get(rung, 1.0)

    def price(self) -> None:
        """What was learned holds from now on."""
        self._priced = dict(self._callers)


def _callers(requests: float, length_s: float, wake_s: float) -> float:
    """The sum of the waits of one burst for a wake that begins with it, in wakes."""
    if wake_s <= 0 or requests <= 1:
        return 1.0
    within_s = min(length_s, wake_s)
    share = within_s / length_s if length_s > 0 else 1.0
    return 1.0 + (requests - 1) * share * (wake_s - within_s / 2) / wake_s
