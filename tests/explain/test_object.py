"""What stands in an explanation, field by field."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import parse
from policies.facts import Count
from proxy.question import question
from router.candidates import AnswerTokens, Candidates
from router.errors import BadRequest, UnknownModel
from router.explain import explain
from router.explanation import Candidate, Explanation
from router.record import Record
from router.stated import Stated, stated_router
from tests.explain.scenes import PROMPT, SATURDAY, TEXT, as_json, chat, explained, router

LONG = " ".join(["word"] * 2000)


def line_of(text: str) -> int:
    """Where the file has it, counted from 1."""
    (number,) = (n for n, line in enumerate(TEXT.splitlines(), 1) if text in line)
    return number


def candidate(found: Explanation, model: str) -> Candidate:
    (one,) = (each for each in found.candidates if each.model == model)
    return one


# --- a model --------------------------------------------------------------------------------------


def test_a_model_of_its_own_name_has_no_rules_but_candidates_and_a_choice() -> None:
    body = chat("small", max_tokens=40)
    found = as_json(explained(body))
    tokens = found["candidates"][0]["input_tokens"]
    assert 5 < tokens < 40
    assert found == {
        "at": "2026-11-21T09:30:00Z",
        "request": {
            "model": "small",
            "path": "/v1/chat/completions",
            "dialect": "chat",
            "stream": False,
            "bytes": len(body),
            "affinity": None,
        },
        "decision": {
            "rule": None,
            "use": "model",
            "models": ["small"],
            "model": "small",
            "why": "the caller named it",
            "priority": "normal",
            "max_wait_s": 240.0,
            "retries": 2,
            "set": {},
            "mirror_to": None,
            "mirror_share": 0.0,
        },
        "policy": None,
        "text": [],
        "rules": [],
        "cascade": None,
        "candidates": [
            {
                "model": "small",
                "role": "model",
                "weight": None,
                "state": "ready",
                "wait_s": 0.0,
                "usd": pytest.approx(0.00001),  # 0.288 USD an hour, eight requests a second
                "priced_by": "gpu_hour",
                "api_usd": None,
                "gpu_s": None,
                "start_usd": 0.0,
                "input_tokens": tokens,
                "counted_by": "estimate",
                "output_tokens": 40,
                "guessed_by": "max_tokens",
                "ways": [{"kind": "hot", "state": "ready", "wait_s": 0.0}],
            }
        ],
        "places": [
            {
                "model": "small",
                "kind": "hot",
                "queue": False,
                "instead_of": None,
                "start": None,
                "why": "1 healthy always-on endpoint(s) with room",
            }
        ],
        "choice": {
            "model": "small",
            "kind": "hot",
            "wait_s": 0.0,
            "in_time": True,
            "usd": pytest.approx(0.00001),
            "start_usd": 0.0,
            "why": "1 healthy always-on endpoint(s) with room",
        },
        "refusal": None,
    }


def test_an_alias_leads_to_its_model() -> None:
    found = explained(chat("big"))
    assert (found.request.model, found.decision.model) == ("big", "large")


def test_a_model_that_is_off_costs_its_start_and_the_wait_for_it() -> None:
    found = explained(chat("large", LONG, max_tokens=50))
    one = candidate(found, "large")
    assert (one.state, one.wait_s) == ("off", 40.0)
    assert one.gpu_s == pytest.approx(one.input_tokens / 1000 + 50 / 10)
    assert one.start_usd == pytest.approx(40 * 0.001)
    assert found.choice is not None
    assert (found.choice.kind, found.choice.wait_s, found.choice.in_time) == ("cold", 40.0, True)
    assert found.choice.start_usd == one.start_usd


def test_a_caller_with_less_time_than_a_start_needs_is_told_so() -> None:
    found = explained(chat("large"), x_lamplighter_max_wait="10s")
    assert found.decision.max_wait_s == 10.0
    assert found.choice is not None
    assert found.choice.in_time is False


def test_an_outside_api_costs_tokens_by_its_price() -> None:
    found = explained(chat("outside", max_tokens=100))
    one = candidate(found, "outside")
    assert one.api_usd == one.usd == pytest.approx((one.input_tokens * 2 + 100 * 8) / 1e6)
    assert [each.role for each in found.candidates] == ["model", "fallback"]
    assert [(each.model, each.kind) for each in found.places] == [
        ("outside", "api"),
        ("small", "hot"),
    ]


CARDS = """\
version: 1
models:
  card:
    price: {input: 1, output: 2}
    api: {url: "http://127.0.0.1:9/v1", price: {input: 5, output: 5}}
  free: {api: {url: "http://127.0.0.1:9/v1"}}
  unpriced: {cold: {command: "no-such-program --port {port}"}}
"""


@pytest.mark.parametrize(
    ("model", "priced_by", "usd"),
    [
        ("card", "price", (10 * 1 + 20 * 2) / 1e6),
        ("free", "none", 0.0),
        ("unpriced", "assumed", 1 / 3600 / 8),
    ],
)
def test_a_price_says_what_it_comes_from(model: str, priced_by: str, usd: float) -> None:
    priced = stated_router(parse(CARDS, "cards.yaml", {}), {}, {}, SATURDAY)
    look = Candidates(priced.fleet.snapshot, priced.planners)
    one = look.candidate(model, "model", None, Count(10, "tokenizer"), AnswerTokens(20, "known"))
    assert (one.priced_by, one.usd) == (priced_by, pytest.approx(usd))
    assert (one.output_tokens, one.guessed_by) == (20, "known")
    assert one.api_usd == (pytest.approx(150e-6) if model == "card" else None)


def test_somebody_else_answers_where_a_start_would_be_late() -> None:
    found = explained(chat("busy"))
    assert [each.role for each in found.candidates] == ["model", "overflow"]
    place, choice = found.places[0], found.choice
    assert (place.model, place.kind, place.instead_of) == ("small", "hot", "busy")
    assert place.start is True
    assert choice is not None
    assert (choice.model, choice.wait_s) == ("small", 0.0)
    assert choice.start_usd == candidate(found, "busy").start_usd == pytest.approx(0.6)


CHAIN = """\
version: 1
models:
  first: {hot: {urls: ["http://127.0.0.1:9/v1"]}, fallback: [second]}
  second: {cold: {command: "no-such-program --port {port}", start_time: 10m}, overflow: [third]}
  third: {hot: {urls: ["http://127.0.0.1:9/v1"]}}
"""


def test_who_answers_for_a_fallback_is_a_candidate_too() -> None:
    chained = stated_router(parse(CHAIN, "chain.yaml", {}), {}, {"first": "off"}, SATURDAY)
    found = asyncio.run(explain(chained, question(chat("first"), [])))
    assert [(each.model, each.role) for each in found.candidates] == [
        ("first", "model"),
        ("second", "fallback"),
        ("third", "overflow"),
    ]
    assert found.choice is not None
    assert (found.choice.model, found.places[0].instead_of) == ("third", "second")


def test_a_budget_that_is_spent_is_the_error_that_the_caller_gets() -> None:
    spent = router()
    planner = spent.planners.get("busy")
    assert planner is not None
    planner.spent(5.0, None)
    found = asyncio.run(explain(spent, question(chat("busy"), [])))
    assert found.refusal is not None
    assert (found.refusal.status, found.refusal.code) == (429, "budget_exceeded")
    assert found.refusal.message.startswith("model 'busy' has spent 5 of 5 USD today")


@pytest.mark.parametrize("model", ["chat", "night", "careful"])
@given(
    st.dictionaries(
        st.sampled_from(["messages", "max_tokens", "tools", "n", "temperature"]),
        st.none() | st.integers() | st.text() | st.lists(st.integers()),
    )
)
def test_it_is_what_the_router_decides(model: str, more: dict[str, Any]) -> None:
    """Whatever is in the body."""
    asked = question(json.dumps({"model": model, **more}).encode(), [])
    deciding = router()
    policy = deciding.policy(asked)
    assert policy is not None
    found = asyncio.run(explain(deciding, asked))
    record = Record(asked.id, asked.dialect, 0.0)
    route = asyncio.run(deciding.decide(policy, asked, record))
    assert found.decision.rule == record.rule == route.rule.number
    assert found.decision.models == route.use.models
    if found.cascade is None:
        assert found.decision.model == route.model


def test_a_model_that_nothing_can_answer_is_refused_with_the_error_that_the_caller_gets() -> None:
    found = explained(chat("small"), {"small": "off"})
    assert found.choice is None
    assert found.refusal is not None
    assert (found.refusal.status, found.refusal.code) == (503, "no_endpoints")
    assert found.refusal.message == "no endpoint of model 'small' is healthy"


# --- a policy -------------------------------------------------------------------------------------


def test_each_rule_is_there_with_the_fact_that_failed_it() -> None:
    found = explained(chat("chat"))
    tried = [(each.rule, each.name, each.matched, each.why) for each in found.rules]
    tokens = candidate(found, "small").input_tokens
    assert tried == [
        (1, "long", False, f"input_tokens is {tokens} (estimate), not above 1000"),
        (2, None, False, "the text has none of the keywords"),
        (3, "team", False, "there is no header x-team"),
        (4, None, True, "it has no condition"),
    ]
    lines = [each.line for each in found.rules]
    assert lines[0] == line_of("name: long")
    assert lines[3] == line_of("- use: small")
    assert found.policy == "chat"


def test_the_text_of_the_policy_is_that_of_the_file() -> None:
    found = explained(chat("talk"))
    assert found.policy == "chat"
    first, last = line_of("chat:  # the first"), line_of("set: {temperature")
    written = TEXT.splitlines()[first - 1 : last]
    hidden = [line.replace("open-sesame", "**********") for line in written]
    assert [each.text for each in found.text] == hidden
    assert [each.line for each in found.text] == list(range(first, last + 1))


def test_rules_end_with_the_one_that_matched() -> None:
    found = explained(chat("chat", LONG))
    assert [each.matched for each in found.rules] == [True]
    assert found.decision.rule == 1
    assert (found.decision.model, found.decision.max_wait_s) == ("large", 10.0)
    assert found.decision.why == "rule long uses it"


def test_what_the_rule_sets_is_there_where_the_caller_gave_nothing() -> None:
    decision = explained(chat("chat", max_tokens=5)).decision
    assert decision.set == {"temperature": 0.5}
    assert (decision.priority, decision.retries) == ("low", 0)
    assert explained(chat("chat")).decision.set == {"temperature": 0.5, "max_tokens": 10}


def test_a_denial_is_the_error_that_the_caller_gets() -> None:
    found = explained(chat("chat", "I want a REFUND"))
    assert (found.decision.use, found.decision.rule, found.decision.models) == ("deny", 2, ())
    assert found.refusal is not None
    assert found.refusal.message == "ask the shop"
    assert (found.candidates, found.places, found.choice) == ((), (), None)


def test_a_split_has_its_weights_and_stays_with_a_conversation() -> None:
    more = {"x_team": "red", "x_token": "open-sesame"}
    found = [explained(chat("chat"), x_request_id=str(n), **more) for n in range(5)]
    assert len({(each.decision.model, each.request.affinity) for each in found}) == 1
    assert found[0].decision.why == "rule team draws it by the request's affinity"
    by_role = [(each.model, each.role, each.weight) for each in found[0].candidates]
    assert by_role == [("small", "split", 0.75), ("outside", "split", 0.25)]
    others = [explained(chat("chat", f"{PROMPT} {n}"), **more) for n in range(40)]
    assert {each.decision.model for each in others} == {"small", "outside"}


def test_hours_and_hot_models_are_those_of_the_world_that_is_stated() -> None:
    monday_night = SATURDAY + (2 * 24 + 13) * 3600
    body = chat("night")
    assert explained(body).rules[0].why.startswith("large is not hot")
    ready: dict[str, Stated] = {"large": "ready"}
    assert explained(body, ready).rules[0].why.startswith("it is not in the hours")
    assert explained(body, ready, at_s=monday_night).decision.model == "large"
    assert explained(body, ready, at_s=monday_night).at == "2026-11-23T22:30:00Z"


def test_a_mirror_is_told() -> None:
    decision = explained(chat("night")).decision
    assert (decision.mirror_to, decision.mirror_share) == ("small", 0.25)


# --- a cascade ------------------------------------------------------------------------------------


def test_a_cascade_tells_which_model_is_first_and_what_it_rests_on() -> None:
    found = explained(chat("careful", max_tokens=100), {"large": "ready"})
    cascade = found.cascade
    assert cascade is not None
    assert cascade.first == "small"
    assert (cascade.labels, cascade.max_wrong) == (0, None)
    assert "stated defaults" in cascade.calibration
    small, large = (candidate(found, name) for name in ("small", "large"))
    assert [small.role, large.role] == ["small", "large"]
    assert (cascade.small_usd, cascade.large_usd) == (small.usd, large.usd)
    assert cascade.usd == pytest.approx(small.usd + cascade.p_escalate * large.usd)
    assert found.choice is not None
    assert (found.choice.model, found.choice.usd) == ("small", cascade.usd)


def test_what_cannot_be_judged_goes_to_the_large_model_at_once() -> None:
    found = explained(chat("careful", n=2), {"large": "ready"})
    assert found.cascade is not None
    assert (found.cascade.first, found.cascade.judged) == ("large", False)
    assert found.cascade.p_escalate == 1.0
    assert found.cascade.why == "several answers to one request are not judged"
    assert found.decision.model == "large"
    assert found.choice is not None
    assert found.choice.model == "large"


def test_the_other_model_of_a_cascade_answers_where_the_first_has_no_place() -> None:
    found = explained(chat("careful"), {"small": "off", "large": "ready"})
    assert found.cascade is not None
    assert found.decision.model == "large"
    assert found.choice is not None
    assert found.choice.usd == candidate(found, "large").usd
    assert found.refusal is None
    nobody = explained(chat("careful", n=2), {"small": "ready", "large": "failed"})
    assert nobody.decision.model == "large"


NO_DELAY = """\
version: 1
defaults: {delay_hour: 0}
models:
  small: {hot: {urls: [{url: "http://127.0.0.1:9/v1", gpu_hour: 1}]}}
  large: {hot: {urls: [{url: "http://127.0.0.1:9/v1", gpu_hour: 9}]}}
policies:
  both: {first_match: [{use: {cascade: [small, large]}}]}
"""


@pytest.mark.parametrize(
    ("states", "n", "expected"),
    [
        ({}, 1, "small"),
        ({"small": "off"}, 1, "large"),
        ({"large": "off"}, 1, "small"),
        ({"large": "off"}, 2, None),
        ({"small": "off", "large": "off"}, 1, None),
    ],
)
def test_who_is_left_of_a_cascade(states: dict[str, Stated], n: int, expected: str | None) -> None:
    both = stated_router(parse(NO_DELAY, "both.yaml", {}), {}, states, SATURDAY)
    found = asyncio.run(explain(both, question(chat("both", n=n), [])))
    assert (found.choice.model if found.choice is not None else None) == expected
    assert (found.refusal is None) is (expected is not None)


# --- what must not be in it -----------------------------------------------------------------------

SECRETS = (
    "the-admin-key",
    "key-of-small",
    "token-of-large",
    "key-of-outside",
    "open-sesame",
    "sk-caller",
    "my-affinity",
)


@pytest.mark.parametrize("model", ["small", "chat", "night", "careful", "outside", "busy"])
def test_no_word_of_the_prompt_and_no_secret_is_in_it(model: str) -> None:
    body = chat(model, prompt_cache_key="my-affinity", user="my-affinity")
    found = explained(body, authorization="Bearer sk-caller", x_team="red", x_token="open-sesame")
    text = str(as_json(found))
    assert not [word for word in (*PROMPT.split(), *SECRETS) if word in text]


@given(st.text(min_size=1), st.sampled_from(["chat", "night", "careful", "large", "busy"]))
def test_whatever_is_asked_it_is_explained(text: str, model: str) -> None:
    found = explained(chat(model, text))
    assert (found.choice is None) is (found.refusal is not None)
    assert [each.matched for each in found.rules[-1:]] == [True] * (found.policy is not None)


# --- mistakes -------------------------------------------------------------------------------------


def test_an_unknown_model_is_the_callers_own_error() -> None:
    with pytest.raises(UnknownModel, match="did you mean 'chat'"):
        explained(chat("chatt"))


def test_a_call_that_names_no_model_is_not_explained() -> None:
    with pytest.raises(BadRequest, match="no 'model'"):
        explained(b"{}")
