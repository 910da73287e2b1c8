"""Requests with the same affinity meet the same endpoint, as far as its load lets them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from backends.affinity import SLACK, preferred
from backends.endpoint import Endpoint
from backends.upstream import Origin

KEYS = [f"conversation {n}" for n in range(300)]


def endpoints(count: int) -> list[Endpoint]:
    return [
        Endpoint(f"10.0.0.{n}:8000", Origin(f"http://10.0.0.{n}:8000/v1")) for n in range(count)
    ]


def test_same_key_meets_the_same_endpoint_and_keys_spread_out() -> None:
    pool = endpoints(4)
    found = {key: preferred(pool, key) for key in KEYS}
    assert found == {key: preferred(list(reversed(pool)), key) for key in KEYS}
    assert min(Counter(e.id for e in found.values()).values()) > len(KEYS) / 8


def test_endpoint_that_goes_moves_only_its_own_keys() -> None:
    pool = endpoints(4)
    before = {key: preferred(pool, key) for key in KEYS}
    after = {key: preferred(pool[:-1], key) for key in KEYS}
    assert all(after[key] is before[key] for key in KEYS if before[key] is not pool[-1])


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.text(max_size=20))
def test_nobody_waits_long_for_a_cache(loads: list[int], key: str) -> None:
    pool = endpoints(len(loads))
    for endpoint, load in zip(pool, loads, strict=True):
        endpoint.in_flight = load
    assert preferred(pool, key).in_flight <= min(loads) + SLACK
