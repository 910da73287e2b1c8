"""How long callers are held, and what those are told who cannot be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.retry import counts_against_health, judge_status
from policies.waiting import may_wait_s, remaining_start_s, retry_after_s


@pytest.mark.parametrize(
    ("max_wait", "read_timeout", "stream", "expected"),
    [
        (240, 600, False, 240),
        (240, 60, False, 59),
        (240, 60, True, 240),
        (240, None, False, 240),
        (240, 0.5, False, 0.1),
    ],
)
def test_may_wait_is_bounded_by_policy_and_by_the_caller(max_wait, read_timeout, stream, expected):
    assert may_wait_s(max_wait, read_timeout, stream) == expected


def test_remaining_start_is_the_90th_percentile_less_what_passed():
    times = tuple(float(t) for t in range(1, 11))
    assert remaining_start_s(times, None) == 9.0
    assert remaining_start_s(times, 4.0) == 6.0  # of 5..10 the 90th percentile is 10


def test_remaining_start_without_experience_is_a_guess_that_never_ends_at_zero():
    assert remaining_start_s((), None) == 20.0
    assert remaining_start_s((), 300.0) == 150.0
    assert remaining_start_s((2.0,), 100.0) == 50.0


@given(st.lists(st.floats(0.1, 1000), max_size=20), st.none() | st.floats(0, 2000))
def test_remaining_start_is_always_positive(times, passed):
    assert remaining_start_s(tuple(times), passed) > 0


@given(st.none() | st.floats(min_value=0) | st.just(math.inf))
def test_retry_after_is_what_every_sdk_obeys(estimate):
    assert 1 <= retry_after_s(estimate) <= 60


@pytest.mark.parametrize(
    ("status", "elsewhere", "verdict"),
    [
        (200, True, "relay"),
        (400, True, "relay"),
        (404, True, "relay"),
        (429, True, "elsewhere"),
        (429, False, "relay"),
        (500, True, "elsewhere"),
        (503, False, "relay"),
    ],
)
def test_judge_status(status, elsewhere, verdict):
    assert judge_status(status, elsewhere) == verdict


def test_callers_errors_never_count_against_health():
    assert not any(counts_against_health(s) for s in [*range(200, 500), 501])
    assert counts_against_health(500)
    assert counts_against_health(503)
