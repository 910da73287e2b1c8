"""Days and a time of day from which a model is held ready: `Mon-Fri 08:30`, `Sat,Sun 10:00`."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from config.problems import did_you_mean, shown

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_CLOCK = r"(?:[01]?[0-9]|2[0-3]):[0-5][0-9]"
_TIME = re.compile(rf"(?:(?P<days>[A-Za-z][A-Za-z, -]*) +)?(?P<clock>{_CLOCK})")


@dataclass(frozen=True)
class DaysAndTime:
    """`days` count from Monday, 0."""

    days: frozenset[int]
    hour: int
    minute: int

    def covers(self, epoch_s: float, tz: str, for_s: float) -> bool:
        """Whether a stay of `for_s` that began on one of the days still holds at `epoch_s`.

        `for_s` is time that passes, so that a stay of 24h ends an hour off by the clock when the
        clocks change in between. A time that such a change skips is taken as an hour later, and of
        one that comes twice the first counts.
        """
        zone = ZoneInfo(tz)
        today = datetime.fromtimestamp(epoch_s, zone).date()
        # One day for the stay that began yesterday, one for a day that lost an hour.
        for back in range(int(for_s // 86400) + 3):
            day = today - timedelta(days=back)
            if day.weekday() in self.days:
                began = datetime(day.year, day.month, day.day, self.hour, self.minute, tzinfo=zone)
                if 0 <= epoch_s - began.timestamp() < for_s:
                    return True
        return False

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in sorted(self.days))
        return f"{days} {self.hour:02}:{self.minute:02}"


def days_and_time(value: object) -> DaysAndTime:
    """Every day when no day is named. ValueError says what to write."""
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{shown(value)} is not a day and a time, such as Mon-Fri 08:30")
    hour, minute = map(int, found["clock"].split(":"))
    return DaysAndTime(_days(found["days"] or "Mon-Sun"), hour, minute)


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin = _day(first)
        end = _day(last) if dash else begin
        days.update((begin + n) % 7 for n in range((end - begin) % 7 + 1))
    return frozenset(days)


def _day(text: str) -> int:
    name = text.strip().capitalize()
    if name not in DAYS:
        hint = did_you_mean(name, DAYS) or f"; days are {', '.join(DAYS)}"
        raise ValueError(f"{shown(text.strip())} is not a day{hint}")
    return DAYS.index(name)


WarmTime = Annotated[
    DaysAndTime,
    PlainValidator(days_and_time),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": rf"^ *([A-Za-z][A-Za-z, -]* +)?{_CLOCK} *$"}),
]
