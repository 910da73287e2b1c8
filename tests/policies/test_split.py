"""Weighted rendezvous hashing: shares as the weights say, and no key moves that need not."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from config.policy import Weighted
from policies.split import pick

KEYS = [f"conversation-{n}" for n in range(4000)]


def split(**weights: float) -> list[Weighted]:
    return [Weighted(model=name, weight=weight) for name, weight in weights.items()]


def test_each_model_gets_the_share_of_its_weight() -> None:
    """Within four standard deviations of a draw; the draw is always the same."""
    found = Counter(pick(split(a=1, b=2, c=7), key) for key in KEYS)
    for name, share in (("a", 0.1), ("b", 0.2), ("c", 0.7)):
        deviation = (len(KEYS) * share * (1 - share)) ** 0.5
        assert abs(found[name] - len(KEYS) * share) < 4 * deviation


def test_a_small_canary_gets_its_percent() -> None:
    found = Counter(pick(split(old=99, new=1), key) for key in KEYS)
    assert 15 <= found["new"] <= 65


@given(st.text())
def test_the_same_key_gets_the_same_model_in_whatever_order(key: str) -> None:
    models = split(a=1, b=2, c=0.5)
    assert pick(models, key) == pick(models, key) == pick(models[::-1], key)


def test_a_heavier_canary_takes_keys_and_gives_none_back() -> None:
    before = {key: pick(split(old=95, new=5), key) for key in KEYS}
    after = {key: pick(split(old=80, new=20), key) for key in KEYS}
    assert all(after[key] == "new" for key in KEYS if before[key] == "new")
    moved = sum(before[key] != after[key] for key in KEYS)
    assert 0.12 < moved / len(KEYS) < 0.18


def test_a_model_that_goes_moves_only_its_own_keys() -> None:
    before = {key: pick(split(a=1, b=1, c=1), key) for key in KEYS}
    after = {key: pick(split(a=1, c=1), key) for key in KEYS}
    assert all(after[key] == before[key] for key in KEYS if before[key] != "b")


def test_one_model_needs_no_draw_and_odd_keys_do_no_harm() -> None:
    assert pick(split(a=1), "x") == "a"
    assert pick(split(a=1e9, b=1e-300), "\ud800\0") == "a"
