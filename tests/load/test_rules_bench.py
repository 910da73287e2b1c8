"""The policy whose decisions are timed is one that decides."""

from load_tests.rules import EPOCH_S, Still, policy_of, realistic, request_of, shuffled_rules
from policies.rules import CompiledRule, decide
from router.facts import RequestFacts


def number(policy, request) -> int:
    rule = decide(policy, RequestFacts(request, Still(), EPOCH_S))
    assert isinstance(rule, CompiledRule)
    return rule.number


def test_the_timed_requests_are_decided_by_the_first_and_by_the_last_of_fifty_rules() -> None:
    policy = policy_of(realistic())
    assert len(policy.rules) == 50
    first = request_of(100, {b"x-team": b"team0"}, tools=[{"type": "function"}])
    assert number(policy, first) == 1
    for words in (100, 1000):
        assert number(policy, request_of(words, {})) == 50
        assert number(shuffled_rules(policy), request_of(words, {})) == 50
