import math
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from config.durations import (
    Timeout,
    at_least,
    at_most,
    seconds,
    size_in_bytes,
    spelled_duration,
    spelled_size,
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("500ms", 0.5),
        ("10s", 10.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("1d", 86400.0),
        ("0s", 0.0),
        (" 5m ", 300.0),
        ("never", math.inf),
        (10, 10.0),
        ("10", 10.0),
        (0.25, 0.25),
    ],
)
def test_seconds_written_in_a_known_unit_are_read(written: object, expected: float) -> None:
    assert seconds(written) == expected


@pytest.mark.parametrize(
    "written", ["", "x", "5 m", "5M", "m", "30m1h", "5m5m", "-5s", "1e3s", "٥s", "5m\n5s"]
)
def test_seconds_written_otherwise_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a number and a unit"):
        seconds(written)


@pytest.mark.parametrize("written", [True, None, [], {}, math.nan])
def test_seconds_of_another_type_are_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(written)


@pytest.mark.parametrize("written", ["367d", -1, 10**400, math.inf, -math.inf])
def test_seconds_out_of_range_say_to_write_never(written: object) -> None:
    with pytest.raises(ValueError, match="between 0s and 366d; write never for no limit"):
        seconds(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("32MiB", 2**25),
        ("1GB", 10**9),
        ("4096", 4096),
        (4096, 4096),
        ("1.5KiB", 1536),
        ("1 kB", 1000),
    ],
)
def test_size_written_in_a_known_unit_is_read(written: object, expected: int) -> None:
    assert size_in_bytes(written) == expected


@pytest.mark.parametrize("written", ["", "MiB", "32 mib", "1Gb", "-1", True, 1.5, None])
def test_size_written_otherwise_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is not a size; write a number and a unit"):
        size_in_bytes(written)


@pytest.mark.parametrize("written", [0, "0", "0.5", -5, "1025TiB", 10**400])
def test_size_out_of_range_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="whole number of bytes between 1 and 1024TiB"):
        size_in_bytes(written)


@given(st.integers(0, 366 * 86_400_000))
def test_a_duration_spelled_is_read_back_as_the_same(milliseconds: int) -> None:
    assert seconds(spelled_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(1, 2**50))
def test_a_size_spelled_is_read_back_as_the_same(count: int) -> None:
    assert size_in_bytes(spelled_size(count)) == count


def test_a_limit_on_a_duration_is_said_as_it_is_written() -> None:
    between = TypeAdapter(Annotated[Timeout, at_least("5s"), at_most("7d")])
    assert [between.validate_python(text) for text in ("5s", "7d")] == [5.0, 604800.0]
    for text, message in (("4s", "must be at least 5s"), ("7d1s", "must be at most 7d")):
        with pytest.raises(ValidationError, match=message):
            between.validate_python(text)
