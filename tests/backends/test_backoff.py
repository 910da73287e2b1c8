"""When a start is tried again, and when it is given up."""

from backends.backoff import StartBackoff


def failed(backoff: StartBackoff, now_s: float, *, permanent: bool = False) -> bool:
    return backoff.launch_failed(now_s, "boom", permanent=permanent, start_within_s=30.0)


def test_third_failure_in_a_row_gives_the_start_up():
    backoff = StartBackoff()
    backoff.launching(0.0, 30.0)
    assert [failed(backoff, 1.0) for _ in range(3)] == [False, False, True]
    assert backoff.refusing_until_s == 3.0


def test_permanent_failure_is_given_up_at_once():
    assert failed(StartBackoff(), 0.0, permanent=True)


def test_all_launches_of_a_start_share_its_time():
    backoff = StartBackoff()
    assert backoff.launching(0.0, 30.0) == 30.0
    assert not failed(backoff, 20.0)
    assert backoff.launching(20.0, 30.0) == 10.0


def test_start_that_nobody_wanted_any_more_leaves_the_next_one_its_whole_time():
    backoff = StartBackoff()
    backoff.launching(0.0, 30.0)
    failed(backoff, 1.0)
    backoff.over()
    assert backoff.launching(3600.0, 30.0) == 30.0


def test_crashes_in_a_row_pause_longer_and_an_answer_forgives_them():
    backoff = StartBackoff()
    pauses = []
    for _ in range(4):
        backoff.crashed(100.0, "gone")
        pauses.append(backoff.launch_after_s - 100.0)
    assert pauses == [0.0, 0.5, 1.0, 2.0]
    backoff.served()
    backoff.crashed(100.0, "gone")
    assert backoff.launch_after_s == 100.0
