"""A cascade over two real models on this CPU, with the logprobs that they really give."""

import pytest
from msgspec.structs import replace
from openai import OpenAI

from policies.calibration import STATED_DEFAULTS, encode
from tests.cascades.scenes import policy
from tests.conftest import StartGateway
from tests.engines.fixtures import ModelServer
from tests.gateway import GatewayProcess
from tests.proxy.scenes import counted, model, yaml

KNOWN = "What is the capital of France?"  # score 0.44 with SmolLM2-135M
UNKNOWN = "Who was the mayor of Ulm in 1874?"  # -0.52
SURE = {"max_tokens": 24, "temperature": 0.0, "seed": 1}


@pytest.fixture(scope="module")
def gateway(
    start_gateway: StartGateway,
    llama_server: ModelServer,
    gemma_server: ModelServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    path = tmp_path_factory.mktemp("calibration") / "calibration.json"
    path.write_bytes(encode(replace(STATED_DEFAULTS, threshold=0.0)))
    models = {
        "small": model([llama_server.url], served_as=llama_server.served_as),
        "large": model([gemma_server.url], served_as=gemma_server.served_as),
    }
    # The verdict is in a header, which must not go out before it on a busy machine.
    patient = {"keepalive": {"grace": "2m"}}
    policies = {"chat": policy(calibration=str(path))}
    return start_gateway(yaml(models, policies=policies, defaults=patient))


@pytest.fixture
def client(gateway: GatewayProcess) -> OpenAI:
    return OpenAI(base_url=gateway.base_url, api_key="x", max_retries=0)


@pytest.mark.parametrize(("question", "verdict"), [(KNOWN, "kept"), (UNKNOWN, "escalated")])
def test_plain_answer(client: OpenAI, question: str, verdict: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": question}], **SURE
    )
    choice = raw.parse().choices[0]
    assert raw.headers["x-lamplighter-cascade"] == verdict
    assert choice.logprobs is None
    assert ("Paris" in (choice.message.content or "")) == (verdict == "kept")


@pytest.mark.parametrize(("question", "verdict"), [(KNOWN, "kept"), (UNKNOWN, "escalated")])
def test_stream_is_that_of_one_model(
    gateway: GatewayProcess, client: OpenAI, question: str, verdict: str
) -> None:
    before = counted(gateway, "large")
    raw = client.chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": question}], stream=True, **SURE
    )
    parts = list(raw.parse())
    assert raw.headers["x-lamplighter-cascade"] == verdict
    assert len({part.id for part in parts}) == 1
    assert len({part.model for part in parts}) == 1
    assert all(choice.logprobs is None for part in parts for choice in part.choices)
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert ("Paris" in text) == (verdict == "kept")
    assert (counted(gateway, "large") == before) == (verdict == "kept")


def test_tokens_of_both_are_counted(gateway: GatewayProcess, client: OpenAI) -> None:
    def output(name: str) -> float:
        return counted(gateway, name, "tokens", "type").get("output", 0.0)

    before = output("small"), output("large")
    client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": UNKNOWN}], **SURE
    )
    assert output("small") > before[0]
    assert output("large") > before[1]


def test_text_completion_shows_logprobs_to_those_who_ask(client: OpenAI) -> None:
    asked = client.completions.create(
        model="chat", prompt="The capital of France is", logprobs=2, **SURE
    )
    assert asked.choices[0].logprobs is not None
    plain = client.completions.create(model="chat", prompt="The capital of France is", **SURE)
    assert plain.choices[0].logprobs is None
    assert plain.choices[0].text
