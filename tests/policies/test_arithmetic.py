"""Equations that stand in an answer, and which of them do not hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.arithmetic import numbers, sums

HOLD = [
    "3 + 4 = 7",
    "9 * 2 = $<<9*2=18>>18",
    "so it is 40 + 20 = <<40+20=60>>60 minutes.",
    "3 apples + 4 apples = 7 apples",
    "14 x ($6 + $2) = 14 x $8 = $112",
    "$1,200 + $300 = $1,500.",
    "650,000 * 2 = 1.3 million",
    "20% of 50 = 10",
    "20% x 50 = 10",
    "(12 / 20) x 100 = 60%",
    "100 / 3 = 33.33",
    "7 / 2 = 3",  # as it is written: no decimals
    "5 − 8 = -3",
    r"\frac{3}{4} \times 8 = 6",
    r"12 \* 3 = 36",
    "180 meters/session * 3 sessions/week = 540 meters/week",
    "(3 + 4 = 7)",
    "2) 3+4 = 7",
    "- 3 + 4 = 7",
    "10 ÷ 4 = 2.5",
    "2 + 3 * 4 = 14",
    "half of it: 1/2 * 30 = 15",
]
FALSE = [
    "3 + 4 = 8",
    "3 apples + 4 apples = 8 apples",
    "14 x ($6 + $2) = 14 x $8 = $122",
    "$1,200 + $300 = $1,600.",
    "20% of 50 = 11",
    "100 / 3 = 33.43",
    "5 - 8 = 3",
    "<<8*2+2=20>>20",
    "2 + 3 * 4 = 20",
]
PASSED_OVER = [
    "7x + 11x = 160",
    "f(2) = 3 + 4",
    "x1 = 3 + 4",
    "the price of 8 cups = 8 * $2",
    "8 feet = 96 inches",
    "50 = 8 + 4 + production",
    "Total - 3 + 4 = 9",
    "1 / 0 = 3",
    "= = =",
    "i += 1; if a == b: return c != d",
    "9" * 500 + " + 1 = 2",
    "in 2020 - 2021",
    "10 = 10",
]


@pytest.mark.parametrize("text", HOLD)
def test_true_equations_hold(text: str) -> None:
    found = sums(text)
    assert found.stated > 0
    assert found.false == 0


@pytest.mark.parametrize("text", FALSE)
def test_false_equations_do_not(text: str) -> None:
    assert sums(text).false > 0


@pytest.mark.parametrize("text", PASSED_OVER)
def test_what_is_not_understood_is_passed_over(text: str) -> None:
    assert sums(text).false == 0


def test_each_chain_ends_with_a_result() -> None:
    found = sums("3 + 4 = 7, so it is 7 * 2 = 14.\nx = 162 / 18 = 9\nThat is 12/20 * 100 = 60%")
    assert found.results == (7.0, 14.0, 9.0, 60.0)


OPERANDS = st.integers(0, 10_000)


@given(OPERANDS, OPERANDS, st.sampled_from(["+", "-", "*"]), st.integers(-100, 100))
def test_sums_of_integers_are_judged_as_python_does(a: int, b: int, sign: str, off_by: int) -> None:
    right = {"+": a + b, "-": a - b, "*": a * b}[sign]
    found = sums(f"That makes {a:,} {sign} {b} = {right + off_by}.")
    assert found.stated == 1
    assert found.false == (off_by != 0)


@given(st.text(max_size=300))
def test_any_text_is_read_without_error(text: str) -> None:
    found = sums(text)
    assert 0 <= found.false <= found.stated


@given(st.text(alphabet="0123456789+-*/()%=. x$,\n", max_size=200))
def test_any_reckoning_is_read_without_error(text: str) -> None:
    found = sums(text)
    assert 0 <= found.false <= found.stated


def test_numbers_are_read_with_their_thousands() -> None:
    assert numbers("1,250 of 3.5, .5 and 12 in x2") == (1250.0, 3.5, 0.5, 12.0, 2.0)
