"""Any body, JSON or not, in any dialect: facts are told, and nothing is raised."""

import asyncio
import json
from typing import Any, get_args

from hypothesis import example, given, settings
from hypothesis import strategies as st

from config.load import parse
from config.policy import Similar
from policies.facts import Count, Pending
from policies.rules import compile_policy, decide, trail
from policies.wordings import Wordings
from router.body import parse_json
from router.errors import BadRequest
from router.facts import RequestFacts
from router.request import Dialect, Request
from router.tokens import Ratios, Tokens
from tests.fuzz.test_policies_yaml import GOOD

_KEYS = (
    "model messages input prompt system instructions tools functions max_tokens text format type"
    " max_completion_tokens max_output_tokens response_format content role image_url input_audio"
    " prompt_cache_key url data stream user"
)
KEYS = _KEYS.split()
LEAVES = st.sampled_from(
    [
        *(None, True, 0, -1, 10**30, 1.5, "", "user", "system", "text", "image", "image_url"),
        *(
            "json_object",
            "input_text",
            "hi refund",
            "\ud800",
            f"data:image/png;base64,{'A' * 2000}",
        ),
    ]
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
TOKENS = Tokens(Ratios(), lambda model: model)
WORDINGS = Wordings()
WORDINGS.add_keywords(["refund"])


class Still:
    """A world that knows nothing."""

    def hot(self, model: str) -> bool:
        return False

    def budget_left(self, model: str | None) -> float | None:
        return None

    def count(self, request: Request, model: str) -> Count:
        return TOKENS.count(request, model)

    async def exact(self, request: Request, model: str) -> Count:
        return await TOKENS.exact(request, model)

    async def language(self, text: str) -> str | None:
        return None

    async def similarity(self, text: str, to: Similar) -> float | None:
        return None


POLICY = compile_policy("chat", parse(GOOD, "f", {}).policies["chat"])


async def all_told(raw: bytes, dialect: Dialect, headers: dict[bytes, bytes] | None = None) -> None:
    try:
        body = parse_json(raw)
    except BadRequest:
        return
    fields = headers or {}
    request = Request("r", "POST", b"/x", dialect, list(fields.items()), fields, body)
    facts = RequestFacts(request, Still(), 1e9)
    assert isinstance(facts.text, str)
    assert len(facts.text) <= 16 * 1024
    for flag in (facts.tools, facts.json_schema, facts.image, facts.audio):
        assert isinstance(flag, bool)
    assert facts.output_tokens is None or isinstance(facts.output_tokens, int)
    assert facts.found(WORDINGS) <= {0}
    for model in ("", "x", "gpt-4o"):
        assert facts.input_tokens(model).tokens >= 0
    for affinity in (None, "conversation", "prompt_cache_key", "header:x-a"):
        key = facts.affinity_key(affinity)
        assert key is None or isinstance(key, str)
    while isinstance(rule := decide(POLICY, facts), Pending):
        await facts.fetch(rule)
    assert not isinstance(trail(POLICY, facts), Pending)


def run(raw: bytes, dialect: Dialect, headers: dict[bytes, bytes] | None = None) -> None:
    asyncio.run(all_told(raw, dialect, headers))


@settings(max_examples=250, deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6),
    dialect=st.sampled_from(get_args(Dialect)),
)
@example(fields={"messages": [{"role": ["user"], "content": {"type": ["text"]}}]}, dialect="chat")
@example(fields={"messages": [[], 5, {"role": "user", "content": "hi"}]}, dialect="messages")
@example(fields={"input": "text", "instructions": 5}, dialect="responses")
def test_any_json_is_told(fields: dict[str, Any], dialect: Dialect) -> None:
    run(json.dumps({**fields, "model": "chat"}).encode(), dialect)


@settings(max_examples=250, deadline=None)
@given(
    start=st.binary(max_size=40),
    value=st.binary(max_size=60),
    key=st.sampled_from(KEYS),
    dialect=st.sampled_from(get_args(Dialect)),
)
@example(start=b"", value=b'"\xff"', key="messages", dialect="chat")
@example(start=b"", value=b"[" * 30 + b"]" * 30, key="messages", dialect="chat")
@example(
    start=b"", value=b'[{"role":"user","content":"\\ud800\\u0000"}]', key="messages", dialect="chat"
)
def test_any_bytes_are_told(start: bytes, value: bytes, key: str, dialect: Dialect) -> None:
    run(start + b'{"model":"chat","%b":%b}' % (key.encode(), value), dialect)


@settings(max_examples=100, deadline=None)
@given(
    headers=st.dictionaries(
        st.sampled_from([b"authorization", b"x-api-key", b"x-team", b"x-a", b"x-tier"]),
        st.binary(max_size=30),
    )
)
def test_any_headers_are_told(headers: dict[bytes, bytes]) -> None:
    run(b'{"model":"chat","messages":[]}', "chat", headers)


def test_a_body_nested_as_deeply_as_one_can_be_is_told() -> None:
    for depth in (10, 500, 900, 5000):
        content = "[" * depth + "]" * depth
        run(
            f'{{"model":"chat","messages":[{{"role":"user","content":{content}}}]}}'.encode(),
            "chat",
        )
