"""Days and times, against a reckoning that goes minute by minute."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.schema import part_at
from config.sources import Warm
from config.warm import DAYS, DaysAndTime, days_and_time

MINUTE_S = 60
DAY_S = 86400
WEEK_S = 7 * DAY_S


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Mon-Fri 08:30", "Mon,Tue,Wed,Thu,Fri 08:30"),
        ("Sat,Sun 10:00", "Sat,Sun 10:00"),
        ("Sat, Sun 10:00", "Sat,Sun 10:00"),
        ("Mon - Wed,Fri 9:05", "Mon,Tue,Wed,Fri 09:05"),
        ("Fri-Mon 00:00", "Mon,Fri,Sat,Sun 00:00"),
        ("Mon-Mon 23:59", "Mon 23:59"),
        ("tue 7:00", "Tue 07:00"),
        ("  WED   07:00  ", "Wed 07:00"),
        ("08:30", "Mon,Tue,Wed,Thu,Fri,Sat,Sun 08:30"),
    ],
)
def test_days_and_a_time_are_read(written: str, read: str) -> None:
    assert str(days_and_time(written)) == read


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("Monday 08:30", "'Monday' is not a day; did you mean 'Mon'?"),
        ("Mon-Xyz 08:30", "'Xyz' is not a day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun"),
        ("Mon,,Tue 08:30", "'' is not a day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun"),
        ("Mon- 08:30", "'' is not a day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun"),
        ("24:00", "'24:00' is not a day and a time, such as Mon-Fri 08:30"),
        ("08:60", "'08:60' is not a day and a time, such as Mon-Fri 08:30"),
        ("Mon", "'Mon' is not a day and a time, such as Mon-Fri 08:30"),
        ("Mon08:30", "'Mon08:30' is not a day and a time, such as Mon-Fri 08:30"),
        ("٠8:30", "'٠8:30' is not a day and a time, such as Mon-Fri 08:30"),
        (830, "'830' is not a day and a time, such as Mon-Fri 08:30"),
        (None, "'None' is not a day and a time, such as Mon-Fri 08:30"),
    ],
)
def test_what_is_no_day_and_time_says_what_to_write(written: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        days_and_time(written)
    assert str(caught.value) == message


WHENS = st.builds(
    DaysAndTime,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 23),
    st.integers(0, 59),
)


@given(WHENS)
def test_what_is_spelled_is_read_back_as_the_same_and_fits_the_json_schema(
    when: DaysAndTime,
) -> None:
    assert days_and_time(str(when)) == when
    part = part_at(("models", "a", "cold", "warm", 0))
    assert part is Warm
    pattern = Warm.model_json_schema()["properties"]["at"]["pattern"]
    assert re.search(pattern, str(when))


# --- when it covers -----------------------------------------------------------------------------


def epoch(zone: str, *wall: int, fold: int = 0) -> float:
    year, month, day, hour, minute = wall
    here = datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone), fold=fold)
    return here.timestamp()


BERLIN = "Europe/Berlin"


def edges(when: str, zone: str, for_s: float, begin_s: float, end_s: float) -> list[bool]:
    """Just before, at the first moment, at the last, and just after."""
    moments = (begin_s - 1, begin_s, end_s - 1, end_s)
    return [days_and_time(when).covers(moment, zone, for_s) for moment in moments]


IN_AND_OUT = [False, True, True, False]


def test_a_working_day_begins_and_ends_by_the_clock_of_its_zone() -> None:
    begin_s, end_s = epoch(BERLIN, 2026, 11, 23, 8, 30), epoch(BERLIN, 2026, 11, 23, 18, 30)
    assert edges("Mon-Fri 08:30", BERLIN, 36000, begin_s, end_s) == IN_AND_OUT
    assert begin_s == datetime(2026, 11, 23, 7, 30, tzinfo=UTC).timestamp()
    assert not days_and_time("Mon-Fri 08:30").covers(begin_s + 5 * DAY_S, BERLIN, 36000)  # Saturday


@pytest.mark.parametrize(
    ("day", "utc_hour"),
    [((2026, 3, 28), 7), ((2026, 3, 29), 6), ((2026, 10, 24), 6), ((2026, 10, 25), 7)],
    ids=["before spring", "spring", "before autumn", "autumn"],
)
def test_a_change_of_clocks_moves_the_beginning(day: tuple[int, int, int], utc_hour: int) -> None:
    begin_s = datetime(*day, utc_hour, 0, tzinfo=UTC).timestamp()
    assert edges("08:00", BERLIN, 3600, begin_s, begin_s + 3600) == IN_AND_OUT


def test_a_time_that_the_clocks_skip_is_an_hour_later() -> None:
    begin_s = epoch(BERLIN, 2026, 3, 29, 3, 30)
    assert edges("Sun 02:30", BERLIN, 1800, begin_s, begin_s + 1800) == IN_AND_OUT


def test_of_a_time_that_comes_twice_the_first_counts() -> None:
    first_s, second_s = (epoch(BERLIN, 2026, 10, 25, 2, 30, fold=fold) for fold in (0, 1))
    assert second_s - first_s == 3600
    assert edges("Sun 02:30", BERLIN, 1800, first_s, first_s + 1800) == IN_AND_OUT
    assert not days_and_time("Sun 02:30").covers(second_s, BERLIN, 1800)


def test_a_stay_over_a_change_of_clocks_lasts_its_own_time() -> None:
    begin_s = epoch(BERLIN, 2026, 3, 28, 22, 0)
    assert edges("Sat 22:00", BERLIN, 36000, begin_s, begin_s + 36000) == IN_AND_OUT
    assert begin_s + 36000 == epoch(BERLIN, 2026, 3, 29, 9, 0)  # by the clock an hour late


def test_a_stay_of_a_week_that_began_eight_calendar_days_ago_still_holds() -> None:
    """The week of the spring change has an hour less."""
    begin_s = epoch(BERLIN, 2026, 3, 22, 23, 30)
    now_s = epoch(BERLIN, 2026, 3, 30, 0, 10)  # a Monday, eight dates later
    assert begin_s < now_s < begin_s + WEEK_S
    assert days_and_time("Sun 23:30").covers(now_s, BERLIN, WEEK_S)


def test_a_stay_of_less_than_a_day_that_began_the_day_before_yesterday_still_holds() -> None:
    begin_s = epoch(BERLIN, 2026, 3, 28, 23, 45)
    end_s = epoch(BERLIN, 2026, 3, 30, 0, 15)
    assert end_s - begin_s == 23.5 * 3600
    assert edges("Sat 23:45", BERLIN, 23.5 * 3600, begin_s, end_s) == IN_AND_OUT


def test_a_stay_of_a_week_that_begins_every_week_holds_always() -> None:
    when = days_and_time("Thu 12:00")
    begin_s = epoch(BERLIN, 2026, 6, 4, 12, 0)
    assert all(when.covers(begin_s + n * 3600, BERLIN, WEEK_S) for n in range(20 * 7 * 24 + 1))
    gap_s = epoch(BERLIN, 2026, 10, 29, 11, 30)  # after a week of 169 hours
    assert not when.covers(gap_s, BERLIN, WEEK_S)


def test_zones_of_odd_offsets_are_followed() -> None:
    begin_s = datetime(2026, 11, 23, 2, 45, tzinfo=UTC).timestamp()
    assert edges("Mon 08:30", "Asia/Kathmandu", 600, begin_s, begin_s + 600) == IN_AND_OUT


def minutes_after_a_beginning(when: DaysAndTime, zone: str, now: datetime, for_s: float) -> bool:
    """Goes back minute by minute and looks at the clock on the wall, as a person would."""
    here = ZoneInfo(zone)
    for back in range(int(for_s // MINUTE_S) + 1):
        at = now - timedelta(minutes=back)
        wall = at.astimezone(here)
        today = (wall.year, wall.month, wall.day)
        due = datetime(*today, when.hour, when.minute, tzinfo=here).astimezone(UTC)
        if wall.weekday() in when.days and at == due:
            return (now - at).total_seconds() < for_s
    return False


ZONES = st.sampled_from([BERLIN, "UTC", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
# Around the changes of clocks of 2026, and any other time.
MOMENTS = st.one_of(
    st.integers(-3 * 1440, 3 * 1440).map(
        lambda n: datetime(2026, 3, 29, 1, 0, tzinfo=UTC) + timedelta(minutes=n)
    ),
    st.integers(-3 * 1440, 3 * 1440).map(
        lambda n: datetime(2026, 10, 25, 1, 0, tzinfo=UTC) + timedelta(minutes=n)
    ),
    st.integers(0, 1440 * 365).map(
        lambda n: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=n)
    ),
)
STAYS_S = st.one_of(
    st.integers(1, 26 * 60).map(lambda n: float(n * MINUTE_S)),
    st.sampled_from([1.0, 59.0, 3600.0, 23 * 3600.0, float(DAY_S), 2.5 * DAY_S]),
)


@settings(deadline=None, max_examples=120)
@given(WHENS, ZONES, MOMENTS, STAYS_S)
def test_covers_is_what_a_loop_over_the_minutes_finds(
    when: DaysAndTime, zone: str, now: datetime, for_s: float
) -> None:
    expected = minutes_after_a_beginning(when, zone, now, for_s)
    assert when.covers(now.timestamp(), zone, for_s) is expected


@settings(deadline=None, max_examples=200)
@given(WHENS, ZONES, MOMENTS, STAYS_S, st.floats(0, 5 * DAY_S))
def test_a_longer_stay_and_more_days_cover_no_less(
    when: DaysAndTime, zone: str, now: datetime, for_s: float, more_s: float
) -> None:
    daily = DaysAndTime(frozenset(range(len(DAYS))), when.hour, when.minute)
    if when.covers(now.timestamp(), zone, for_s):
        assert when.covers(now.timestamp(), zone, for_s + more_s)
        assert daily.covers(now.timestamp(), zone, for_s)


@settings(deadline=None, max_examples=100)
@given(WHENS, MOMENTS, STAYS_S)
def test_without_changes_of_clocks_every_week_is_the_same(
    when: DaysAndTime, now: datetime, for_s: float
) -> None:
    now_s = now.timestamp()
    assert when.covers(now_s, "UTC", for_s) is when.covers(now_s + WEEK_S, "UTC", for_s)


def test_warm_asks_with_its_own_zone_and_length() -> None:
    warm = Warm.model_validate({"at": "Mon 08:30", "tz": BERLIN, "for": "10h"})
    begin_s = epoch(BERLIN, 2026, 11, 23, 8, 30)
    assert warm.covers(begin_s)
    assert warm.covers(begin_s + 35999)
    assert not warm.covers(begin_s + 36000)
    assert warm.model_dump(mode="json") == {"at": "Mon 08:30", "tz": BERLIN, "for": "10h"}
