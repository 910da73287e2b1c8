"""The Responses API: what a server stored is asked for where it was made."""

import openai
import pytest
from openai import OpenAI

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import Script, answer, event, events
from tests.gateway import GatewayProcess
from tests.proxy.scenes import counted, model, yaml


def response(id: str, status: str = "completed") -> dict[str, object]:
    usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    return {"id": id, "object": "response", "status": status, "output": [], "usage": usage}


def made(id: str) -> Script:
    return answer(response(id))


def host(fakes: FakeServers) -> str | None:
    return fakes.requests[-1].header("host")


def test_response_is_made_and_counted(
    client: OpenAI, gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(made("resp_made"))
    got = client.responses.create(model=one, input="hello", extra_body={"vendor": 1.5})
    assert got.id == "resp_made"
    assert fakes.last.json == {"model": "fake", "input": "hello", "vendor": 1.5}
    assert counted(gateway, one, "tokens", "type")["input"] == 3.0


def test_stored_response_is_asked_for_where_it_was_made(
    client: OpenAI, fakes: FakeServers, two: str
) -> None:
    makers = {}
    for number in range(6):
        id = f"resp_{two}-{number}"
        fakes.script(made(id))
        client.responses.create(model=two, input="x")
        makers[id] = host(fakes)
    assert len(set(makers.values())) == 2
    for id, maker in makers.items():
        fakes.answer_path(f"/v1/responses/{id}", made(id))
        fakes.answer_path(f"/v1/responses/{id}/cancel", answer(response(id, "cancelled")))
        assert client.responses.retrieve(id).id == id
        assert host(fakes) == maker
        assert client.responses.cancel(id).status == "cancelled"
        assert host(fakes) == maker


def test_stored_response_of_a_stream_is_pinned_too(
    client: OpenAI, fakes: FakeServers, two: str
) -> None:
    id = f"resp_{two}-stream"
    created = event({"type": "response.created", "response": response(id)}, "response.created")
    done = event({"type": "response.completed", "response": response(id)}, "response.completed")
    fakes.script(events(created, done))
    stream = client.responses.create(model=two, input="x", stream=True)
    assert [e.type for e in stream] == ["response.created", "response.completed"]
    maker = host(fakes)
    fakes.answer_path(f"/v1/responses/{id}", made(id))
    for _ in range(3):
        client.responses.retrieve(id)
        assert host(fakes) == maker


def test_response_that_follows_another_goes_to_its_server(
    client: OpenAI, fakes: FakeServers, two: str
) -> None:
    id = f"resp_{two}-first"
    fakes.script(made(id))
    client.responses.create(model=two, input="x")
    maker = host(fakes)
    for number in range(4):
        fakes.script(made(f"resp_{two}-next-{number}"))
        client.responses.create(model=two, input="y", previous_response_id=id)
        assert host(fakes) == maker


@pytest.mark.parametrize(
    ("method", "below", "target"),
    [
        ("GET", "?include=x", "?include=x"),
        ("GET", "/input_items?limit=2", "/input_items?limit=2"),
        ("DELETE", "", ""),
        ("POST", "/cancel", "/cancel"),
    ],
)
def test_call_on_a_stored_response_passes_as_it_is(
    gateway: GatewayProcess,
    client: OpenAI,
    fakes: FakeServers,
    one: str,
    method: str,
    below: str,
    target: str,
) -> None:
    id = f"resp_{one}"
    fakes.script(made(id))
    client.responses.create(model=one, input="x")
    full = f"/v1/responses/{id}{target}"
    fakes.answer_path(full, answer({"done": 1}))
    got = gateway.http.request(method, f"/v1/responses/{id}{below}")
    assert (got.status_code, got.json()) == (200, {"done": 1})
    assert (fakes.requests[-1].method, fakes.requests[-1].target) == (method, full)
    assert fakes.requests[-1].body == b""


def test_background_response_may_be_followed_as_a_stream(
    client: OpenAI, fakes: FakeServers, one: str
) -> None:
    id = f"resp_{one}"
    fakes.script(made(id))
    client.responses.create(model=one, input="x", background=True)
    done = event({"type": "response.completed", "response": response(id)}, "response.completed")
    fakes.answer_path(f"/v1/responses/{id}?stream=true", events(done))
    assert [e.type for e in client.responses.retrieve(id, stream=True)] == ["response.completed"]


def test_unknown_response_is_404_without_asking_anybody(client: OpenAI, fakes: FakeServers) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve("resp_unknown")
    assert "resp_unknown" in caught.value.message
    assert fakes.requests == []


@pytest.mark.parametrize("id", ["..", "a.b", "x" * 201, "resp_1%2f..%2fcancel"])
def test_response_id_that_is_none_is_404(
    gateway: GatewayProcess, fakes: FakeServers, id: str
) -> None:
    assert gateway.http.get(f"/v1/responses/{id}").status_code == 404
    assert fakes.requests == []


def test_response_of_a_server_that_went_is_404(
    start_gateway: StartGateway, client_of, fakes: FakeServers
) -> None:
    gateway = start_gateway(yaml({"m": model(fakes.urls[:1])}))
    fakes.script(made("resp_gone"))
    client_of(gateway).responses.create(model="m", input="x")
    gateway.write(yaml({"m": model(fakes.urls[1:])}))
    assert gateway.admin("POST", "/reload").json()["ok"]
    with pytest.raises(openai.NotFoundError) as caught:
        client_of(gateway).responses.retrieve("resp_gone")
    assert "gone" in caught.value.message


def test_response_of_a_model_that_left_the_configuration_is_404(
    start_gateway: StartGateway, client_of, fakes: FakeServers
) -> None:
    gateway = start_gateway(yaml({"m": model(fakes.urls[:1]), "other": model(fakes.urls[1:])}))
    fakes.script(made("resp_left"))
    client_of(gateway).responses.create(model="m", input="x")
    gateway.write(yaml({"other": model(fakes.urls[1:])}))
    assert gateway.admin("POST", "/reload").json()["ok"]
    with pytest.raises(openai.NotFoundError) as caught:
        client_of(gateway).responses.retrieve("resp_left")
    assert "left the configuration" in caught.value.message


def test_input_tokens_are_counted_by_any_server(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script(answer({"input_tokens": 4}))
    got = gateway.http.post("/v1/responses/input_tokens", json={"model": one, "input": "x"})
    assert (got.status_code, got.json()) == (200, {"input_tokens": 4})
    assert fakes.last.json["model"] == "fake"
