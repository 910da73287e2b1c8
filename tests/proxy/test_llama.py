"""The real openai client, a real gateway, and a real model on this CPU: llama.cpp, always on."""

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.clients.fixtures import JsClient
from tests.conftest import StartGateway
from tests.engines.fixtures import ModelServer
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import counted, model, settles, yaml

CAPITAL: Any = [{"role": "user", "content": "What is the capital of France?"}]
SURE: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0, "seed": 1}


@pytest.fixture(scope="module")
def llama(start_gateway: StartGateway, llama_server: ModelServer) -> GatewayProcess:
    """The model is called `small` here and by its own name there."""
    return start_gateway(yaml({"small": model([llama_server.url], served_as="smollm2")}))


@pytest.fixture
def llama_client(llama: GatewayProcess, client_of) -> OpenAI:
    client: OpenAI = client_of(llama)
    return client


def test_chat_is_answered(llama_client: OpenAI) -> None:
    got = llama_client.chat.completions.create(model="small", messages=CAPITAL, **SURE)
    assert "Paris" in (got.choices[0].message.content or "")
    assert got.usage is not None
    assert 1 <= got.usage.completion_tokens <= 12


def test_chat_is_streamed_as_it_is_said_plain(llama_client: OpenAI) -> None:
    create = llama_client.chat.completions.create
    plain = create(model="small", messages=CAPITAL, **SURE)
    parts = list(create(model="small", messages=CAPITAL, stream=True, **SURE))
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == plain.choices[0].message.content
    assert len(parts) > 3
    assert all(part.usage is None for part in parts)


def test_usage_comes_when_asked_for_and_is_counted_when_not(
    llama: GatewayProcess, llama_client: OpenAI
) -> None:
    create = llama_client.chat.completions.create
    settles(llama, "small")
    before = counted(llama, "small", "tokens", "type").get("output", 0.0)
    asked = list(
        create(
            model="small",
            messages=CAPITAL,
            stream=True,
            stream_options={"include_usage": True},
            **SURE,
        )
    )
    told = [part.usage for part in asked if part.usage is not None]
    assert len(told) == 1
    assert asked[-1].choices == []
    for _ in create(model="small", messages=CAPITAL, stream=True, **SURE):
        pass
    expected = before + 2 * told[0].completion_tokens
    eventually(lambda: counted(llama, "small", "tokens", "type")["output"] == expected, 5)


@pytest.mark.anyio
async def test_async_client_is_answered(llama: GatewayProcess) -> None:
    async with AsyncOpenAI(base_url=llama.base_url, api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="small", messages=CAPITAL, stream=True, **SURE
        )
        text = "".join([part.choices[0].delta.content or "" async for part in stream])
    assert "Paris" in text


def test_javascript_client_is_answered(llama: GatewayProcess, js_client: JsClient) -> None:
    heard = js_client.stream(llama.base_url, "small", CAPITAL[0]["content"], body=SURE)
    assert heard.error is None
    assert "Paris" in (heard.text or "")


def test_completion_is_answered(llama_client: OpenAI) -> None:
    got = llama_client.completions.create(
        model="small", prompt="The capital of France is", max_tokens=5, temperature=0
    )
    assert "Paris" in got.choices[0].text


def test_embeddings_have_their_length_and_order(llama_client: OpenAI) -> None:
    got = llama_client.embeddings.create(model="small", input=["a cat", "a dog"])
    assert [item.index for item in got.data] == [0, 1]
    assert len(got.data[0].embedding) == len(got.data[1].embedding) > 100


def test_tool_schema_shapes_the_answer(llama_client: OpenAI) -> None:
    """A grammar made from a schema proves that nested fields reach the engine as they were."""
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    got = llama_client.chat.completions.create(
        model="small",
        messages=CAPITAL,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
        max_tokens=30,
        temperature=0,
    )
    assert json.loads(got.choices[0].message.content or "")["city"] in ("Paris", "Rome")


def test_response_is_made(llama_client: OpenAI) -> None:
    got = llama_client.responses.create(
        model="small", input=CAPITAL[0]["content"], max_output_tokens=12, temperature=0
    )
    assert "Paris" in got.output_text


def test_response_is_streamed(llama_client: OpenAI) -> None:
    stream = llama_client.responses.create(
        model="small", input=CAPITAL[0]["content"], max_output_tokens=12, temperature=0, stream=True
    )
    kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds


def test_message_is_answered(llama: GatewayProcess) -> None:
    body = {"model": "small", "max_tokens": 12, "messages": CAPITAL, "temperature": 0}
    got = llama.http.post("/v1/messages", json=body)
    assert got.status_code == 200
    assert "Paris" in got.json()["content"][0]["text"]


def test_tokens_are_told(llama: GatewayProcess) -> None:
    got = llama.http.post("/tokenize", json={"model": "small", "content": "hello there"})
    assert (got.status_code, bool(got.json()["tokens"])) == (200, True)


def test_error_of_the_engine_raises_its_class(llama_client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        llama_client.chat.completions.create(model="small", messages="no list")  # type: ignore[arg-type]
    assert caught.value.response.headers["x-lamplighter-error-source"] == "backend"


def test_early_end_of_a_stream_frees_the_engine(
    llama: GatewayProcess, llama_client: OpenAI
) -> None:
    settles(llama, "small")
    before = counted(llama, "small").get("cancelled", 0.0)
    stream = llama_client.chat.completions.create(
        model="small",
        messages=CAPITAL,
        stream=True,
        max_tokens=400,
        extra_body={"ignore_eos": True},
    )
    next(stream)
    stream.close()
    settles(llama, "small")
    eventually(lambda: counted(llama, "small").get("cancelled") == before + 1, 5)
