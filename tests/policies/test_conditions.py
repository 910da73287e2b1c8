"""Keywords and regular expressions: what is found in which text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.wordings import Wordings, has_keyword


def found(keyword: str, text: str) -> bool:
    wordings = Wordings()
    number = wordings.add_keywords([keyword])
    assert has_keyword(keyword, text) == (number in wordings.found_in(text))
    return number in wordings.found_in(text)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("refund", "I want a REFUND."),
        ("Refund", "refund"),
        ("refund", "refund's"),
        ("refund", "“refund”—now"),
        ("refund", "我要refund吗"),
        ("refund", "a\nrefund\tb"),
        ("credit card", "my Credit\n  card"),
        ("C++", "I like c++!"),
        (".NET", "a .net app"),
        (".NET", "asp.net"),
        ("C++", "c++11"),
        ("node.js", "use Node.js now"),
        ("straße", "STRASSE 5"),
        ("élan", "un E\u0301lan"),
        ("退款", "我要退款吗"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
    ],
)
def test_a_keyword_is_found(keyword: str, text: str) -> None:
    assert found(keyword, text)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("refund", "refunds"),
        ("refund", "prerefund"),
        ("refund", "my_refund"),
        ("refund", "refund2"),
        ("refund", "éрrefundé"),
        ("credit card", "creditcard"),
        ("credit card", "credit the card"),
        ("node.js", "nodexjs"),
        ("C++", "xc++"),
        ("refund", ""),
    ],
)
def test_a_keyword_is_not_found_in_other_words(keyword: str, text: str) -> None:
    assert not found(keyword, text)


@given(st.lists(st.text(), max_size=3), st.lists(st.text("ab c\u00e9"), min_size=1, max_size=4))
def test_all_are_found_together_as_each_is_alone(texts: list[str], words: list[str]) -> None:
    wordings = Wordings()
    numbers = [wordings.add_keywords([word]) for word in words]
    expression = wordings.add_regex("a+b?")
    for text in [*texts, " ".join(words)]:
        alone = {n for n, word in zip(numbers, words, strict=True) if has_keyword(word, text)}
        assert wordings.found_in(text) == alone | ({expression} if "a" in text else set())


def test_patterns_too_large_for_one_automaton_are_looked_for_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("policies.wordings._MOST_MEMORY", 50_000)
    wordings = Wordings()
    numbers = [wordings.add_regex(rf"{n}\pLx") for n in range(20)]
    plain = wordings.add_regex("abc")
    assert wordings.found_in("abc 7éx") == {numbers[7], plain}
    assert wordings.found_in("nothing") == set()


def test_time_grows_with_the_text_and_not_with_its_shape() -> None:
    """Expressions that take other engines hours; done at all is the proof."""
    wordings = Wordings()
    for pattern in ("(a+)+b", "(a|aa)*c", "(x+x+)+y", "(a|b)*a(a|b){12}d"):
        wordings.add_regex(pattern)
    assert wordings.found_in("a" * 16000 + "x" * 16000) == set()
