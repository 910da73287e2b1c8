"""What rules ask of a request, in every dialect; and what is fetched, and given up."""

import asyncio
import hashlib
import json
import time
from typing import Any

import pytest

from config.policy import Similar
from policies.facts import Count, Pending
from policies.wordings import Wordings
from router import facts as module
from router.body import parse_json
from router.facts import LONGEST_TEXT, RequestFacts
from router.multipart import MultipartBody
from router.request import Dialect, Request

SIMILAR = Similar(examples=("x",))


class World:
    """Answers with what it was given; `asked` holds what it was asked for."""

    def __init__(self, **known: Any) -> None:
        self.known = known
        self.asked: list[Any] = []

    def hot(self, model: str) -> bool:
        return model == "small"

    def budget_left(self, model: str | None) -> float | None:
        return 0.5 if model is None else None

    def count(self, request: Request, model: str) -> Count:
        self.asked.append(("count", model))
        return Count(len(model), "estimate")

    async def exact(self, request: Request, model: str) -> Count:
        return Count(await self._told("exact"), "server")

    async def language(self, text: str) -> str | None:
        found: str | None = await self._told("language")
        return found

    async def similarity(self, text: str, to: Similar) -> float | None:
        cosine: float | None = await self._told("cosine")
        return cosine

    async def _told(self, name: str) -> Any:
        self.asked.append(name)
        if name not in self.known:
            await asyncio.Event().wait()
        return self.known[name]


def of(
    body: dict[str, Any] | str,
    dialect: Dialect = "chat",
    headers: dict[str, str] | None = None,
    world: World | None = None,
) -> RequestFacts:
    raw = body if isinstance(body, str) else json.dumps({"model": "chat", **body})
    fields = {k.encode(): v.encode("latin-1") for k, v in (headers or {}).items()}
    request = Request(
        "r", "POST", b"/x", dialect, list(fields.items()), fields, parse_json(raw.encode())
    )
    return RequestFacts(request, world or World(), 1e9)


def said(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": r, "content": c} for r, c in messages], **more}


PICTURE = {"type": "image_url", "image_url": {"url": "https://h/a.png"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
TEXT = {"type": "text", "text": "look"}

TEXTS: list[tuple[Dialect, dict[str, Any], str]] = [
    ("chat", said(("user", "one"), ("assistant", "two"), ("user", "three")), "three"),
    ("chat", said(("user", "one"), ("assistant", "two"), ("tool", "three")), "one"),
    ("chat", said(("user", [TEXT, PICTURE, {"type": "text", "text": "again"}])), "look\nagain"),
    ("chat", said(("user", "one"), ("user", [PICTURE])), "one"),
    ("chat", said(("system", "one")), ""),
    ("chat", {"messages": "one"}, ""),
    ("chat", {"messages": [5, {"role": "user", "content": "one"}, None]}, "one"),
    ("chat", {}, ""),
    (
        "messages",
        said(("user", [TEXT, {"type": "tool_result", "content": "x"}]), system="s"),
        "look",
    ),
    ("completions", {"prompt": "one"}, "one"),
    ("completions", {"prompt": ["one", "two"]}, "two"),
    ("completions", {"prompt": [1, 2]}, ""),
    ("responses", {"input": "one"}, "one"),
    (
        "responses",
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "one"}]}]},
        "one",
    ),
    ("other", {"input": "one"}, ""),
]


@pytest.mark.parametrize(("dialect", "body", "text"), TEXTS)
def test_the_last_user_text(dialect: Dialect, body: dict[str, Any], text: str) -> None:
    assert of(body, dialect).text == text


def test_parts_of_any_kind_are_text_where_a_server_reads_it() -> None:
    parts = ["one", {"text": "two"}, {"type": "output_text", "text": "three"}, {"text": 4}, None]
    assert of(said(("user", parts))).text == "one\ntwo\nthree"


def test_body_full_of_what_is_no_message_is_read_in_no_time() -> None:
    body = '{"model": "m", "messages": [%s, {"role": "user", "content": "hi"}]}'
    began_s = time.process_time()
    assert of(body % ", ".join(["1"] * 200_000)).text == "hi"
    assert time.process_time() - began_s < 1.0


def test_of_a_long_text_the_end_is_looked_at() -> None:
    text = of(said(("user", "x" * 20_000 + "end"))).text
    assert (len(text), text[-4:]) == (LONGEST_TEXT, "xend")


@pytest.mark.parametrize(
    ("dialect", "body", "image", "audio"),
    [
        ("chat", said(("user", [TEXT, PICTURE]), ("user", "and?")), True, False),
        ("chat", said(("user", [SOUND])), False, True),
        ("chat", said(("user", [TEXT])), False, False),
        ("chat", said(("user", "an image_url [1]")), False, False),
        ("messages", said(("user", [{"type": "image", "source": {}}])), True, False),
        ("responses", {"input": [{"type": "input_image", "image_url": "u"}]}, True, False),
        (
            "responses",
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            True,
            False,
        ),
        ("chat", said(("user", [{"type": ["image"]}])), False, False),
        ("chat", said(("user", [{"image_url": {"url": "u"}}])), True, False),
        ("chat", said(("user", [{"type": "audio_url", "audio_url": {"url": "u"}}])), False, True),
        (
            "messages",
            said(("user", [{"type": "tool_result", "content": [{"type": "image"}]}])),
            True,
            False,
        ),
    ],
)
def test_pictures_and_sound(dialect: Dialect, body: Any, image: bool, audio: bool) -> None:
    told = of(body, dialect)
    assert (told.image, told.audio) == (image, audio)


def test_a_type_that_is_spelled_with_escapes_is_read_too() -> None:
    escaped = json.dumps({"model": "m", **said(("user", [PICTURE]))}).replace(
        '"type": "image_url"', '"type": "\\u0069mage_url"'
    )
    assert "\\u0069mage" in escaped
    assert of(escaped.replace('"image_url":', '"\\u0069mage_url":')).image


@pytest.mark.parametrize(
    ("dialect", "body", "flag"),
    [
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {}}}, True),
        ("chat", {"response_format": {"type": "json_object"}}, True),
        ("chat", {"response_format": {"type": "text"}}, False),
        ("chat", {"response_format": "json_object"}, False),
        ("chat", {"text": {"format": {"type": "json_schema"}}}, False),
        ("responses", {"text": {"format": {"type": "json_schema"}}}, True),
        ("responses", {"text": "x"}, False),
        ("chat", {}, False),
    ],
)
def test_whether_the_answer_must_be_json(dialect: Dialect, body: Any, flag: bool) -> None:
    assert of(body, dialect).json_schema is flag


@pytest.mark.parametrize(
    ("body", "tools"),
    [
        ({"tools": [{"type": "function"}]}, True),
        ({"functions": [{"name": "f"}]}, True),
        ({"tools": []}, False),
        ({"tools": None}, False),
        ({}, False),
    ],
)
def test_whether_tools_are_offered(body: Any, tools: bool) -> None:
    assert of(body).tools is tools


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6, "max_tokens": 5}, 6),
        ({"max_output_tokens": 7}, 7),
        ({"max_tokens": None}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "5"}, None),
        ({}, None),
    ],
)
def test_the_most_output_that_the_caller_allows(body: Any, most: int | None) -> None:
    assert of(body).output_tokens == most


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x-api-key": "abc"}, "abc"),
        ({"api-key": "abc"}, "abc"),
        ({"authorization": "Basic abc"}, None),
        ({"authorization": "Bearer "}, None),
        ({}, None),
    ],
)
def test_the_key_is_a_hash(headers: dict[str, str], key: str | None) -> None:
    hashed = key and "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    assert of({}, headers=headers).key == hashed


def test_a_form_has_no_text_and_its_name_all_the_same() -> None:
    body = MultipartBody(b"raw", "chat", False, (0, 1))
    told = RequestFacts(Request("r", "POST", b"/x", "other", [], {}, body), World(), 1e9)
    assert (told.model, told.text, told.tools, told.image, told.output_tokens) == (
        "chat", "", False, False, None,
    )  # fmt: skip
    assert told.affinity_key("conversation") is None


def test_what_is_read_is_read_once() -> None:
    world = World()
    told = of(said(("user", "a refund")), world=world)
    wordings = Wordings()
    number = wordings.add_keywords(["refund"])
    assert told.found(wordings) is told.found(wordings) == {number}
    assert [told.input_tokens("ab"), told.input_tokens("ab"), told.input_tokens("c")] == [
        Count(2, "estimate"),
        Count(2, "estimate"),
        Count(1, "estimate"),
    ]
    assert world.asked == [("count", "ab"), ("count", "c")]


# --- what is fetched ------------------------------------------------------------------------------


def test_a_fact_is_pending_until_it_is_fetched() -> None:
    told = of(said(("user", "hallo")), world=World(language="de", exact=5, cosine=0.5))
    for ask, answer in (
        (told.language, "de"),
        (lambda: told.exact_tokens("m"), Count(5, "server")),
        (lambda: told.similarity(SIMILAR), 0.5),
    ):
        pending = ask()
        assert isinstance(pending, Pending)
        asyncio.run(told.fetch(pending))
        assert ask() == answer


def test_what_does_not_come_in_time_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCHED_WITHIN_S", 0.0)
    told = of(said(("user", "hallo")))
    for ask, answer in (
        (told.language, None),
        (lambda: told.exact_tokens("mm"), Count(2, "estimate")),
        (lambda: told.similarity(SIMILAR), None),
    ):
        pending = ask()
        assert isinstance(pending, Pending)
        asyncio.run(told.fetch(pending))
        assert ask() == answer


def test_without_a_text_nothing_is_fetched() -> None:
    told = of({})
    assert (told.language(), told.similarity(SIMILAR)) == (None, None)


# --- what belongs together ------------------------------------------------------------------------


def test_the_turns_of_a_conversation_belong_together() -> None:
    first = said(("system", "s"), ("user", "one"))
    later = said(("system", "s"), ("user", "one"), ("assistant", "x"), ("user", "two"))
    key = of(first).affinity_key("conversation")
    assert key is not None
    assert of({**later, "temperature": 1}).affinity_key("conversation") == key


@pytest.mark.parametrize(
    "other",
    [
        said(("system", "s"), ("user", "two")),
        said(("system", "t"), ("user", "one")),
        said(("user", "one")),
        said(("system", "s"), ("user", ["one"])),
    ],
)
def test_other_openings_are_other_conversations(other: dict[str, Any]) -> None:
    first = said(("system", "s"), ("user", "one"))
    assert of(other).affinity_key("conversation") != of(first).affinity_key("conversation")


def test_system_prompts_beside_the_messages_count() -> None:
    one = of(said(("user", "x"), system="a"), "messages").affinity_key("conversation")
    two = of(said(("user", "x"), system="b"), "messages").affinity_key("conversation")
    three = of({"input": "x", "instructions": "a"}, "responses").affinity_key("conversation")
    four = of({"input": "x", "instructions": "b"}, "responses").affinity_key("conversation")
    assert None not in (one, two, three, four)
    assert one != two
    assert three != four


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        ({}, "chat"),
        (said(("system", "s")), "chat"),
        ({"prompt": "x"}, "completions"),
        ({}, "other"),
    ],
)
def test_without_an_opening_there_is_no_conversation(body: Any, dialect: Dialect) -> None:
    assert of(body, dialect).affinity_key("conversation") is None


def test_other_affinities_are_as_the_caller_says() -> None:
    told = of({"prompt_cache_key": "k"}, headers={"x-session": "é"})
    assert told.affinity_key("prompt_cache_key") == "k"
    assert told.affinity_key("header:x-session") == "é"
    assert told.affinity_key("header:x-other") is None
    assert of({"prompt_cache_key": 5}).affinity_key("prompt_cache_key") is None
    assert told.affinity_key(None) is None
