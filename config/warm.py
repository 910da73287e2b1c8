"""Days and a time of day at which a model is to be ready: `Mon-Fri 08:30`, `Sat,Sun 10:00`."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import GetPydanticSchema
from pydantic_core import core_schema

from config.problems import shown

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_TIME = re.compile(r"(?:(?P<days>[A-Za-z,-]+) +)?(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)")
LONGEST_LOOK_BACK_DAYS = 8  # `for` may be a week


@dataclass(frozen=True)
class DaysAndTime:
    """`days` count from Monday, 0."""

    days: frozenset[int]
    hour: int
    minute: int

    def covers(self, epoch_s: float, tz: str, for_s: float) -> bool:
        """Whether a stay of `for_s` that began on one of the days holds at `epoch_s`.

        A time that a change of clocks skips is the one an hour later, as people expect.
        """
        zone = ZoneInfo(tz)
        today = datetime.fromtimestamp(epoch_s, zone).date()
        for back in range(min(int(for_s // 86400) + 2, LONGEST_LOOK_BACK_DAYS)):
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
    """ValueError says what to write."""
    if isinstance(value, DaysAndTime):
        return value
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{shown(value)} is not a day and a time, such as Mon-Fri 08:30")
    return DaysAndTime(_days(found["days"] or "Mon-Sun"), int(found["hour"]), int(found["minute"]))


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = _day(first), _day(last or first)
        days.update((begin + n) % 7 for n in range((end - begin) % 7 + 1))
    return frozenset(days)


def _day(text: str) -> int:
    try:
        return DAYS.index(text.capitalize())
    except ValueError:
        raise ValueError(f"{shown(text)} is not one of {', '.join(DAYS)}") from None


def _schema(source: Any, handler: Any) -> core_schema.CoreSchema:
    return core_schema.no_info_plain_validator_function(
        days_and_time,
        json_schema_input_schema=core_schema.str_schema(min_length=1),
        serialization=core_schema.to_string_ser_schema(),
    )


WarmTime = Annotated[DaysAndTime, GetPydanticSchema(_schema)]
