"""What a day's budgets allow."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import NORMAL, Purse, allowance

ORDER = ["normal", "saving", "refusing"]
PURSES = st.lists(
    st.builds(Purse, st.sampled_from(["a", "b"]), st.floats(0.01, 100), st.floats(0, 200)),
    max_size=4,
)


@pytest.mark.parametrize(
    ("spent_usd", "stance"),
    [
        (0.0, "normal"),
        (7.99, "normal"),
        (8.0, "saving"),
        (9.99, "saving"),
        (10.0, "refusing"),
        (99.0, "refusing"),
    ],
)
def test_allowance_by_what_was_spent(spent_usd: float, stance: str):
    found = allowance([Purse("model 'm'", 10.0, spent_usd)])
    assert found.stance == stance
    assert (found == NORMAL) == (stance == "normal")


def test_allowance_without_a_budget_is_normal():
    assert allowance([]) == NORMAL


def test_allowance_says_whose_budget_it_is():
    purses = [Purse("model 'm'", 10.0, 8.5), Purse("the gateway", 100.0, 101.25)]
    for order in (purses, purses[::-1]):
        assert "the gateway has spent 101.2 of 100 USD" in allowance(order).reason


@given(PURSES)
def test_allowance_is_that_of_the_strictest(purses: list[Purse]):
    alone = [ORDER.index(allowance([purse]).stance) for purse in purses]
    assert ORDER.index(allowance(purses).stance) == max(alone, default=0)
    assert allowance(purses).reason or not any(alone)


@given(PURSES, st.floats(0, 100))
def test_allowance_is_no_milder_when_more_was_spent(purses: list[Purse], more_usd: float):
    later = [Purse(p.whose, p.usd_per_day, p.spent_usd + more_usd) for p in purses]
    stances = [ORDER.index(allowance(each).stance) for each in (purses, later)]
    assert all(a <= b for a, b in itertools.pairwise(stances))
