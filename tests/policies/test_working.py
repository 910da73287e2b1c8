"""What the text of an answer says for it, one sign at a time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.working import Working, working

PROMPT = "Ann has 3 boxes of 4 pens and buys 5 more. How many pens has she?"
ANSWER = "She has 3 * 4 = 12 pens.\nWith the new ones 12 + 5 = 17.\n#### 17"


def test_a_clean_answer_has_everything_for_it() -> None:
    assert working(PROMPT, ANSWER) == Working(
        sums_hold=True,
        concluded=True,
        plain_result=True,
        whole_result=True,
        numbers_used=1.0,
        steps=pytest.approx(2 / 3),
        finished=True,
        no_doubts=True,
    )


@pytest.mark.parametrize(
    ("sign", "answer"),
    [
        ("sums_hold", ANSWER.replace("= 12", "= 13")),
        ("concluded", ANSWER.replace("#### 17", "#### 16")),
        ("plain_result", ANSWER.replace("#### 17", "#### 17 pens in all")),
        ("plain_result", ANSWER.replace("#### 17", "")),
        ("whole_result", ANSWER.replace("17", "17.5")),
        ("numbers_used", ANSWER.replace("5", "6")),
        ("finished", "She has 3 * 4 = 12 pens.\nWith the new ones 12 + 5 ="),
        ("finished", "She has 3 * 4 = 12 pens and then <<12+"),
        ("no_doubts", "However, " + ANSWER),
        ("no_doubts", "Let's assume that it is so. " + ANSWER),
    ],
)
def test_one_thing_against_it_lowers_one_sign(sign: str, answer: str) -> None:
    clean, found = working(PROMPT, ANSWER), working(PROMPT, answer)
    assert getattr(found, sign) < getattr(clean, sign)


@pytest.mark.parametrize(
    "end", ["#### 17", "The answer is 17.", "**Answer:** $17", r"\boxed{17}", "Final answer: 17"]
)
def test_results_are_marked_in_many_ways(end: str) -> None:
    found = working(PROMPT, f"3 * 4 = 12 and 12 + 5 = 17.\n{end}")
    assert found.concluded
    assert found.plain_result
    assert found.finished


def test_the_last_mark_counts() -> None:
    found = working(PROMPT, "The answer is 12? No: 12 + 5 = 17.\nThe answer is 17.")
    assert found.concluded


def test_without_a_mark_the_last_number_is_the_result() -> None:
    assert working(PROMPT, "3 * 4 = 12, 12 + 5 = 17, so she has 17 pens.").concluded


def test_broken_numbers_in_the_prompt_may_give_broken_results() -> None:
    assert working("A pen costs $2.50. How much are 3?", "3 * 2.50 = 7.50").whole_result
    assert working("Share 15 pens among 2.", "15 / 2 = 7.5").whole_result is False


def test_of_a_text_without_numbers_little_is_known() -> None:
    assert working("Who wrote Faust?", "Goethe did.") == Working()


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_texts_are_read_without_error(prompt: str, answer: str) -> None:
    found = working(prompt, answer)
    for share in (found.numbers_used, found.steps):
        assert share is None or (math.isfinite(share) and 0 <= share <= 2)


@given(st.text(alphabet="0123456789.,#$=+ \nanswer is:{}\\boxed", max_size=200))
def test_any_reckoning_is_read_without_error(text: str) -> None:
    working(text, text)
    working(PROMPT, text)


def test_only_the_end_of_a_long_answer_is_looked_at() -> None:
    assert working(PROMPT, "However. " + "a " * 20_000 + ANSWER) == working(PROMPT, ANSWER)
