"""What the soak of a shared device says of evictions: right ones pass, and each fault is found."""

from typing import Any

import pytest

from load_tests.rig.greedy_dual import GIB, faults, fruitless


def candidate(instance: str, requests: int, clock: float = 0.0, start_s: float = 2.0) -> Any:
    return {
        "instance": instance,
        "requests": requests,
        "start_s": start_s,
        "memory": GIB,
        "clock": clock,
        "priority": clock + requests * start_s,
    }


def eviction(instance: str, *candidates: Any, at_s: float = 0.0, served: bool = False) -> Any:
    own = next(c for c in candidates if c["instance"] == instance)
    return {
        "instance": instance,
        "candidates": candidates,
        "served": served,
        "priority": own["priority"],
        "at_s": at_s,
    }


RIGHT = [
    eviction("a@1", candidate("a@1", 1), candidate("b@1", 3)),
    eviction("c@1", candidate("c@1", 1, 2.0), candidate("b@1", 3), at_s=5.0),
    eviction("b@1", candidate("b@1", 3), candidate("d@1", 2, 4.0), at_s=7.0, served=True),
]
ANSWERED = {"a@1": 1, "b@1": 4, "c@1": 1}


def test_evictions_of_greedy_dual_pass() -> None:
    assert faults(RIGHT, ANSWERED, 10.0) == []
    assert fruitless(RIGHT, ANSWERED) == 0


def test_one_that_served_nobody_is_counted() -> None:
    assert fruitless(RIGHT, {"a@1": 1, "b@1": 4}) == 1


@pytest.mark.parametrize(
    ("wrong", "answered", "said"),
    [
        (eviction("b@1", candidate("a@1", 1), candidate("b@1", 3)), {"b@1": 3}, "worth less"),
        (eviction("a@1", candidate("a@1", 1)), {"a@1": 2}, "its callers 2"),
        (eviction("a@1", candidate("a@1", 1, 0.5)), {"a@1": 1}, "no one's"),
        (eviction("a@1", {**candidate("a@1", 1), "priority": 9.0}), {"a@1": 1}, "is not 2.0"),
    ],
)
def test_each_fault_is_found(wrong: Any, answered: dict[str, int], said: str) -> None:
    [fault] = faults([wrong], answered, 10.0)
    assert said in fault


def test_turns_too_close_together_are_found() -> None:
    turns = [
        eviction("a@1", candidate("a@1", 0), at_s=1.0, served=True),
        eviction("b@1", candidate("b@1", 0), at_s=9.0, served=True),
    ]
    [fault] = faults(turns, {}, 10.0)
    assert "two turns within 8.00 s" in fault
