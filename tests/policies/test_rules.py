"""The first rule that matches decides, whatever the rules and whatever the request."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from config.policy import Policy
from policies.facts import Pending
from policies.rules import CompiledRule, compile_policy, decide, trail
from tests.policies.policies import KEYS, MONDAY_S, Stated, facts, matches, policies

PLAIN: dict[str, Any] = {
    "model": "chat",
    "headers": {"x-a": "1"},
    "key": KEYS[0],
    "priority": "normal",
    "tokens": {"small": 10, "large": 11},
    "exact": 5,
    "output_tokens": None,
    "tools": True,
    "json_schema": False,
    "image": False,
    "audio": False,
    "text": "a REFUND",
    "language_is": "de",
    "cosine": 0.55,
    "epoch_s": MONDAY_S,
    "hot_models": {"small"},
    "left": 0.25,
}


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy.model_validate({"aliases": ["talk"], "first_match": [*rules, {"use": "small"}]})


def decided(policy: Policy, known: Stated) -> tuple[CompiledRule, list[Pending]]:
    """The rule, and what had to be fetched for it."""
    compiled = compile_policy("chat", policy)
    fetched: list[Pending] = []
    while isinstance(rule := decide(compiled, known), Pending):
        assert rule not in known.fetched
        fetched.append(rule)
        known.fetched.add(rule)
    return rule, fetched


@settings(max_examples=150, deadline=None)
@given(policy=policies(), known=facts())
@example(
    policy=policy({"when": {"tools": True, "language": "de"}, "use": "large"}),
    known=Stated(**PLAIN),
)
def test_the_decision_is_the_first_rule_that_matches_and_the_trail_agrees(
    policy: Policy, known: Stated
) -> None:
    rule, fetched = decided(policy, known)
    matching = [n + 1 for n, each in enumerate(policy.first_match) if matches(each, known)]
    assert rule.number == matching[0]
    assert len(fetched) == len(set(fetched))
    steps = trail(compile_policy("chat", policy), known)
    assert not isinstance(steps, Pending)
    assert [step.rule.number for step in steps] == list(range(1, rule.number + 1))
    assert [step.matched for step in steps] == [False] * (rule.number - 1) + [True]
    assert all(step.why for step in steps)


@settings(max_examples=50, deadline=None)
@given(policy=policies(), known=facts())
def test_facts_are_asked_only_for_rules_up_to_the_one_that_matches(
    policy: Policy, known: Stated
) -> None:
    rule, fetched = decided(policy, known)
    read = set(known.read)
    known.read.clear()
    known.fetched.clear()
    shortened = policy.model_copy(update={"first_match": policy.first_match[: rule.number]})
    again, wanted = decided(shortened, known)
    assert (again.number, wanted) == (rule.number, fetched)
    assert read <= set(known.read)


@settings(max_examples=50, deadline=None)
@given(some=st.lists(st.integers(0, 8), max_size=8), known=facts(), policy=policies())
def test_a_rule_that_does_not_match_may_be_taken_out(
    some: list[int], known: Stated, policy: Policy
) -> None:
    rule, _ = decided(policy, known)
    failed = [n for n in range(rule.number - 1) if n in some]
    rest = tuple(each for n, each in enumerate(policy.first_match) if n not in failed)
    left, _ = decided(policy.model_copy(update={"first_match": rest}), known)
    assert left.rule is rule.rule


def test_no_fact_is_read_for_rules_behind_the_one_that_matches() -> None:
    """Nor for the rest of a rule that one fact has failed."""
    rules = policy(
        {"when": {"header": {"x-a": "2"}, "tools": True}, "use": "large"},
        {"when": {"not": {"header": {"x-b": "*"}}}, "use": "large"},
        {"when": {"tools": True}, "use": "small"},
    )
    rule, _ = decided(rules, unread := Stated(headers={"x-a": "1"}))
    assert rule.number == 2
    assert unread.read == []


def test_what_must_be_waited_for_is_not_when_something_else_tells() -> None:
    rules = policy(
        {"when": {"language": "de", "tools": False}, "use": "large"},
        {"when": {"any_of": [{"language": "en"}, {"tools": True}]}, "use": "large"},
    )
    rule, fetched = decided(rules, Stated(**PLAIN))
    assert (rule.number, fetched) == (2, [])


def test_lines_and_names_are_those_of_the_file() -> None:
    rules = policy({"name": "tools", "when": {"tools": True}, "use": "large"})
    first, last = compile_policy("chat", rules, [7]).rules
    assert (first.label, first.line, last.label, last.line) == ("tools", 7, "2", 0)


WHYS = [
    ({"model": "talk"}, "model is 'chat', not 'talk'"),
    ({"header": {"x-a": ["2", "3"]}}, "header x-a is '1', none of '2', '3'"),
    ({"header": {"X-B": "*"}}, "there is no header x-b"),
    ({"key": KEYS[1]}, "key is sha256:aaaaaaaa..., which is none of those"),
    ({"priority": "high"}, "priority is normal, not 'high'"),
    ({"input_tokens": {"above": 11}}, "input_tokens is 11 (estimate), not above 11"),
    (
        {"input_tokens": {"at_least": 6, "exact": True}},
        "input_tokens is 5 (server), not at least 6",
    ),
    ({"output_tokens": {"below": 9}}, "the caller sets no limit on output_tokens"),
    ({"tools": False}, "it offers tools"),
    ({"json_schema": True}, "the answer may be any text"),
    ({"image": True}, "the prompt has no picture"),
    ({"audio": True}, "the prompt has no audio"),
    ({"language": ["en", "fr"]}, "language is de, none of 'en', 'fr'"),
    ({"keyword": "credit card"}, "the text has none of the keywords"),
    ({"regex": "[0-9]"}, "the regular expression is not found in the text"),
    ({"similar_to": ["x"]}, "similarity to the examples is 0.550, not above 0.6"),
    (
        {"time": {"at": "Tue 08:00", "for": "1h"}},
        "it is not in the hours from Tue 08:00 UTC",
    ),
    ({"hot": ["small", "large"]}, "large is not hot"),
    ({"budget_left": {"above": 0.5}}, "0.25 of the budget is left, not above 0.5"),
    ({"budget_left": {"above": 0.5, "model": "m"}}, "0.25 of m's budget is left, not above 0.5"),
    (
        {"any_of": [{"tools": False}, {"image": True}]},
        "it offers tools; and the prompt has no picture",
    ),
    ({"all_of": [{"tools": True}, {"image": True}]}, "the prompt has no picture"),
    ({"not": {"tools": True}}, "it offers tools"),
]


@pytest.mark.parametrize(("when", "why"), WHYS, ids=[str(when) for when, _ in WHYS])
def test_a_rule_that_fails_says_which_fact_failed_it(when: dict[str, Any], why: str) -> None:
    known = Stated(**PLAIN)
    rules = policy({"when": when, "use": "large"})
    decided(rules, known)
    steps = trail(compile_policy("chat", rules), known)
    assert not isinstance(steps, Pending)
    assert [step.why for step in steps] == [why, "it has no condition"]


def test_a_rule_that_matches_says_all_that_made_it() -> None:
    when = {
        "keyword": ["x", "refund"],
        "tools": True,
        "input_tokens": {"above": 5, "at_most": 11},
        "any_of": [{"image": True}, {"priority": "normal"}],
        "not": {"audio": True},
        "header": {"x-a": "*"},
    }
    known = Stated(**PLAIN)
    (step,) = trail(compile_policy("chat", policy({"when": when, "use": "large"})), known)  # type: ignore[misc]
    assert step.matched
    assert step.why.split(" and ") == [
        "header x-a is '1'",
        "input_tokens is 11 (estimate), above 5",
        "at most 11",
        "it offers tools",
        "priority is normal",
        "the prompt has no audio",
        "the text has the keyword 'refund'",
    ]


@pytest.mark.parametrize(
    "name", ["authorization", "x-api-key", "api-key", "cookie", "x-auth-token"]
)
def test_an_explanation_never_shows_a_credential(name: str) -> None:
    known = Stated(**{**PLAIN, "headers": {name: "secret"}})
    for values in (["*"], ["other"], ["secret"]):
        rules = policy({"when": {"header": {name: values}}, "use": "large"})
        steps = trail(compile_policy("chat", rules), known)
        assert not isinstance(steps, Pending)
        assert "secret" not in " ".join(step.why for step in steps)


def test_counts_are_those_of_the_model_that_the_rule_uses() -> None:
    """small counts 10, large 11."""
    above = {"input_tokens": {"above": 10}}
    assert decided(policy({"when": above, "use": "small"}), Stated(**PLAIN))[0].number == 2
    assert decided(policy({"when": above, "use": "large"}), Stated(**PLAIN))[0].number == 1
    pair = {"cascade": ["small", "large"]}
    assert decided(policy({"when": above, "use": pair}), Stated(**PLAIN))[0].number == 2
