"""When an endpoint may be tried."""

from backends.breaker import LONGEST_PAUSE_S, Breaker


def opened(at_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    breaker.failed(at_s, at_once=True)
    return breaker


def test_three_failures_in_a_row_open_it():
    breaker = Breaker()
    for expected in (True, True, False):
        breaker.failed(0.0)
        assert breaker.allows(0.0) is expected


def test_success_between_failures_keeps_it_closed():
    breaker = Breaker()
    for _ in range(10):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.allows(0.0)


def test_half_open_lets_exactly_one_probe_through():
    breaker = opened()
    assert not breaker.allows(0.9)
    assert breaker.allows(1.0)
    assert breaker.begin()
    assert not breaker.allows(1.0)


def test_probe_that_succeeds_closes_it():
    breaker = opened()
    breaker.begin()
    breaker.succeeded()
    assert breaker.allows(0.0)


def test_probe_that_fails_doubles_the_pause_up_to_the_limit():
    breaker, now_s = opened(), 0.0
    pauses = []
    for _ in range(7):
        assert breaker.open_until_s is not None
        pauses.append(breaker.open_until_s - now_s)
        now_s = breaker.open_until_s
        breaker.begin()
        breaker.failed(now_s)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    assert max(pauses) == LONGEST_PAUSE_S


def test_probe_whose_caller_left_lets_the_next_one_probe():
    breaker = opened()
    breaker.begin()
    breaker.abandon()
    assert breaker.allows(1.0)


def test_late_failures_of_old_requests_do_not_prolong_the_pause():
    breaker = opened()
    until_s = breaker.open_until_s
    breaker.failed(0.5)
    assert breaker.open_until_s == until_s


def test_check_closes_only_what_was_out_of_reach():
    breaker = opened()
    breaker.reachable()
    assert breaker.closed
    for _ in range(3):
        breaker.failed(0.0)
    breaker.reachable()
    assert not breaker.closed  # it answered its check all the time, and its callers with 500


def test_failed_check_keeps_callers_away_until_the_next():
    breaker = Breaker()
    breaker.unreachable(0.0, 15.0)
    assert not breaker.allows(14.9)
    breaker.unreachable(10.0, 15.0)
    assert not breaker.allows(24.9)
