"""Mistakes in policies, each with its place and with what to do about it."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings

from config import policy_checks
from config.load import parse
from config.policy import Rule
from config.problems import ConfigError
from config.reach import Reach
from config.schema import Config
from tests.policies.policies import Stated, facts, matches, policies

TOP = """\
version: 1
models:
  small: {api: {url: http://h/v1, price: {input: 1}}}
  large: {api: {url: http://h/v1, price: {input: 1}}, aliases: [big]}
policies:
  chat:
    aliases: [talk]
    first_match:
"""


def mistakes(text: str) -> list[str]:
    """Without the name of the file."""
    try:
        parse(text, "f", {})
    except ConfigError as error:
        return [str(problem).removeprefix("f:") for problem in error.problems]
    return []


def of(rule: str, then: str = "{use: small}") -> list[str]:
    """A rule on line 9, written from column 9 on, before a last one without conditions."""
    found = mistakes(f"{TOP}      - {rule}\n      - {then}\n")
    return [each.replace("policies.chat.first_match", "~") for each in found]


def test_the_policy_of_the_tests_has_no_mistake() -> None:
    assert of("{when: {tools: true}, use: large}") == []


UNKNOWN = [
    (
        "{use: lage, when: {tools: true}}",
        "9:15: ~[0].use: unknown model 'lage'; did you mean 'large'?",
    ),
    (
        "{use: [small, {model: big}], when: {tools: true}}",
        "9:31: ~[0].use[1].model: unknown model 'big'; it is an alias: write 'large'",
    ),
    (
        "{use: {cascade: [small, chat]}, when: {tools: true}}",
        "9:33: ~[0].use.cascade[1]: unknown model 'chat'; it is a policy: name the models"
        " themselves",
    ),
    (
        "{use: small, overflow: [x], when: {tools: true}}",
        "9:33: ~[0].overflow[0]: unknown model 'x'",
    ),
    (
        "{when: {hot: big}, use: small}",
        "9:22: ~[0].when.hot: unknown model 'big'; it is an alias: write 'large'",
    ),
    (
        "{when: {any_of: [{hot: [y]}]}, use: small}",
        "9:33: ~[0].when.any_of[0].hot[0]: unknown model 'y'",
    ),
    (
        "{when: {budget_left: {model: z, above: 0}}, use: small}",
        "9:38: ~[0].when.budget_left.model: unknown model 'z'",
    ),
    (
        "{when: {model: tlak}, use: small}",
        "9:24: ~[0].when.model: 'tlak' is no name or alias of this policy; did you mean 'talk'?",
    ),
]
USES = [
    ("{when: {tools: true}}", "9:9: ~[0]: says neither use, which model answers, nor deny"),
    (
        "{when: {tools: true}, use: small, deny: x}",
        "9:49: ~[0].deny: stands in place of use; take one of them out",
    ),
    (
        "{when: {tools: true}, use: {}}",
        "9:36: ~[0].use: names no model; give it just one of model, split and cascade",
    ),
    (
        "{when: {tools: true}, use: {model: small, cascade: [small, large]}}",
        "9:36: ~[0].use: model and cascade exclude each other; give it just one of model, split and"
        " cascade",
    ),
    (
        "{when: {tools: true}, use: {model: small, accept: {samples: 2}}}",
        "9:59: ~[0].use.accept: counts only for a cascade; take it out",
    ),
    (
        "{when: {tools: true}, use: {cascade: [small, small]}}",
        "9:46: ~[0].use.cascade: its two models are the same; name a small and a large one",
    ),
    (
        "{when: {tools: true}, use: {cascade: [small, large, small]}}",
        "9:46: ~[0].use.cascade: takes two models, a small and a large one: a longer chain"
        " never beats"
        " the best pair of it, so take two",
    ),
    (
        "{when: {tools: true}, use: {cascade: [small]}}",
        "9:46: ~[0].use.cascade: takes two models, a small and a large one",
    ),
    (
        "{when: {tools: true}, use: [small, large, small]}",
        "9:51: ~[0].use[2]: names 'small' a second time; give it one weight",
    ),
    (
        "{when: {tools: true}, use: small, overflow: [large, large]}",
        "9:61: ~[0].overflow[1]: names 'large' more than once; take it out",
    ),
    (
        "{when: {tools: true}, use: small, overflow: [small]}",
        "9:54: ~[0].overflow[0]: is the model that the rule uses; take it out",
    ),
    (
        "{when: {tools: true}, deny: x, retries: 1}",
        "9:49: ~[0].retries: says nothing where the rule denies; take it out",
    ),
    (
        "{when: {tools: true}, use: [{model: small, wieght: 9}, large]}",
        "9:52: unknown key 'wieght' in ~[0].use[0]; did you mean 'weight'?",
    ),
    (
        "{when: {tools: true}, use: {cascade: [small, large], accept: {shadow: 0.1}}}",
        "9:79: ~[0].use.accept.shadow: needs store.path, the file in which labels are kept",
    ),
    (
        "{when: {tools: true}, use: {cascade: [small, large], accept: {max_wrong: 0.1}}}",
        "9:82: ~[0].use.accept.max_wrong: needs a calibration: the stated defaults promise nothing;"
        " make one with lamplighter calibrate",
    ),
    (
        "{when: {tools: true}, use: {cascade: [small, large], accept: {calibration: no.json}}}",
        "9:84: ~[0].use.accept.calibration: there is no such file; lamplighter calibrate"
        " writes one",
    ),
    (
        "{when: {tools: true}, use: 5}",
        "9:36: ~[0].use: must be a model, a list of models, or a map with model, split or cascade",
    ),
    (
        "{when: {tools: true}, use: [5]}",
        "9:37: ~[0].use[0]: must be a model, or a map with model and weight",
    ),
    ("{when: {tools: true}, use: []}", "9:36: ~[0].use: must not be empty"),
    (
        "{when: {tools: true}, use: small, set: {model: x}}",
        "9:49: set cannot hold 'model': a rule sets only what a caller may leave out",
    ),
    (
        "{when: {tools: true}, use: small, set: {a: {b: [1, .inf]}}}",
        "9:52: ~[0].set.a: JSON has no such number; write a finite one",
    ),
]
CONDITIONS = [
    ("{when: {}, use: small}", "9:16: ~[0].when: is empty; give it a condition, or leave it out"),
    (
        "{when: [tools], use: small}",
        "9:16: ~[0].when: must be a map of conditions, such as {tools: true}",
    ),
    (
        "{when: {input_tokens: {exact: true}}, use: small}",
        "9:31: ~[0].when.input_tokens: has no limit; give it one of above, at_least, below,"
        " at_most",
    ),
    (
        "{when: {output_tokens: 5}, use: small}",
        "9:32: ~[0].when.output_tokens: must be a map of limits, such as {above: 1000}",
    ),
    (
        "{when: {input_tokens: {above: 1, exact: true}}, deny: x}",
        "9:49: ~[0].when.input_tokens.exact: needs use: the tokens are counted by the model"
        " that the"
        " rule uses",
    ),
    (
        "{when: {budget_left: {below: 0.5}}, use: small}",
        "9:30: ~[0].when.budget_left: there is no such budget; set budget.usd_per_day",
    ),
    (
        "{when: {budget_left: {below: 0.5, model: small}}, use: small}",
        "9:30: ~[0].when.budget_left: there is no such budget; set models.small.budget.usd_per_day",
    ),
    ("{when: {header: {'x y': a}}, use: small}", "9:26: 'x y' is no name of a header"),
    (
        "{when: {header: {x-a: a, X-A: b}}, use: small}",
        "9:34: header 'X-A' is on line 9 already; case does not count",
    ),
    (
        "{when: {regex: '(a'}, use: small}",
        "9:24: ~[0].when.regex: is no regular expression of RE2: missing ): (a",
    ),
    (
        "{when: {regex: '(?=a)'}, use: small}",
        "9:24: ~[0].when.regex: is no regular expression of RE2: invalid perl operator: (?=;"
        " it has no"
        " look-ahead and no look-behind",
    ),
    (
        f"{{when: {{regex: '{'a' * 1001}'}}, use: small}}",
        "9:24: ~[0].when.regex: must have at most 1000 characters",
    ),
    (
        "{when: {regex: ''}, use: small}",
        "9:24: ~[0].when.regex: must not be empty: it would match every text",
    ),
    (
        "{when: {key: sk-secret}, use: small}",
        "9:22: ~[0].when.key: must be sha256: and the 64 hexadecimal digits of the key's"
        " hash, in lower"
        " case, as printf %s KEY | sha256sum prints them",
    ),
    (
        "{when: {language: en-US}, use: small}",
        "9:27: ~[0].when.language: 'en-US' is no code of a language in ISO 639-1 that is"
        " known; did you"
        " mean 'en'?",
    ),
    (
        "{when: {language: [no, tlh]}, use: small}",
        "9:32: ~[0].when.language[1]: 'tlh' is no code of a language in ISO 639-1 that is"
        " known, such as en, de or zh",
    ),
    ("{when: {keyword: ' '}, use: small}", "9:26: ~[0].when.keyword: must be a word or a phrase"),
    ("{when: {keyword: []}, use: small}", "9:26: ~[0].when.keyword: must not be empty"),
    ("{when: {any_of: []}, use: small}", "9:25: ~[0].when.any_of: must not be empty"),
    (
        "{when: {similar_to: x}, use: small}",
        "9:29: ~[0].when.similar_to: must be a list of examples, or a map with examples and above",
    ),
    (
        "{when: {time: 08:30}, use: small}",
        "9:23: ~[0].when.time: must be a map such as {at: Mon-Fri 08:30, for: 10h}",
    ),
    (
        "{when: {priority: hgih}, use: small}",
        "9:27: ~[0].when.priority: must be low, normal or high",
    ),
    (
        "{when: {input_tokens: {above: 10, below: 5}}, use: small}",
        "9:9: ~[0]: matches nothing: its conditions exclude each other",
    ),
]


@pytest.mark.parametrize(("rule", "message"), [*UNKNOWN, *USES, *CONDITIONS])
def test_a_mistake_in_a_rule_says_what_to_do(rule: str, message: str) -> None:
    assert of(rule) == [message]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("affinity: user", "must be conversation, prompt_cache_key or header:NAME"),
        ("affinity: 'header:x y'", "must be conversation, prompt_cache_key or header:NAME"),
        ("affinity: conversaton", "did you mean 'conversation'?"),
        ("mirror: {to: big, share: 0.5}", "unknown model 'big'; it is an alias: write 'large'"),
        ("mirror: {to: large, share: 0}", "must be more than 0"),
        ("mirror: {to: large}", "key 'share' is missing"),
        ("aliases: [big]", "name 'big' is used twice, on line 4 and on line 7"),
        ("aliases: [small]", "name 'small' is used twice, on line 3 and on line 7"),
        ("aliases: [chat]", "name 'chat' is used twice, on line 6 and on line 7"),
    ],
)
def test_a_mistake_in_a_policy_says_what_to_do(keys: str, message: str) -> None:
    text = TOP.replace("aliases: [talk]", keys) + "      - {use: small}\n"
    (found,) = mistakes(text)
    assert message in found
    assert found.startswith("7:" if "twice" in found or "key" not in found else ("6:", "7:"))


def test_two_policies_may_not_share_a_name_and_a_model_keeps_its_own() -> None:
    other = "  talk: {first_match: [{use: small}]}\n  large: {first_match: [{use: small}]}\n"
    text = f"{TOP}      - {{use: small}}\n{other}"
    says = "; each name and alias may stand for one model or one policy only"
    assert mistakes(text) == [
        f"10:3: name 'talk' is used twice, on line 7 and on line 10{says}",
        f"11:3: name 'large' is used twice, on line 4 and on line 11{says}",
    ]


def test_rules_may_not_share_a_name() -> None:
    assert of("{name: a, when: {tools: true}, use: small}", "{name: a, use: small}") == [
        "10:16: ~[1].name: the rule on line 9 is called 'a' already"
    ]


def test_the_last_rule_must_match_everything() -> None:
    (found,) = of("{when: {tools: true}, use: small}", "{when: {image: true}, use: small}")
    assert found.startswith("10:16: ~[1].when: the last rule must match everything")
    assert mistakes(f"{TOP.rstrip()} []\n") == [
        "8:18: policies.chat.first_match: must not be empty"
    ]


UNREACHABLE = [
    ("{use: small}", "{use: large}", "rule 1, on line 9, has no when, so it matches everything"),
    (
        "{when: {keyword: [a, b], tools: true}, use: small}",
        "{when: {tools: true, keyword: A, image: true}, use: small}",
        "rule 1, on line 9, matches all that it would",
    ),
    (
        "{when: {input_tokens: {above: 8000}}, use: small}",
        "{when: {input_tokens: {above: 8000, at_most: 20000}}, use: large}",
        "rule 1, on line 9, matches all that it would",
    ),
    (
        "{when: {any_of: [{tools: true}, {image: true}]}, use: small}",
        "{when: {all_of: [{image: true}, {priority: high}]}, use: small}",
        "rule 1, on line 9, matches all that it would",
    ),
    (
        "{when: {not: {header: {x-a: [a, b]}}}, use: small}",
        "{when: {not: {header: {X-A: '*'}}}, use: small}",
        "rule 1, on line 9, matches all that it would",
    ),
    (
        "{when: {header: {x-a: '*'}}, use: small}",
        "{when: {header: {x-a: a}}, use: small}",
        "rule 1, on line 9, matches all that it would",
    ),
]


@pytest.mark.parametrize(("first", "second", "why"), UNREACHABLE)
def test_a_rule_that_is_never_reached_is_told(first: str, second: str, why: str) -> None:
    found = mistakes(f"{TOP}      - {first}\n      - {second}\n      - {{use: small}}\n")
    assert f"10:9: policies.chat.first_match[1]: is never reached: {why}" in found


def test_rules_that_leave_nothing_over_are_told() -> None:
    two = "{when: {tools: true}, use: small}\n      - {when: {tools: false}, use: large}"
    assert of(two) == ["11:9: ~[2]: is never reached: the rules before it match all that it would"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{when: {tools: true}, use: small}", "{when: {image: true}, use: large}"),
        (
            "{when: {input_tokens: {above: 8000}}, use: small}",
            "{when: {input_tokens: {at_least: 8000}}, use: small}",
        ),
        (
            "{when: {input_tokens: {above: 8000}}, use: small}",
            "{when: {input_tokens: {above: 9000, exact: true}}, use: small}",
        ),
        ("{when: {hot: [small, large]}, use: small}", "{when: {hot: small}, use: small}"),
        ("{when: {header: {x-a: a}}, use: small}", "{when: {header: {x-a: '*'}}, use: large}"),
        (
            "{when: {output_tokens: {below: 5}}, use: small}",
            "{when: {not: {output_tokens: {at_least: 5}}}, use: small}",
        ),
    ],
)
def test_a_rule_that_something_may_reach_is_taken(first: str, second: str) -> None:
    assert mistakes(f"{TOP}      - {first}\n      - {second}\n      - {{use: small}}\n") == []


@settings(max_examples=60, deadline=None)
@given(policy=policies(), known=facts())
def test_what_is_reported_as_unreachable_is_never_decided(policy: Any, known: Stated) -> None:
    """Sound for tokens that all models count alike."""
    known._known["tokens"] = dict.fromkeys(known._known["tokens"], 7)
    reach = Reach()
    why = [reach.add(f"rule {n}", rule.when) for n, rule in enumerate(policy.first_match)]
    for rule, unreached in zip(policy.first_match, why, strict=True):
        if matches(rule, known):
            assert unreached is None
            break


def test_a_thousand_rules_are_looked_at_within_bounds() -> None:
    rules = [
        Rule.model_validate(
            {"when": {"any_of": [{"keyword": f"a{n}"}, {"tools": True}]}, "use": "x"}
        )
        for n in range(1000)
    ]
    reach = Reach()
    assert {reach.add(str(n), rule.when) for n, rule in enumerate(rules)} == {None}
    assert reach._steps <= 200_000 + 1000


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_checks, "installed", lambda extra: False)
    assert of("{when: {language: de, similar_to: [x]}, use: small}") == [
        "9:27: ~[0].when.language: needs an extra: pip install 'lamplighter[language]'",
        "9:43: ~[0].when.similar_to: needs an extra: pip install 'lamplighter[embeddings]'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [a]\npolicies: {p: {first_match: [{use: a}]}}", "2:9: models: must be a map"),
        ("models: {a: {api: {url: http://h/v1}}}\npolicies: [a]", "3:11: policies: must be a map"),
    ],
)
def test_a_list_in_the_place_of_a_map_is_told(text: str, message: str) -> None:
    (found,) = mistakes(f"version: 1\n{text}\n")
    assert found == f"{message} of keys and values"


@pytest.mark.parametrize("key", ["when: {header: [a]}", "set: [a]", "use: {accept: [a]}"])
def test_a_list_in_a_rule_in_the_place_of_a_map_is_told(key: str) -> None:
    assert any("must be a map" in each for each in of(f"{{{key}, name: x}}"))


def test_a_secret_of_the_environment_is_not_quoted() -> None:
    text = TOP + '      - {use: "${env.M}", when: {key: "${env.K}"}}\n      - {use: small}\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, "f", {"M": "hunter22", "K": "hunter33"})
    assert "hunter" not in str(caught.value)
    assert "unknown model '${env.M}'" in str(caught.value)


# --- what a good policy becomes -------------------------------------------------------------------

GOOD = """\
version: 1
models:
  small: {api: {url: http://h/v1}}
  large: {api: {url: http://h/v1}}
policies:
  chat:
    # what comes first
    first_match:
      - {when: {header: {X-Team: a}, priority: low}, use: [small, large]}
      - deny: "${env.WHY:-no}"

    # this comment is not of the last rule
  other: {first_match: [
    {use: {cascade: [small, large]}, set: {temperature: 0.50, stop: ["a", 010, null], x: {y: 1e3}}}
  ]}
"""


def good(text: str = GOOD) -> Config:
    return parse(text, "f", {})


def test_short_forms_mean_the_long_ones() -> None:
    rule = good().policies["chat"].first_match[0]
    assert rule.when is not None
    assert rule.use is not None
    assert (rule.when.header, rule.when.priority) == ({"x-team": ("a",)}, ("low",))
    assert rule.use.models == ("small", "large")


def test_values_of_set_are_plain_json() -> None:
    fields = good().policies["other"].first_match[0].set
    assert fields == {"temperature": 0.5, "stop": ["a", 10, None], "x": {"y": 1000.0}}
    kinds = {type(value) for value in (*fields["stop"], fields["temperature"], fields["x"]["y"])}
    assert kinds == {str, int, float, type(None)}


def test_a_configuration_knows_how_its_policies_are_written() -> None:
    config = good()
    assert (config.policy_lines("chat"), config.policy_lines("other")) == ((9, 10), (14,))
    lines = GOOD.splitlines()
    assert config.policy_text("chat") == tuple((n, lines[n - 1]) for n in range(6, 11))
    assert config.policy_text("other") == ((13, lines[12]), (14, lines[13]))
    assert (config.policy_lines("x"), config.policy_text("x")) == ((), ())


def test_where_a_policy_stands_makes_no_other_configuration() -> None:
    moved = good("# a line\n" + GOOD)
    assert moved == good()
    assert moved.policy_lines("chat") == (10, 11)
    assert moved.model_copy().policy_lines("chat") == (10, 11)


def test_every_pair_of_flags_is_told_apart() -> None:
    """The check of leftovers looks at two flags at a time and is right about them."""
    for one, other in itertools.permutations(["tools", "image", "audio", "json_schema"], 2):
        rules = [
            {"when": {one: True}, "use": "a"},
            {"when": {other: True}, "use": "a"},
            {"when": {one: False, other: False}, "use": "a"},
            {"use": "a"},
        ]
        reach = Reach()
        told = [reach.add(str(n), Rule.model_validate(each).when) for n, each in enumerate(rules)]
        assert [bool(why) for why in told] == [False, False, False, True]
