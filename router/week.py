"""Requests by the hour of the week: what the clock on the wall says about demand."""

from msgspec import Struct

HOURS = 168
FORGET = 0.5  # of what was seen in this hour a week before

_HOUR_S = 3600.0
_MONDAY_HOURS = 72  # the epoch began on a Thursday


class Hour(Struct):
    """One hour of the week, UTC. Older weeks count less: `seconds` is how much they all weigh."""

    week: int = 0  # the last one seen in it, in weeks since the Monday before the epoch
    seconds: float = 0.0
    requests: float = 0.0

    @property
    def rate(self) -> float | None:
        """Requests per second; None if the hour was hardly seen."""
        return self.requests / self.seconds if self.seconds >= 1.0 else None


class Week:
    """The 168 hours from Monday 00:00 UTC."""

    def __init__(self) -> None:
        self.hours = [Hour() for _ in range(HOURS)]
        self._changed: set[int] = set()

    def add(self, epoch_s: float, seconds: float, requests: float) -> None:
        """`requests` came in the `seconds` that ended at `epoch_s`."""
        number, week = hour_of_week(epoch_s)
        hour = self.hours[number]
        if hour.week != week:
            left = FORGET ** max(week - hour.week, 0)
            hour.week, hour.seconds, hour.requests = week, hour.seconds * left, hour.requests * left
        hour.seconds += seconds
        hour.requests += requests
        self._changed.add(number)

    def take_changed(self) -> set[int]:
        """Numbers of the hours that were added to since this was asked last."""
        taken, self._changed = self._changed, set()
        return taken

    def rates(self) -> tuple[float | None, ...]:
        return tuple(hour.rate for hour in self.hours)


def hour_of_week(epoch_s: float) -> tuple[int, int]:
    """The number of the hour, 0 for Monday 00:00 to 01:00 UTC, and that of its week."""
    week, hour = divmod(int(epoch_s // _HOUR_S) + _MONDAY_HOURS, HOURS)
    return hour, week
