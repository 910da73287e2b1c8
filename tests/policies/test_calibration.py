"""From signals to P(right), and the file that says how."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.calibration import (
    ABOVE_ALL,
    SIGNALS,
    STATED_DEFAULTS,
    Bound,
    Calibration,
    Early,
    Weight,
    along,
    confidence,
    decode,
    encode,
    falls_to,
)
from policies.signals import Signals
from policies.working import Working

# A number that makes an answer look surer, by the name of the signal it is a value of.
SURER = {name: 1.0 for name in SIGNALS} | {
    "mean_entropy": -1.0,
    "span_mean_entropy": -1.0,
    "tokens": -1.0,
    "prompt_characters": -1.0,
    "hedge": -1.0,
    "refusal": -1.0,
}
LOGPROBS = [name for name in Signals.__struct_fields__ if "logprob" in name] + ["self_check"]
MARGINS = [name for name in Signals.__struct_fields__ if "margin" in name]
ENTROPIES = [name for name in Signals.__struct_fields__ if "entropy" in name]
LOGPROB = st.floats(-100, 0)
POSITIVE = st.floats(0, 100)

VALUES = {
    **{name: LOGPROB for name in LOGPROBS},
    **{name: POSITIVE for name in MARGINS + ENTROPIES},
    "tokens": st.integers(1, 100_000),
    "refusal": st.booleans(),
    "hedge": st.booleans(),
    "agreement": st.floats(0, 1),
    "prompt_characters": st.integers(0, 100_000),
    "neighbours": st.floats(0, 1),
}
SOME_SIGNALS = st.builds(Signals, **VALUES)
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True) | st.none()
ANY_SIGNALS = st.builds(
    Signals,
    **{name: ANY_FLOAT for name in LOGPROBS + MARGINS + ENTROPIES},
    tokens=st.none() | st.integers(-5, 10**12),
    finish_reason=st.sampled_from([None, "stop", "length", "content_filter", "?"]),
    refusal=st.booleans(),
    hedge=st.booleans(),
    valid=st.sampled_from([None, True, False]),
    agreement=ANY_FLOAT,
    working=st.none() | st.builds(Working),
    prompt_characters=st.none() | st.integers(0, 10**9),
    neighbours=ANY_FLOAT,
)
WEIGHTS = st.lists(
    st.builds(
        Weight, st.sampled_from(SIGNALS), st.floats(-5, 5), st.floats(0.1, 5), st.floats(0, 3)
    ),
    min_size=1,
    max_size=6,
).map(tuple)


@st.composite
def curves(draw: st.DrawFn, low: float, high: float, down: bool) -> tuple[tuple[float, float], ...]:
    xs = draw(st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True).map(sorted))
    ys = sorted(draw(st.lists(st.floats(low, high), min_size=len(xs), max_size=len(xs))))
    return tuple(zip(map(float, xs), ys[::-1] if down else ys, strict=True))


@st.composite
def tables(draw: st.DrawFn) -> tuple[Bound, ...]:
    count = draw(st.integers(0, 5))
    numbers = st.lists(st.floats(0, 1), min_size=count, max_size=count).map(sorted)
    scores, wrong, escalated = draw(numbers), draw(numbers)[::-1], draw(numbers)
    release, cut = draw(numbers), draw(numbers)
    return tuple(map(Bound, scores, wrong, escalated, release, cut))


CALIBRATIONS = st.builds(
    Calibration,
    version=st.just(1),
    source=st.text(max_size=20),
    labels=st.integers(0, 1000),
    intercept=st.floats(-5, 5),
    weights=WEIGHTS,
    right=curves(0, 1, down=False),
    gain=curves(-1, 1, down=True),
    threshold=st.floats(-5, 5),
    recovered=st.just(0.9),
    escalated=st.floats(0, 1),
    large_right=st.floats(0, 1),
    bounds=tables(),
    early=st.none() | st.builds(Early, st.integers(1, 32), st.floats(0, 5), st.floats(-5, 0)),
)


@st.composite
def less_and_more_sure(draw: st.DrawFn) -> tuple[Signals, Signals]:
    """The second is at least as sure in everything that is known, and no less is known of it."""
    less = draw(SOME_SIGNALS)
    more = {}
    for name, values in VALUES.items():
        one, other = getattr(less, name), draw(values)
        surer = max if SURER.get(name, 1.0) > 0 else min
        more[name] = surer(one, other)
    return less, Signals(**more)


@given(CALIBRATIONS, less_and_more_sure())
def test_more_confidence_never_lowers_score_or_probability(
    calibration: Calibration, pair: tuple[Signals, Signals]
):
    less, more = pair
    one, other = calibration.score(less), calibration.score(more)
    if one is None:
        assert other is None
    else:
        assert other is not None
        assert one <= other + 1e-9
    assert calibration.probability(less) <= calibration.probability(more) + 1e-9


@given(CALIBRATIONS, ANY_SIGNALS)
def test_probability_lies_between_0_and_1(calibration: Calibration, signals: Signals):
    assert 0 <= calibration.probability(signals) <= 1


@given(ANY_SIGNALS, st.sampled_from(SIGNALS))
def test_confidence_is_a_number_or_not_known(signals: Signals, name: str):
    found = confidence(signals, name)
    assert found is None or math.isfinite(found)


def test_too_little_known_says_nothing():
    weights = (Weight("self_check", 0.0, 1.0, 1.0), Weight("mean_logprob", 0.0, 1.0, 0.5))
    calibration = msgspec.structs.replace(STATED_DEFAULTS, weights=weights)
    assert calibration.score(Signals(mean_logprob=-0.1)) is None
    assert calibration.score(Signals(self_check=-0.1)) is not None
    assert calibration.first_score(Signals(mean_logprob=-0.1)) is not None
    assert calibration.first_score(Signals()) is None


def test_curve_is_straight_between_knots_and_level_beyond():
    curve = ((0.0, 0.2), (1.0, 0.4), (3.0, 0.8))
    assert [along(curve, x) for x in (-9, 0, 0.5, 2, 3, 9)] == pytest.approx(
        [0.2, 0.2, 0.3, 0.6, 0.8, 0.8]
    )


@given(curves(-1, 1, down=True), st.floats(-1, 1))
def test_falling_curve_is_no_higher_from_where_it_falls_to(
    curve: tuple[tuple[float, float], ...], value: float
):
    at = falls_to(curve, value)
    if at == math.inf:
        assert along(curve, 1e6) > value
    else:
        assert along(curve, max(at, -1e6) + 1e-6) <= value + 1e-6
        if at > -math.inf:
            assert along(curve, at - 1e-3) >= value - 1e-6


# --- the file -----------------------------------------------------------------------------------


@given(CALIBRATIONS)
def test_file_says_the_same_when_it_is_read(calibration: Calibration):
    assert decode(encode(calibration)) == calibration


@given(st.binary(max_size=200))
def test_garbage_is_no_calibration(data: bytes):
    with pytest.raises(ValueError, match="this is no calibration of version 1"):
        decode(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "no calibration of version 1"),
        ({"surprise": 1}, "no calibration of version 1"),
        ({"labels": "many"}, "no calibration of version 1"),
        ({"weights": [{"signal": "mood", "mean": 0, "sd": 1, "weight": 1}]}, "no signal 'mood'"),
        ({"weights": [{"signal": "tokens", "mean": 0, "sd": 0, "weight": 1}]}, "sd must be above"),
        ({"weights": [{"signal": "tokens", "mean": 0, "sd": 1, "weight": -1}]}, "sd must be above"),
        ({"right": []}, "scores of right must ascend"),
        ({"right": [[0, 0.1], [0, 0.2]]}, "scores of right must ascend"),
        ({"right": [[0, 0.9], [1, 0.2]]}, "right must not fall"),
        ({"right": [[0, 0.9], [1, 1.2]]}, "between 0 and 1"),
        ({"gain": [[0, 0.1], [1, 0.2]]}, "gain must not rise"),
        (
            {
                "bounds": [
                    {"score": 1, "wrong": 0, "escalated": 0},
                    {"score": 0, "wrong": 0, "escalated": 0},
                ]
            },
            "bounds must ascend",
        ),
    ],
)
def test_broken_file_is_refused_in_words(change: dict[str, object], words: str):
    fields = json.loads(encode(STATED_DEFAULTS)) | change
    with pytest.raises(ValueError, match=words):
        decode(json.dumps(fields).encode())


def test_deep_file_is_refused():
    with pytest.raises(ValueError, match="no calibration"):
        decode(b"[" * 1_000_000)


def test_stated_defaults_are_sound_and_say_what_they_are():
    assert decode(encode(STATED_DEFAULTS)) == STATED_DEFAULTS
    assert STATED_DEFAULTS.labels == 0
    assert "stated defaults" in STATED_DEFAULTS.source
    assert not STATED_DEFAULTS.bounds
    assert STATED_DEFAULTS.threshold < ABOVE_ALL
    sure, unsure = (Signals(mean_logprob=p, low_logprob=p) for p in (-0.001, -3.0))
    assert STATED_DEFAULTS.probability(sure) > 0.9
    assert STATED_DEFAULTS.probability(unsure) < 0.5
