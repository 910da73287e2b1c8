"""What is fitted to labels: probabilities, a threshold, and bounds that hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from policies.calibration import ABOVE_ALL, decode, encode
from policies.cascade import Terms, judge, least_score
from policies.signals import Signals
from router.calibrate.curves import falling_curve, right_curve
from router.calibrate.fit import FEWEST, fit
from router.calibrate.graded import grade
from router.calibrate.labelled import Labelled
from router.calibrate.report import calibration_error, examine
from router.calibrate.score import fit_score
from router.calibrate.thresholds import bounds, upper_bound
from tests.calibrate.world import answers, wrongly_kept


def rights(labels: list[Labelled]) -> np.ndarray:
    return np.array([each.small_right for each in labels], dtype=bool)


# --- refusals -----------------------------------------------------------------------------------


def test_without_labels_nothing_is_fitted():
    with pytest.raises(ValueError, match="there are no labels"):
        fit([])


def test_too_few_labels_are_refused_with_their_number():
    with pytest.raises(ValueError, match=f"29 requests .* {FEWEST} are needed"):
        fit(answers(29, 1))


def test_labels_of_the_small_model_alone_do_not_make_a_cascade():
    alone = [replace(each, large_right=None) for each in answers(100, 1)]
    with pytest.raises(ValueError, match="0 requests have a label for both"):
        fit(alone)


@pytest.mark.parametrize("signals", [Signals(), Signals(mean_logprob=-0.5)])
def test_signals_that_tell_nothing_apart_are_refused(signals: Signals):
    same = [replace(each, signals=signals) for each in answers(100, 1)]
    with pytest.raises(ValueError, match="no signal is known of most answers and differs"):
        fit(same)


@pytest.mark.parametrize(("right", "least", "most"), [(True, 0.0, 0.05), (False, 0.9, 1.0)])
def test_labels_that_are_all_alike_are_fitted(right: bool, least: float, most: float):
    alike = [replace(each, small_right=right, large_right=True) for each in answers(100, 1)]
    assert least <= fit(alike).escalated <= most


# --- what is fitted -----------------------------------------------------------------------------


def test_same_labels_give_the_same_file():
    labels = answers(120, 3, signals=3, streams=True)
    assert encode(fit(labels)) == encode(fit(labels))


def test_file_can_be_read_again():
    fitted = fit(answers(200, 3, signals=3, streams=True), "chat", "small", "large")
    assert decode(encode(fitted)) == fitted
    assert (fitted.policy, fitted.small, fitted.large) == ("chat", "small", "large")
    assert fitted.source == "calibrated on 200 labels"


def test_scores_are_those_that_the_gateway_will_give():
    labels = answers(100, 4, signals=4)
    labels[0] = replace(labels[0], signals=replace(labels[0].signals, self_check=None))
    labels[1] = replace(labels[1], signals=Signals())
    score = fit_score([each.signals for each in labels], rights(labels))
    fitted = fit(labels)
    assert fitted.weights == score.weights
    for each, found in zip(labels, score.of([one.signals for one in labels]), strict=True):
        expected = fitted.score(each.signals)
        assert math.isnan(found) if expected is None else found == pytest.approx(expected)


def test_signal_that_speaks_the_wrong_way_gets_no_weight():
    labels = answers(2000, 5)
    turned = [
        replace(each, signals=replace(each.signals, agreement=float(not each.small_right)))
        for each in labels
    ]
    found = fit_score([each.signals for each in turned], rights(turned))
    assert [weight.signal for weight in found.weights] == ["mean_logprob"]


def test_probabilities_are_true_of_answers_never_seen():
    fitted = fit(answers(400, 6, signals=3))
    fresh = answers(20_000, 7, signals=3)
    said = np.array([fitted.probability(each.signals) for each in fresh])
    assert calibration_error(said, rights(fresh).astype(float)) < 0.04


def test_few_labels_do_not_bend_the_curve_far():
    scores = np.linspace(-2, 2, 10)
    lucky = right_curve(scores, np.ones(10, dtype=bool))
    many = right_curve(np.repeat(scores, 200), np.ones(2000, dtype=bool))
    assert min(p for _, p in lucky) < 0.2
    assert min(p for _, p in many) > 0.9


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=60))
def test_curves_are_monotone(points: list[tuple[float, bool]]):
    scores = np.array([score for score, _ in points])
    values = np.array([value for _, value in points])
    rising = [p for _, p in right_curve(scores, values)]
    falling = [gain for _, gain in falling_curve(scores, values.astype(float))]
    assert rising == sorted(rising)
    assert all(0 <= p <= 1 for p in rising)
    assert falling == sorted(falling, reverse=True)


def test_most_of_the_lead_is_recovered_on_answers_never_seen():
    enough = 0
    for seed in range(8):
        fitted, fresh = fit(answers(300, seed)), answers(1000, 100 + seed)
        keep = np.array([judge(each.signals, fitted, Terms()).keep for each in fresh])
        small, large = rights(fresh), np.array([bool(each.large_right) for each in fresh])
        lead = large.mean() - small.mean()
        enough += (np.where(keep, small, large).mean() - small.mean()) >= 0.9 * lead
        assert 0 < keep.mean() < 1
    assert enough >= 5


def test_large_model_that_is_no_better_is_hardly_asked():
    labels = [replace(each, large_right=each.small_right) for each in answers(200, 8)]
    assert fit(labels).escalated < 0.05


def test_answers_of_which_nothing_is_known_count_as_escalated():
    labels = answers(200, 9)
    blind = [replace(each, signals=Signals()) for each in labels[:40]]
    fitted = fit(blind + labels[40:])
    assert all(bound.escalated >= 0.2 for bound in fitted.bounds)


# --- bounds -------------------------------------------------------------------------------------


def test_bounds_are_those_of_the_binomial_distribution():
    assert upper_bound(0, 150) == pytest.approx(1 - 0.025 ** (1 / 150))
    assert upper_bound(3, 10) == pytest.approx(0.6525, abs=1e-4)
    assert upper_bound(10, 10) == 1.0


def test_bounds_ascend_in_score_and_descend_in_risk():
    found = fit(answers(1000, 10, signals=3, streams=True)).bounds
    assert 50 <= len(found) <= 100
    for lax, strict in zip(found, found[1:], strict=False):
        assert lax.score < strict.score
        assert lax.wrong >= strict.wrong
        assert lax.escalated <= strict.escalated
        assert lax.release <= strict.release


@pytest.mark.parametrize(("signals", "streams"), [(1, False), (5, False), (1, True)])
def test_bound_holds_for_requests_never_seen(signals: int, streams: bool):
    """Over all requests, in at least 95 % of fits; more of these few may fail by chance."""
    fresh = answers(4000, 999, signals, streams)
    broken, kept = 0, []
    for seed in range(30):
        labels = answers(150, seed, signals, streams)
        score = fit_score([each.signals for each in labels], rights(labels))
        table = bounds(grade(labels, score))
        bound = next((each for each in table if each.wrong <= 0.08), None)
        if bound is None:
            continue
        keep = score.of([each.signals for each in fresh]) >= bound.score
        if streams:
            begun = score.of([each.first or Signals() for each in fresh], 0.0)
            keep = (keep | (begun >= bound.release)) & (begun >= bound.cut)
        kept.append(keep.mean())
        broken += wrongly_kept(fresh, keep) > 0.08
    assert len(kept) >= 15
    assert np.mean(kept) > 0.2
    assert broken <= 4


def test_stricter_bounds_keep_less():
    fitted = fit(answers(500, 11))
    least = [
        least_score(fitted, Terms(max_wrong=share))[0] for share in (0.001, 0.02, 0.05, 0.1, 0.5)
    ]
    assert least == sorted(least, reverse=True)
    assert least[0] == math.inf


# --- streams ------------------------------------------------------------------------------------


def test_streams_that_go_out_early_would_mostly_have_been_kept():
    labels = answers(800, 12, streams=True)
    fitted = fit(labels)
    assert fitted.early is not None
    whole = [fitted.score(each.signals) for each in labels]
    first = [fitted.first_score(each.first) for each in labels if each.first is not None]
    ended = [score is not None and score >= fitted.threshold for score in whole]
    pairs = list(zip(first, ended, strict=True))
    out = [kept for begun, kept in pairs if begun is not None and begun >= fitted.early.release]
    cut = [kept for begun, kept in pairs if begun is not None and begun < fitted.early.cut]
    assert len(out) >= 20
    assert np.mean(out) >= 0.95
    assert len(cut) >= 20
    assert np.mean(cut) <= 0.05


def test_without_first_tokens_streams_wait():
    fitted = fit(answers(200, 13))
    assert fitted.early is None
    assert all(bound.release == ABOVE_ALL for bound in fitted.bounds)


# --- the report ---------------------------------------------------------------------------------


def test_report_is_of_answers_that_were_not_fitted():
    labels = answers(400, 14)
    report = examine(labels, fit(labels), None)
    assert (report.labels, report.compared) == (400, 400)
    assert report.auroc is not None
    assert 0.7 < report.auroc < 0.95
    assert report.ece is not None
    assert report.ece < 0.1
    assert report.recovered is not None
    assert report.recovered > 0.7
    assert report.cost == pytest.approx(0.1 + report.escalated)


def test_report_of_noise_finds_nothing():
    labels = answers(400, 15)
    noise = [each.signals for each in answers(400, 16)]
    shuffled = [replace(each, signals=s) for each, s in zip(labels, noise, strict=True)]
    report = examine(shuffled, fit(shuffled), None)
    assert report.auroc is not None
    assert 0.4 < report.auroc < 0.6


def test_report_of_a_bound_says_what_it_means():
    labels = answers(400, 17)
    fitted = fit(labels)
    report = examine(labels, fitted, 0.05)
    assert report.wrong <= 0.05
    assert report.threshold == least_score(fitted, Terms(max_wrong=0.05))[0]
