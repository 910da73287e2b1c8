"""How tokens are counted: by vocabulary, by a server that is ready, by a ratio that is learned."""

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.endpoint import Endpoint
from backends.fleet import ModelBackends
from backends.lease import Room
from backends.pool import Pool
from backends.upstream import Origin
from policies.facts import Count
from router import tokens
from router.body import parse_json
from router.request import Dialect, Request
from router.tokenize import tokens_at_server
from router.tokens import Ratios, Tokens, text_bytes, vocabulary
from tests.engines.fixtures import ModelServer as Engine
from tests.fakes.model_server import ModelServer
from tests.fakes.wire import answer, error


def request(body: dict[str, Any], dialect: Dialect = "chat") -> Request:
    raw = json.dumps({"model": "m", **body}).encode()
    return Request("r", "POST", b"/x", dialect, [], {}, parse_json(raw))


def said(text: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


# --- the ratio ------------------------------------------------------------------------------------


def test_before_anything_was_learned_four_bytes_are_a_token() -> None:
    assert Ratios().bytes_per_token("x") == 4.0


def test_a_ratio_is_learned_from_a_few_prompts_for_its_model_alone() -> None:
    ratios = Ratios()
    for _ in range(8):
        ratios.learned("german", 2900, 1000)
    assert ratios.bytes_per_token("german") == pytest.approx(2.9, rel=0.05)
    assert ratios.bytes_per_token("other") == 4.0


def test_a_few_odd_prompts_move_a_ratio_little() -> None:
    """One in ten reports what cannot be its text alone; the rest scatter."""
    ratios, draw = Ratios(), random.Random(1)
    for n in range(300):
        odd = draw.choice([1.0, 11.0]) if n % 10 == 0 else draw.gauss(3.2, 0.3)
        ratios.learned("m", 4000, round(4000 / odd))
    assert ratios.bytes_per_token("m") == pytest.approx(3.2, rel=0.08)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(-5, 10**9)), max_size=50))
def test_whatever_is_reported_a_ratio_stays_plausible(reports: list[tuple[int, int]]) -> None:
    ratios = Ratios()
    for size, count in reports:
        ratios.learned("m", size, count)
    assert tokens.PLAUSIBLE[0] <= ratios.bytes_per_token("m") <= tokens.PLAUSIBLE[1]


def test_it_follows_a_change_of_the_prompts() -> None:
    ratios = Ratios()
    for ratio in [4.0] * 200 + [2.5] * 200:
        ratios.learned("m", 10_000, round(10_000 / ratio))
    assert ratios.bytes_per_token("m") == pytest.approx(2.5, rel=0.05)


# --- the estimate ---------------------------------------------------------------------------------


def estimating(called: str = "llama", **learned: int) -> Tokens:
    return Tokens(Ratios(), lambda model: called)


def test_an_estimate_is_by_the_bytes_of_the_body() -> None:
    asked = request(said("word " * 200))
    assert estimating().count(asked, "m") == Count(round(asked.size / 4), "estimate")
    assert estimating().count(asked, "") == Count(round(asked.size / 4), "estimate")


@pytest.mark.parametrize(
    ("dialect", "content"),
    [
        ("chat", [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]),
        ("messages", [{"type": "image", "source": {"type": "base64", "data": "AAAA"}}]),
        ("chat", [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]),
    ],
)
def test_a_picture_counts_as_a_thousand_tokens_and_not_by_its_bytes(
    dialect: Dialect, content: Any
) -> None:
    large = json.loads(json.dumps(content).replace("AAAA", "A" * 400_000))
    asked = request(said([{"type": "text", "text": "look"}, *large]), dialect)
    bytes, data = text_bytes(asked)
    assert data == 1
    assert bytes < 400
    assert 1000 < estimating().count(asked, "m").tokens < 1100


def test_a_picture_beside_the_messages_of_responses_is_seen() -> None:
    url = "data:image/png;base64," + "A" * 400_000
    asked = request({"input": [{"type": "input_image", "image_url": url}]}, "responses")
    assert text_bytes(asked) == (asked.size - len(url), 1)


def test_a_long_text_that_speaks_of_base64_is_a_text() -> None:
    asked = request(said('see "data" in base64, ' * 500))
    assert text_bytes(asked) == (asked.size, 0)


# --- the vocabulary -------------------------------------------------------------------------------


def test_names_of_openai_are_counted_by_its_vocabularies() -> None:
    for name in ("gpt-4o", "openai/gpt-oss-20b", "o3-mini", "gpt-5", "ft:gpt-4o:x", "GPT-4.1"):
        assert vocabulary(name) is not None, name
    for name in ("llama", "qwen", "o200", "my-gpt-4o", ""):
        assert vocabulary(name) is None, name
    assert vocabulary("gpt-4o") is not vocabulary("gpt-4")


def test_a_count_is_that_of_the_text_and_the_template() -> None:
    """tiktoken says 7 for the text by o200k_base; each message has some more."""
    counted = estimating("gpt-4o").count(request(said("Hello there, how are you?")), "m")
    assert counted.how == "tokenizer"
    assert 7 < counted.tokens <= 7 + 8


def test_a_long_body_is_counted_only_when_it_must_be_exact() -> None:
    asked = request(said("hello " * 10_000))
    counting = estimating("gpt-4o")
    assert counting.count(asked, "m").how == "estimate"
    exact = asyncio.run(counting.exact(asked, "m"))
    assert (exact.how, round(exact.tokens, -2)) == ("tokenizer", 10_000)


def test_without_the_extra_everything_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary.cache_clear()
    monkeypatch.setattr(tokens, "_bindings", lambda: None)
    try:
        assert estimating("gpt-4o").count(request(said("hi")), "m").how == "estimate"
        assert asyncio.run(estimating("gpt-4o").exact(request(said("hi")), "m")).how == "estimate"
    finally:
        vocabulary.cache_clear()


# --- a server -------------------------------------------------------------------------------------


def at(url: str, key: str | None = None) -> ModelBackends:
    room = Room(10, 1 << 20)
    endpoint = Endpoint("e", Origin(url), served_as="served", key=key)
    return ModelBackends(room, hot=Pool([endpoint], room, lambda: 0.0))


async def counted_at(url: str, asked: Request, key: str | None = None) -> int | None:
    backends = at(url, key)
    try:
        return await tokens_at_server(backends, asked)
    finally:
        assert backends.in_flight == 0
        assert backends.hot is not None
        backends.hot.close()


def told(
    body: dict[str, Any], scripts: dict[str, Any], dialect: Dialect = "chat", key: str | None = None
) -> tuple[int | None, list[Any]]:
    """What a server says that answers so, and what it was asked."""

    async def go() -> tuple[int | None, list[Any]]:
        async with ModelServer(key=key) as server:
            server.paths.update(scripts)
            count = await counted_at(server.url, request(body, dialect), key)
            return count, [(each.target, each.json) for each in server.posts]

    return asyncio.run(go())


def test_vllm_counts_messages_with_their_tools() -> None:
    body = {**said("hi"), "tools": [{"type": "function"}], "temperature": 1}
    count, asked = told(body, {"/tokenize": answer({"count": 12, "tokens": [1]})}, key="sk-x")
    assert count == 12
    assert asked == [
        ("/tokenize", {"model": "served", **said("hi"), "tools": [{"type": "function"}]})
    ]


def test_llama_cpp_is_asked_for_the_text_first() -> None:
    scripts = {
        "/tokenize": answer({"tokens": [1, 2, 3]}),
        "/apply-template": answer({"prompt": "<hi>"}),
    }
    count, asked = told(said("hi"), scripts)
    assert count == 3
    assert [target for target, _ in asked] == ["/tokenize", "/apply-template", "/tokenize"]
    assert asked[2][1] == {"content": "<hi>", "add_special": True, "parse_special": True}


def test_a_prompt_and_the_dialects_of_others_are_counted_too() -> None:
    by_count = {"/tokenize": answer({"count": 5})}
    assert told({"prompt": "hi"}, by_count, "completions")[0] == 5
    assert told({"prompt": ["hi"]}, by_count, "completions") == (None, [])
    count, asked = told({"input": "hi", "instructions": "s"}, by_count, "responses")
    assert count == 5
    assert [m["role"] for m in asked[0][1]["messages"]] == ["system", "user"]
    path = "/v1/messages/count_tokens"
    count, asked = told(
        {**said("x"), "system": "s"}, {path: answer({"input_tokens": 7})}, "messages"
    )
    assert (count, asked[0][1]["system"]) == (7, "s")


@pytest.mark.parametrize(
    "script",
    [
        error(404, "no such path"),
        answer({"count": "many"}),
        answer({"count": -1}),
        answer([1]),
        answer({}),
        answer({"tokens": 5}),
        answer(b'{"count": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_a_server_that_does_not_say_is_no_failure(script: Any) -> None:
    assert told(said("hi"), {"/tokenize": script})[0] is None


def test_no_server_is_started_and_none_of_an_outside_api_is_asked() -> None:
    room = Room(10, 1 << 20)
    api = Pool([Endpoint("e", Origin("http://127.0.0.1:9/v1"), outside=True)], room, lambda: 0.0)
    assert asyncio.run(tokens_at_server(ModelBackends(room, api=api), request(said("x")))) is None


def test_a_server_that_is_gone_is_no_failure() -> None:
    assert asyncio.run(counted_at("http://127.0.0.1:9/v1", request(said("x")))) is None


@pytest.mark.parametrize(("server", "how"), [(41, "server"), (None, "estimate")])
def test_exact_asks_the_server_and_estimates_without_one(server: int | None, how: str) -> None:
    async def ask(request: Request, model: str) -> int | None:
        return server

    ask_it: Callable[[Request, str], Awaitable[int | None]] = ask
    counted = asyncio.run(Tokens(Ratios(), lambda m: m, ask_it).exact(request(said("hi")), "m"))
    assert counted.how == how


@pytest.mark.parametrize("dialect", ["chat", "completions", "messages"])
def test_a_real_llama_cpp_counts_as_it_will_report(llama_server: Engine, dialect: Dialect) -> None:
    text = "What is the capital of France, and who says so? " * 5
    body: dict[str, Any] = {"max_tokens": 1, "model": "x"}
    body |= {"prompt": text} if dialect == "completions" else said(text)
    path = {"chat": "chat/completions"}.get(dialect, dialect)
    usage = httpx2.post(f"{llama_server.url}/{path}", json=body, timeout=60).json()["usage"]
    counted = asyncio.run(counted_at(llama_server.url, request(body, dialect)))
    assert counted is not None
    reported = usage.get("prompt_tokens") or usage["input_tokens"]
    reported += usage.get("cache_read_input_tokens", 0)
    assert math.isclose(counted, reported, abs_tol=1), (counted, usage)
