"""Labelled answers as a file has them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.signals import Signals
from router.calibrate.labelled import read
from tests.cascades.scenes import logprobs, words_of


def line(**small: object) -> dict[str, object]:
    return {"small": {"right": True, **small}, "large": {"right": False}}


def read_one(value: object) -> Signals:
    (found,) = read([json.dumps(value).encode()])
    return found.signals


def completion(text: str, logprob: float = -0.5) -> dict[str, object]:
    message = {"role": "assistant", "content": text}
    sure = logprobs(words_of(text), logprob)
    choice = {"index": 0, "message": message, "logprobs": sure, "finish_reason": "stop"}
    return {"id": "c", "object": "chat.completion", "choices": [choice]}


def test_signals_are_taken_as_they_are():
    value = line(signals={"mean_logprob": -0.5, "tokens": 7}, first={"mean_logprob": -1.0}, usd=0.1)
    (found,) = read([json.dumps(value).encode(), b"", b"  \n"])
    assert found.signals == Signals(mean_logprob=-0.5, tokens=7)
    assert found.first == Signals(mean_logprob=-1.0)
    assert (found.small_right, found.large_right) == (True, False)
    assert (found.small_usd, found.large_usd) == (0.1, None)


def test_signals_are_read_off_a_response():
    short = read_one(line(response=completion("It is Paris")))
    assert short.mean_logprob == -0.5
    assert short.tokens == 3


def test_first_tokens_of_a_long_response_are_looked_at_too():
    words = " ".join(["word"] * 40)
    (found,) = read([json.dumps(line(response=completion(words))).encode()])
    assert found.first is not None
    assert found.first.tokens == 16
    (short,) = read([json.dumps(line(response=completion("word word"))).encode()])
    assert short.first is None


def test_prompt_makes_what_the_text_says_known():
    value = line(response=completion("2 + 2 = 4")) | {"prompt": "What is 2 + 2?"}
    assert read_one(value).working is not None
    assert read_one(line(response=completion("2 + 2 = 4"))).working is None


def test_large_model_may_be_unknown():
    (found,) = read([b'{"small": {"right": true, "signals": {}}}'])
    assert found.large_right is None


def test_lines_of_other_policies_are_left_out():
    lines = [
        json.dumps(line(signals={}) | {"policy": name}).encode() for name in ("chat", "code", None)
    ]
    assert [each.policy for each in read(lines, "chat")] == ["chat", None]
    assert len(read(lines)) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "line 2: "),
        (b"\xff", "line 2: "),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `small`"),
        (b'{"small": {"signals": {}}}', "missing required field `right`"),
        (b'{"small": {"right": "yes", "signals": {}}}', "Expected `bool`"),
        (b'{"small": {"right": true}}', "either signals or the response"),
        (
            b'{"small": {"right": true, "signals": {}, "response": {}}}',
            "either signals or the response",
        ),
        (b'{"small": {"right": true, "response": {}}}', "no completion with an answer"),
        (b'{"small": {"right": true, "response": 7}}', "no completion with an answer"),
        (b'{"small": {"right": true, "signals": {"mood": 1}}}', "unknown field `mood`"),
        (b'{"small": {"right": true, "signals": {}}, "lage": 1}', "unknown field `lage`"),
        (b"[" * 100_000, "line 2: "),
    ],
)
def test_line_that_is_wrong_is_named(text: bytes, words: str):
    with pytest.raises(ValueError, match=words) as caught:
        read([b'{"small": {"right": true, "signals": {}}}', text])
    assert str(caught.value).startswith("line 2: ")


@given(st.binary(min_size=1, max_size=60).filter(bytes.strip))
def test_garbage_is_refused_in_words(text: bytes):
    with pytest.raises(ValueError, match=r"^line 1: "):
        read([text])
