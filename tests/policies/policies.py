"""Policies and requests at random, and what a rule means spelled out once more, naively."""

from collections.abc import Callable
from typing import Any

import re2
from hypothesis import strategies as st

from config.policy import Policy, Range, Rule, Similar, When
from policies.facts import Count, Pending, Wordings

MODELS = ["small", "large"]
WORDS = ["refund", "credit card", "c++", "straße", "退款"]
REGEXES = ["[0-9]+", "^hi", "(?i)REFUND$", "(a|b)*c", "x"]
TEXTS = [
    "",
    "hi",
    "a REFUND",
    "refunds",
    "credit  card 12",
    "I like C++.",
    "STRASSE",
    "我要退款吗",
    "abac x",
    "\ud800 refund",
]
NUMBERS = [0, 1, 5, 10, 11]
HOURS = {"at": "Mon 08:00", "for": "2h"}
MONDAY_S = 1_790_582_400.0  # 2026-09-28, a Monday, 08:00 UTC


class Stated:
    """Facts as they are given; what must be waited for is pending until it is fetched."""

    def __init__(self, **known: Any) -> None:
        self._known = known
        self.fetched: set[Pending] = set()
        self.read: list[str] = []  # of the facts that have no method

    def __getattr__(self, name: str) -> Any:
        self.read.append(name)
        return self._known[name]

    def header(self, name: str) -> str | None:
        value: str | None = self._known["headers"].get(name)
        return value

    def found(self, wordings: Wordings) -> frozenset[int]:
        return wordings.found_in(self.text)

    def input_tokens(self, model: str = "") -> Count:
        return Count(self._known["tokens"].get(model, 7), "estimate")

    def exact_tokens(self, model: str) -> Count | Pending:
        return self._after(Pending("exact_tokens", model), Count(self._known["exact"], "server"))

    def language(self) -> str | None | Pending:
        return self._after(Pending("language"), self._known["language_is"])

    def similarity(self, to: Similar) -> float | None | Pending:
        return self._after(Pending("similarity", to.examples[0]), self._known["cosine"])

    def hot(self, model: str) -> bool:
        return model in self._known["hot_models"]

    def budget_left(self, model: str | None) -> float | None:
        left: float | None = self._known["left"]
        return left

    def _after(self, pending: Pending, value: Any) -> Any:
        return value if pending in self.fetched else pending


def facts() -> st.SearchStrategy[Stated]:
    return st.builds(
        Stated,
        model=st.sampled_from(["chat", "talk"]),
        headers=st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2", "*"])),
        key=st.sampled_from([None, *KEYS]),
        priority=st.sampled_from(["low", "normal", "high"]),
        tokens=st.fixed_dictionaries({name: st.sampled_from(NUMBERS) for name in MODELS}),
        exact=st.sampled_from(NUMBERS),
        output_tokens=st.sampled_from([None, *NUMBERS]),
        tools=st.booleans(),
        json_schema=st.booleans(),
        image=st.booleans(),
        audio=st.booleans(),
        text=st.sampled_from(TEXTS),
        language_is=st.sampled_from([None, "en", "de"]),
        cosine=st.sampled_from([None, -1.0, 0.5, 0.9]),
        epoch_s=st.sampled_from([MONDAY_S, MONDAY_S + 7199.9, MONDAY_S + 7200, MONDAY_S - 1]),
        hot_models=st.sets(st.sampled_from(MODELS)),
        left=st.sampled_from([None, 0.0, 0.5, 1.0]),
    )


KEYS = ["sha256:" + digit * 64 for digit in "ab"]


def _limits(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    number = st.sampled_from(NUMBERS)
    names = ("above", "at_least", "below", "at_most")
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(names, number), **more})


def _some(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from(values) | st.lists(st.sampled_from(values), min_size=1, max_size=3)


def _flat() -> dict[str, st.SearchStrategy[Any]]:
    return {
        "model": _some(["chat", "talk"]),
        "header": st.dictionaries(st.sampled_from(["x-a", "X-B"]), _some(["1", "2", "*"])),
        "key": _some(KEYS),
        "priority": _some(["low", "normal", "high"]),
        "input_tokens": _limits(exact=st.booleans()),
        "output_tokens": _limits(),
        **dict.fromkeys(("tools", "json_schema", "image", "audio"), st.booleans()),
        "language": _some(["en", "de"]),
        "keyword": _some(WORDS),
        "regex": st.sampled_from(REGEXES),
        "similar_to": st.just({"examples": ["a"], "above": 0.5}) | st.just(["b"]),
        "time": st.just(HOURS) | st.just([HOURS]),
        "hot": _some(MODELS),
        "budget_left": _limits(model=st.sampled_from(MODELS)),
    }


def whens() -> st.SearchStrategy[dict[str, Any]]:
    def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        several = st.lists(inner, min_size=1, max_size=3)
        joined = {"any_of": several, "all_of": several, "not": inner}
        return st.fixed_dictionaries({}, optional={**_flat(), **joined})

    return st.recursive(st.fixed_dictionaries({}, optional=_flat()), nested, max_leaves=6)


def rules() -> st.SearchStrategy[dict[str, Any]]:
    use = st.sampled_from(["small", "large", {"cascade": ["small", "large"]}, ["large", "small"]])
    return st.fixed_dictionaries({"when": whens(), "use": use}) | st.fixed_dictionaries(
        {"when": whens(), "deny": st.just("no")}
    )


def policies() -> st.SearchStrategy[Policy]:
    def whole(some: list[dict[str, Any]]) -> Policy:
        return Policy.model_validate(
            {"aliases": ["talk"], "first_match": [*some, {"use": "small"}]}
        )

    return st.lists(rules(), max_size=8).map(whole)


# --- the meaning, naively -------------------------------------------------------------------------


def matches(rule: Rule, facts: Stated) -> bool:
    """With every fact known."""
    used = rule.use.models if rule.use is not None else ()
    return rule.when is None or _holds(rule.when, facts, used[0] if used else "")


def _holds(when: When, facts: Stated, model: str) -> bool:
    return all(_MEANS[key](value, facts, model) for key, value in when.written().items())


def _number(number: float | None, limits: Range) -> bool:
    if number is None:
        return False
    if limits.above is not None and not number > limits.above:
        return False
    if limits.at_least is not None and not number >= limits.at_least:
        return False
    if limits.below is not None and not number < limits.below:
        return False
    return limits.at_most is None or number <= limits.at_most


def _header(wanted: dict[str, tuple[str, ...]], facts: Stated) -> bool:
    return all(
        facts.header(name) is not None and ("*" in values or facts.header(name) in values)
        for name, values in wanted.items()
    )


def _counted(limits: Any, facts: Stated, model: str) -> bool:
    known = facts._known
    return _number(known["exact"] if limits.exact else known["tokens"].get(model, 7), limits)


def _word(words: tuple[str, ...], facts: Stated) -> bool:
    """For the texts and words of this module alone."""
    has = {
        "a REFUND": {"refund"},
        "credit  card 12": {"credit card"},
        "I like C++.": {"c++"},
        "STRASSE": {"straße"},
        "我要退款吗": {"退款"},
        "\ud800 refund": {"refund"},
    }
    return bool(has.get(facts.text, set()) & set(words))


def _similar(wanted: Similar, facts: Stated) -> bool:
    cosine = facts._known["cosine"]
    return cosine is not None and cosine > wanted.above


_MEANS: dict[str, Callable[[Any, Any, str], bool]] = {
    "model": lambda value, facts, _: facts.model in value,
    "header": lambda value, facts, _: _header(value, facts),
    "key": lambda value, facts, _: facts.key in value,
    "priority": lambda value, facts, _: facts.priority in value,
    "input_tokens": _counted,
    "output_tokens": lambda value, facts, _: _number(facts.output_tokens, value),
    "tools": lambda value, facts, _: facts.tools == value,
    "json_schema": lambda value, facts, _: facts.json_schema == value,
    "image": lambda value, facts, _: facts.image == value,
    "audio": lambda value, facts, _: facts.audio == value,
    "language": lambda value, facts, _: facts._known["language_is"] in value,
    "keyword": lambda value, facts, _: _word(value, facts),
    "regex": lambda value, facts, _: (
        re2.search(value.encode(), facts.text.encode("utf-8", "replace")) is not None
    ),
    "similar_to": lambda value, facts, _: _similar(value, facts),
    "time": lambda value, facts, _: any(each.covers(facts.epoch_s) for each in value),
    "hot": lambda value, facts, _: all(map(facts.hot, value)),
    "budget_left": lambda value, facts, _: _number(facts.budget_left(value.model), value),
    "any_of": lambda value, facts, model: any(_holds(each, facts, model) for each in value),
    "all_of": lambda value, facts, model: all(_holds(each, facts, model) for each in value),
    "not_": lambda value, facts, model: not _holds(value, facts, model),
}
