"""Whether an answer is kept, a model skipped, a stream let go or cut."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.budget import Allowance
from policies.calibration import STATED_DEFAULTS, Bound, Calibration, Early
from policies.cascade import Terms, begin, early, judge, least_score, share_escalated
from policies.signals import Signals
from tests.policies.test_calibration import ANY_SIGNALS, CALIBRATIONS, less_and_more_sure

SURE = Signals(mean_logprob=-1e-6, low_logprob=-1e-6)
MIDDLING = Signals(mean_logprob=-0.1, low_logprob=-0.5)
UNSURE = Signals(mean_logprob=-2.0, low_logprob=-4.0)
FITTED = replace(
    STATED_DEFAULTS,
    source="calibrated on 500 labels",
    labels=500,
    escalated=0.3,
    bounds=(
        Bound(score=-1.0, wrong=0.2, escalated=0.1, release=3.0, cut=-2.0),
        Bound(score=0.5, wrong=0.05, escalated=0.4, release=3.1, cut=-1.0),
        Bound(score=2.0, wrong=0.01, escalated=0.8, release=3.3, cut=1.0),
    ),
    early=Early(after_tokens=16, release=2.5, cut=-1.5),
)
BROKE = Allowance("refusing", "model 'large' has spent 10 of 10 USD today")
ANY_NUMBER = st.floats(allow_nan=True, allow_infinity=True)
ANY_TERMS = st.builds(
    Terms,
    *[ANY_NUMBER] * 7,
    max_wrong=st.none() | st.floats(0, 1),
    right_answer_usd=st.none() | st.floats(0, 10),
    budget=st.builds(Allowance, st.sampled_from(["normal", "saving", "refusing"])),
)
TERMS = st.builds(
    Terms,
    small_usd=st.floats(0, 1),
    large_usd=st.floats(0, 1),
    large_wait_s=st.floats(0, 100),
    left_s=st.floats(0, 100),
    delay_usd_s=st.floats(0, 0.1),
    max_wrong=st.none() | st.floats(0, 1),
    right_answer_usd=st.none() | st.floats(0, 10),
)


# --- judge --------------------------------------------------------------------------------------


def test_sure_answer_is_kept_and_unsure_one_escalated():
    assert judge(SURE, FITTED, Terms()).keep
    verdict = judge(UNSURE, FITTED, Terms())
    assert not verdict.keep
    assert "calibrated on 500 labels" in verdict.reason


def test_without_a_calibration_the_verdict_says_so():
    for signals in (SURE, UNSURE):
        assert "stated defaults" in judge(signals, STATED_DEFAULTS, Terms()).reason


def test_bound_that_nothing_was_fitted_for_is_not_claimed():
    verdict = judge(SURE, STATED_DEFAULTS, Terms(max_wrong=0.01))
    assert verdict.keep
    assert verdict.unbounded
    assert "max_wrong is not promised" in verdict.reason


def test_bound_decides_from_which_score():
    lax, strict = Terms(max_wrong=0.2), Terms(max_wrong=0.05)
    score = FITTED.score(MIDDLING)
    assert score is not None
    assert -1.0 < score < 0.5
    assert judge(MIDDLING, FITTED, lax).keep
    verdict = judge(MIDDLING, FITTED, strict)
    assert not verdict.keep
    assert "at most 0.05, 95% sure" in verdict.reason
    assert not judge(SURE, FITTED, strict).unbounded


def test_bound_that_no_score_can_hold_keeps_nothing():
    terms = Terms(small_usd=0.01, large_usd=1.0, max_wrong=0.001)
    assert not judge(SURE, FITTED, terms).keep
    assert share_escalated(FITTED, terms) == 1.0
    assert begin(None, FITTED, terms).model == "large"


def test_answer_that_is_not_what_was_asked_for_is_escalated_however_sure():
    verdict = judge(replace(SURE, valid=False), FITTED, Terms())
    assert not verdict.keep
    assert "JSON or tool call" in verdict.reason


def test_answer_of_which_nothing_is_known_is_escalated():
    verdict = judge(Signals(finish_reason="stop"), FITTED, Terms())
    assert not verdict.keep
    assert "too little is known" in verdict.reason


@pytest.mark.parametrize("max_wrong", [None, 0.05])
def test_large_model_too_late_keeps_the_answer(max_wrong: float | None):
    terms = Terms(large_wait_s=40.0, large_s=5.0, left_s=30.0, max_wrong=max_wrong)
    for signals in (UNSURE, replace(SURE, valid=False), Signals()):
        verdict = judge(signals, FITTED, terms)
        assert verdict.keep
        assert "needs 45 s and the caller has 30 s" in verdict.reason
        assert verdict.unbounded == (max_wrong is not None)
        assert ("max_wrong does not hold" in verdict.reason) == (max_wrong is not None)


def test_large_model_just_in_time_is_asked():
    terms = Terms(large_wait_s=25.0, large_s=5.0, left_s=30.0)
    assert not judge(UNSURE, FITTED, terms).keep


@pytest.mark.parametrize("max_wrong", [None, 0.05])
def test_spent_budget_keeps_the_answer(max_wrong: float | None):
    verdict = judge(UNSURE, FITTED, Terms(budget=BROKE, max_wrong=max_wrong))
    assert verdict.keep
    assert "has spent 10 of 10 USD today" in verdict.reason
    assert verdict.unbounded == (max_wrong is not None)


def test_nearly_spent_budget_changes_no_verdict():
    saving = Terms(budget=Allowance("saving"))
    assert not judge(UNSURE, FITTED, saving).keep


def test_money_asks_for_more_than_the_bound_and_never_for_less():
    cheap = Terms(large_usd=0.0001, right_answer_usd=1.0, max_wrong=0.2)
    dear = replace(cheap, large_usd=100.0)
    assert not judge(MIDDLING, FITTED, cheap).keep
    assert judge(MIDDLING, FITTED, dear).keep
    assert not judge(UNSURE, FITTED, dear).keep  # the bound
    assert judge(UNSURE, FITTED, replace(dear, max_wrong=None)).keep


def test_waiting_for_the_large_model_is_paid_for():
    now = Terms(large_usd=0.01, right_answer_usd=0.2)
    assert not judge(UNSURE, FITTED, now).keep
    asleep = replace(now, large_wait_s=60.0, delay_usd_s=0.01)
    verdict = judge(UNSURE, FITTED, asleep)
    assert verdict.keep


@given(CALIBRATIONS, less_and_more_sure(), TERMS)
def test_more_confidence_never_turns_keep_into_escalate(
    calibration: Calibration, pair: tuple[Signals, Signals], terms: Terms
):
    less, more = (judge(signals, calibration, terms) for signals in pair)
    one, other = (calibration.score(signals) for signals in pair)
    if one is not None and other is not None and abs(other - one) < 1e-9:
        return  # the same but for rounding
    assert more.keep or not less.keep


@given(CALIBRATIONS, ANY_SIGNALS, ANY_TERMS, st.none() | st.floats(0, 1), st.integers(0, 100))
def test_decisions_never_raise(
    calibration: Calibration,
    signals: Signals,
    terms: Terms,
    p_escalate: float | None,
    tokens: int,
):
    verdict = judge(signals, calibration, terms)
    assert 0 <= verdict.p_right <= 1
    assert verdict.reason
    assert begin(p_escalate, calibration, terms).model in ("small", "large")
    assert early(signals, tokens, calibration, terms) in ("release", "cut", "wait")


@given(CALIBRATIONS, st.floats(0, 1), st.floats(0, 1))
def test_stricter_bound_never_keeps_more(calibration: Calibration, one: float, other: float):
    strict, lax = sorted((one, other))
    least_strict, _ = least_score(calibration, Terms(max_wrong=strict))
    least_lax, _ = least_score(calibration, Terms(max_wrong=lax))
    assert least_strict >= least_lax


# --- begin --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_escalate", "small_usd", "large_usd", "model"),
    [
        (0.5, 0.1, 1.0, "small"),
        (0.89, 0.1, 1.0, "small"),
        (0.91, 0.1, 1.0, "large"),
        (0.5, 0.6, 1.0, "large"),
        (1.0, 0.0, 1.0, "small"),
        (1.0, 0.0, 0.0, "small"),
    ],
)
def test_small_model_is_skipped_from_one_less_the_ratio_of_prices(
    p_escalate: float, small_usd: float, large_usd: float, model: str
):
    terms = Terms(small_usd=small_usd, large_usd=large_usd)
    assert begin(p_escalate, FITTED, terms).model == model


def test_small_model_is_skipped_to_save_time_too():
    terms = Terms(small_usd=0.001, large_usd=0.01, small_s=5.0, large_s=1.0)
    assert begin(0.5, FITTED, terms).model == "small"
    assert begin(0.5, FITTED, replace(terms, delay_usd_s=0.01)).model == "large"


def test_small_model_answers_while_the_large_one_sleeps():
    terms = Terms(small_usd=0.9, large_usd=1.0, large_s=1.0, delay_usd_s=0.1)
    assert begin(0.5, FITTED, terms).model == "large"
    assert begin(0.5, FITTED, replace(terms, large_wait_s=60.0)).model == "small"


def test_without_a_forecast_the_usual_share_counts():
    terms = Terms(small_usd=0.75, large_usd=1.0)
    assert begin(None, FITTED, terms).model == "large"  # 0.3 escalated
    assert begin(None, FITTED, replace(terms, max_wrong=0.2)).model == "small"  # 0.1
    assert begin(None, FITTED, replace(terms, max_wrong=0.01)).model == "large"  # 0.8


def test_spent_or_nearly_spent_budget_and_late_large_model_begin_small():
    dear = Terms(small_usd=0.9, large_usd=1.0)
    assert begin(1.0, FITTED, dear).model == "large"
    assert begin(1.0, FITTED, replace(dear, budget=BROKE)).model == "small"
    assert begin(1.0, FITTED, replace(dear, budget=Allowance("saving"))).model == "small"
    assert begin(1.0, FITTED, replace(dear, large_wait_s=9.0, left_s=1.0)).model == "small"


# --- early --------------------------------------------------------------------------------------


def test_stream_goes_out_or_is_cut_after_its_first_tokens():
    assert early(SURE, 16, FITTED, Terms()) == "release"
    assert early(MIDDLING, 16, FITTED, Terms()) == "wait"
    assert early(UNSURE, 16, FITTED, Terms()) == "cut"
    assert early(SURE, 15, FITTED, Terms()) == "wait"


def test_stream_without_logprobs_or_calibration_waits():
    assert early(Signals(), 16, FITTED, Terms()) == "wait"
    assert early(SURE, 16, STATED_DEFAULTS, Terms()) == "wait"


def test_stream_goes_out_at_once_when_nobody_else_can_answer():
    assert early(UNSURE, 0, FITTED, Terms(budget=BROKE)) == "release"
    assert early(UNSURE, 0, FITTED, Terms(large_wait_s=2.0, left_s=1.0)) == "release"


def test_stream_follows_the_bound_that_was_asked_for():
    assert FITTED.first_score(SURE) == pytest.approx(3.2)
    assert early(SURE, 16, FITTED, Terms(max_wrong=0.05)) == "release"
    assert early(SURE, 16, FITTED, Terms(max_wrong=0.01)) == "wait"
    assert early(UNSURE, 16, FITTED, Terms(max_wrong=0.05)) == "cut"
    assert early(UNSURE, 16, FITTED, Terms(max_wrong=0.2)) == "wait"
    assert early(UNSURE, 16, FITTED, Terms(max_wrong=0.001)) == "wait"


def test_stream_follows_the_money():
    dear = Terms(large_usd=math.inf, right_answer_usd=1.0)
    assert early(UNSURE, 16, FITTED, dear) == "wait"
    assert early(UNSURE, 16, FITTED, replace(dear, large_usd=0.0)) == "wait"
