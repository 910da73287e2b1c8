"""The measure of the routing figures: known orders have known areas; no fold sees itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.cascade.routellm import FOLDS, Graded, Rows, cross_validated, routed


def graded(small: list[int], large: list[int]) -> Graded:
    return Graded([], [], np.array(small, dtype=float), np.array(large, dtype=float))


def test_best_and_worst_order_of_four_requests() -> None:
    known = graded([1, 0, 1, 1], [1, 1, 1, 1])
    best = routed(np.array([0.0, 1.0, 0.0, 0.0]), known)
    worst = routed(np.array([1.0, 0.0, 1.0, 1.0]), known)
    assert best.apgr == pytest.approx(7 / 8)
    assert worst.apgr == pytest.approx(1 / 8)
    assert (best.cpt50, best.cpt80) == (0.25, 0.25)
    assert (worst.cpt50, worst.cpt80) == (1.0, 1.0)


def test_what_the_large_model_gets_wrong_alone_is_better_left_to_the_last() -> None:
    known = graded([0, 0, 0, 1], [1, 1, 1, 0])
    last = routed(np.array([1.0, 1.0, 1.0, -1.0]), known)
    first = routed(np.array([1.0, 1.0, 1.0, 2.0]), known)
    assert last.apgr == pytest.approx(7 / 8)  # on its way it recovers one and a half of the gap
    assert first.apgr == pytest.approx(1 / 8)
    assert last.cpt80 == 0.5


@given(st.integers(0, 2**32 - 1))
def test_gain_of_no_meaning_is_a_half_on_average(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 2, 400)
    known = graded(list(small), [1] * 400)
    drawn = [routed(rng.normal(size=400), known).apgr for _ in range(20)]
    assert float(np.mean(drawn)) == pytest.approx(0.5, abs=0.05)


@given(st.integers(0, 100), st.integers(FOLDS, 60))
def test_every_row_is_predicted_once_by_the_others(seed: int, rows: int) -> None:
    known = graded([0] * rows, [1] * rows)
    seen: list[int] = []

    def gain(train: Rows, test: Rows) -> np.ndarray:
        assert not set(train) & set(test)
        assert len(train) + len(test) == rows
        seen.extend(test)
        return np.zeros(len(test))

    cross_validated(gain, known, seed)
    assert sorted(seen) == list(range(rows))
