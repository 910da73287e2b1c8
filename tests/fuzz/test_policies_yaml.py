"""A policies file, damaged in any way: mistakes with their places, and never a crash."""

import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from config.load import parse
from config.problems import ConfigError, Problem
from policies.rules import compile_policy

GOOD = """\
version: 1
budget: {usd_per_day: 50}
models:
  small: {hot: {urls: [{url: http://h/v1, gpu_hour: 1}]}}
  large: {api: {url: http://h/v1, price: {input: 3, output: 15}}, aliases: [big]}
policies:
  chat:
    aliases: [assistant]
    affinity: conversation
    mirror: {to: large, share: 0.01}
    first_match:
      - name: long
        when: {input_tokens: {above: 8000, exact: true}}
        use: large
        max_wait: 10m
      - when:
          any_of: [{tools: true}, {json_schema: true}, {not: {image: false}}]
          header: {x-team: [a, b], x-tier: '*'}
        use: {cascade: [small, large], accept: {right_answer: 0.05, samples: 3}}
        set: {temperature: 0.2, stop: ["a", 1.5, null]}
      - when: {keyword: [refund, credit card], regex: '(?i)order [0-9]{6}'}
        use: [{model: small, weight: 95}, large]
        overflow: [large]
      - when: {time: {at: "Mon-Fri 08:30", tz: Europe/Berlin, for: 10h}, hot: small}
        use: small
        priority: low
        retries: 0
      - when: {budget_left: {below: 0.1}, priority: [low, normal]}
        deny: nothing is left of today's budget
      - when: {language: [de, fr], similar_to: {examples: [hello], above: 0.5}}
        use: large
      - use: small
"""
PIECES = [
    *("", " ", "\n", "  ", "- ", ": ", "{", "}", "[", "]", "'", '"', "#", "&a ", "*a", "!!x ", "|"),
    *("null", "true", "-1", "1e999", ".nan", ".inf", "0x10", "9" * 50, "${env.A}", "${env.", ">"),
    *("when:", "use:", "deny: x", "not: {}", "any_of: []", "any_of: [{}]", "model: chat", "small"),
    *("<<: *a", "\t", "\u2028", "é", "\\", "? ", "%", "@", "`", "{not: {not: {tools: true}}}", "~"),
]


def damaged(text: str, draw: random.Random) -> str:
    """A few cuts, copies and pieces put in, at random places."""
    for _ in range(draw.randint(1, 4)):
        text = draw.choice([_put_in, _cut, _line_gone, _line_twice, _word_changed])(text, draw)
    return text


def _put_in(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice(PIECES) + text[at:]


def _cut(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return text[:at] + text[at + draw.choice([1, 1, 2, 9, 300]) :]


def _line_gone(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    del lines[draw.randrange(len(lines))]
    return "\n".join(lines)


def _line_twice(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    return "\n".join(lines)


def _word_changed(text: str, draw: random.Random) -> str:
    words = text.split() or ["x"]
    return text.replace(draw.choice(words), draw.choice([*PIECES, *words]), 1)


def looked_at(text: str) -> None:
    config = None
    problems: list[Problem] = []
    try:
        config = parse(text, "f.yaml", {"A": "1", "B": "x"})
    except ConfigError as error:
        problems = error.problems
    assert (config is None) == bool(problems)
    for problem in problems:
        assert problem.file == "f.yaml"
        assert 1 <= problem.line <= text.count("\n") + 2
        assert problem.column >= 1
        assert problem.message.isprintable()
    for name, policy in config.policies.items() if config is not None else ():
        assert config is not None
        compiled = compile_policy(name, policy, config.policy_lines(name))
        assert all(rule.line >= 1 for rule in compiled.rules)
        assert config.policy_text(name)


def test_the_file_is_right_before_it_is_damaged() -> None:
    assert len(parse(GOOD, "f.yaml", {}).policies["chat"].first_match) == 7


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_a_damaged_file_is_told_and_never_crashes(seed: int) -> None:
    looked_at(damaged(GOOD, random.Random(seed)))


_KEYS = (
    "when use deny set model split cascade accept any_of not header key time at for similar_to"
    " examples above hot input_tokens regex language keyword"
)
_VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, -1, 1.5, "", "small", "chat", "x: y", "8:30", "de"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_KEYS.split()),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(rules=st.lists(_VALUES, max_size=3) | _VALUES)
def test_any_values_in_the_place_of_rules_are_told(rules: object) -> None:
    """YAML holds JSON."""
    head = GOOD.split("    first_match:", 1)[0]
    looked_at(f"{head}    first_match: {json.dumps(rules)}\n")
