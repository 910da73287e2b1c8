"""When a start may be tried again, and when it is given up.

A *start* is one or more *launches* of a process within `start_within`. Time comes in as an
argument.
"""

LAUNCHES_PER_START = 3  # a crash at load is tried again twice, then reported to all who wait
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0


class StartBackoff:
    """Counts failures in a row. `failure` is the last one's message while it still matters."""

    def __init__(self) -> None:
        self.failure: str | None = None
        self.launch_after_s = 0.0
        self.refusing_until_s = 0.0  # set when a start was given up
        self._launches_failed = 0
        self._starts_failed = 0
        self._began_s: float | None = None

    def launching(self, now_s: float, start_within_s: float) -> float:
        """Note a launch; returns how long it may take, in seconds."""
        if self._began_s is None:
            self._began_s = now_s
        return self._began_s + start_within_s - now_s

    def ready(self) -> None:
        self.failure = None
        self._starts_failed = 0
        self._began_s = None

    def served(self) -> None:
        """A server gave an answer: what failed before does not count any more."""
        self._launches_failed = 0

    def crashed(self, now_s: float, message: str) -> None:
        """A server that had been ready died by itself."""
        self.failure = message
        self._pause(now_s)

    def launch_failed(
        self, now_s: float, message: str, *, permanent: bool, start_within_s: float
    ) -> bool:
        """Count a failed launch; True when the whole start is given up with it."""
        self.failure = message
        began_s = now_s if self._began_s is None else self._began_s
        self._pause(now_s)
        out_of_time = self.launch_after_s >= began_s + start_within_s
        if not (permanent or out_of_time or self._launches_failed >= LAUNCHES_PER_START):
            return False
        self._starts_failed += 1
        self._launches_failed = 0
        self._began_s = None
        self.refusing_until_s = now_s + min(2.0**self._starts_failed, LONGEST_PAUSE_S)
        self.launch_after_s = self.refusing_until_s
        return True

    def over(self) -> None:
        """Nothing starts and nobody wants it any more: the next start begins anew."""
        self._began_s = None
        self._launches_failed = 0

    def forget(self) -> None:
        """An operator asks for a start, whatever failed before."""
        self.refusing_until_s = self.launch_after_s = 0.0
        self._launches_failed = 0

    def _pause(self, now_s: float) -> None:
        """The first failure is answered by a launch at once, those that follow ever later."""
        self._launches_failed += 1
        again = self._launches_failed - 2
        pause_s = 0.0 if again < 0 else min(FIRST_PAUSE_S * 2.0**again, LONGEST_PAUSE_S)
        self.launch_after_s = now_s + pause_s
