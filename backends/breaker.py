"""Whether an endpoint may be tried: consecutive failures open it, one probe closes it again.

Time comes in as an argument. A caller's 4xx and a caller who leaves are not failures: they say
nothing about the endpoint.
"""

THRESHOLD = 3  # consecutive failures; one refused connection is enough
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


class Breaker:
    """Closed, open until a time, or half open: then exactly one probe is let through."""

    def __init__(self) -> None:
        self.failures = 0
        self.open_until_s: float | None = None
        self._pause_s = FIRST_PAUSE_S
        self._probing = False
        self._unreachable = False

    @property
    def closed(self) -> bool:
        return self.open_until_s is None

    def allows(self, now_s: float) -> bool:
        """Whether a request may go there now; asking changes nothing."""
        if self.open_until_s is None:
            return True
        return now_s >= self.open_until_s and not self._probing

    def begin(self) -> bool:
        """Note that a request goes there; True when it is the half-open probe."""
        if self.open_until_s is None or self._probing:
            return False
        self._probing = True
        return True

    def abandon(self) -> None:
        """The probe ended without a verdict (its caller left): the next request may probe."""
        self._probing = False

    def succeeded(self) -> None:
        self.failures = 0
        self.open_until_s = None
        self._pause_s = FIRST_PAUSE_S
        self._probing = False
        self._unreachable = False

    def reachable(self) -> None:
        """A check got through: closes what was opened because nothing did."""
        if self._unreachable:
            self.succeeded()

    def unreachable(self, now_s: float, next_check_s: float) -> None:
        """A check did not get through: nobody else need find out before the next one."""
        self._unreachable = True
        self.failures += 1
        self.open_until_s = max(now_s + next_check_s, self.open_until_s or 0.0)

    def failed(self, now_s: float, *, at_once: bool = False) -> None:
        """Count a failure. `at_once` opens without waiting for the threshold."""
        self.failures += 1
        self._unreachable = self._unreachable or at_once
        reopening = self.open_until_s is not None
        if not (at_once or reopening or self.failures >= THRESHOLD):
            return
        if reopening and not self._probing:
            return  # a late failure of a request from before the breaker opened
        if reopening:
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        self.open_until_s = now_s + self._pause_s
        self._probing = False
