"""Numbers read off one answer."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.reply import Reply, Token
from policies.signals import Expected, final_answer, first_tokens, signals

LOGPROBS = st.one_of(st.floats(-50, 0), st.just(-math.inf), st.just(-9999.0))
TOKENS = st.builds(
    Token,
    st.text(max_size=8),
    LOGPROBS,
    st.lists(st.floats(-50, 0), max_size=5).map(lambda t: tuple(sorted(t, reverse=True))),
)
REPLIES = st.builds(
    Reply,
    st.text(max_size=200),
    st.lists(TOKENS, max_size=40).map(tuple),
    st.sampled_from([None, "stop", "length"]),
    st.lists(st.tuples(st.text(max_size=5), st.text(max_size=20)), max_size=2).map(tuple),
)


def reply(text: str, logprobs: list[float] | None = None) -> Reply:
    """A token a word."""
    words = text.split(" ")
    spaced = [word if n == 0 else f" {word}" for n, word in enumerate(words)]
    known = logprobs or [-0.5] * len(words)
    pairs = zip(spaced, known, strict=True)
    return Reply(text, tuple(Token(t, p, (p, p - 1.0)) for t, p in pairs), "stop")


def test_whole_answer_is_measured():
    found = signals(reply("a b c d", [-0.1, -0.2, -0.3, -2.0]))
    assert found.mean_logprob == pytest.approx(-0.65)
    assert found.min_logprob == found.low_logprob == -2.0
    assert found.mean_margin == found.min_margin == pytest.approx(1.0)
    assert found.tokens == 4
    assert found.finish_reason == "stop"


def test_low_quantile_is_the_tenth_percent():
    found = signals(Reply("", tuple(Token("x", -float(n)) for n in range(100))))
    assert found.low_logprob == -89.0
    assert found.mean_margin is None


def test_entropy_counts_the_unnamed_rest_as_one_more():
    half = math.log(0.5)
    assert signals(Reply("x", (Token("x", half, (half, half)),))).mean_entropy == pytest.approx(
        math.log(2)
    )
    quarter = math.log(0.25)
    found = signals(Reply("x", (Token("x", half, (half, quarter)),)))
    assert found.mean_entropy == pytest.approx(1.5 * math.log(2))


def test_answer_without_logprobs_is_not_known_to_be_sure():
    found = signals(Reply("Paris", (), "stop"))
    assert found.mean_logprob is None
    assert found.span_min_logprob is None
    assert found.tokens is None


LONG = "so we count on and on and then we see that after all of this it all fits well"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        (f"{LONG} The answer is 42", " 42"),
        (f"{LONG} Answer: 42 apples", " 42 apples"),
        (f"{LONG}\n#### 42", " 42"),
        (f"{LONG} and so \\boxed{{42}}", " \\boxed{42}"),
        (f"The answer is 41 but {LONG} the answer is 42", " 42"),
        (f"{LONG} The answer is 3.5. {LONG}", " 3.5."),
        (f"{LONG} **Answer:** 42 apples", " 42 apples"),
        (f"the answer to this: {LONG}", ""),
        (LONG, ""),
        ("Paris it is", "Paris it is"),
    ],
)
def test_final_answer_is_found(text: str, span: str):
    assert "".join(token.text for token in final_answer(reply(text))) == span


def test_final_answer_of_json_is_its_values():
    text = '{"city": "Paris", "tags": ["big", 1.5], "old": true, "' + "x" * 20 + '": null}'
    tokens = tuple(Token(character, -0.1) for character in text)
    found = "".join(token.text for token in final_answer(Reply(text, tokens)))
    assert found == '"Paris""big"1.5truenull'


def test_span_is_measured_apart():
    words = f"{LONG} The answer is 42".split(" ")
    found = signals(reply(" ".join(words), [-0.01] * (len(words) - 1) + [-3.0]))
    assert found.span_mean_logprob == found.span_min_logprob == -3.0
    assert found.mean_logprob is not None
    assert found.mean_logprob > -0.5


@pytest.mark.parametrize(
    ("text", "refusal", "hedge"),
    [
        ("I'm sorry, but I can't help with that.", True, False),
        ("As an AI, that is beyond me.", True, False),
        ("It is probably Paris.", False, True),
        ("I am not entirely sure, Paris?", False, True),
        ("Paris.", False, False),
        ("She said sorry and went to Paris.", False, False),
    ],
)
def test_phrases(text: str, refusal: bool, hedge: bool):
    found = signals(Reply(text))
    assert (found.refusal, found.hedge) == (refusal, hedge)


def is_city(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("city"), str)


CITY = Expected(json=True, schema=is_city)
TOOLS = Expected(tools={"travel": is_city})


@pytest.mark.parametrize(
    ("answer", "asked", "valid"),
    [
        (Reply("Paris"), Expected(), None),
        (Reply("Paris"), TOOLS, None),
        (Reply("{}"), Expected(json=True), True),
        (Reply("{"), Expected(json=True), False),
        (Reply('{"city": "Paris"}'), CITY, True),
        (Reply('{"city": 1}'), CITY, False),
        (Reply("[" * 100_000), CITY, False),
        (Reply("", tool_calls=(("travel", '{"city": "Paris"}'),)), TOOLS, True),
        (Reply("", tool_calls=(("travel", '{"city": '),)), TOOLS, False),
        (Reply("", tool_calls=(("travel", "{}"),)), TOOLS, False),
        (Reply("", tool_calls=(("fly", '{"city": "Paris"}'),)), TOOLS, False),
        (Reply("", tool_calls=(("fly", "{}"),)), Expected(), False),
    ],
)
def test_validity(answer: Reply, asked: Expected, valid: bool | None):
    assert signals(answer, asked).valid is valid


def test_first_tokens_are_what_a_stream_has_then():
    begun = first_tokens(reply("a b c d"), 2)
    assert begun.text == "a b"
    assert len(begun.tokens) == 2
    assert begun.finish_reason is None


def test_answer_full_of_marks_is_read_in_no_time():
    text = "answer is a " * 15_000
    tokens = tuple(Token(text[at : at + 4], -1.0) for at in range(0, len(text), 4))
    began_s = time.process_time()
    for _ in range(5):
        final_answer(Reply(text, tokens))
    assert time.process_time() - began_s < 1.0


def test_token_that_is_likelier_than_certain_counts_as_certain():
    tops = (1e308, -1e308)
    found = signals(Reply("a b", tuple(Token("a", 1e308, tops) for _ in range(20))))
    assert (found.mean_logprob, found.mean_margin, found.mean_entropy) == (0.0, 100.0, 0.0)


@given(REPLIES, st.booleans())
def test_signals_of_anything_are_numbers(answer: Reply, json: bool):
    found = signals(answer, Expected(json=json, schema=is_city if json else None))
    for value in (getattr(found, name) for name in found.__struct_fields__):
        assert not isinstance(value, float) or math.isfinite(value)
    if found.min_logprob is not None:
        assert found.mean_logprob is not None
        assert found.low_logprob is not None
        assert found.min_logprob <= found.low_logprob <= 0
        assert found.min_logprob <= found.mean_logprob + 1e-9 <= 1e-6


@given(REPLIES)
def test_final_answer_is_part_of_the_answer(answer: Reply):
    found = final_answer(answer)
    left = iter(answer.tokens)
    assert all(any(token is each for each in left) for token in found)
