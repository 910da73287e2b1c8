"""/v1/models comes from the configuration: no server is asked, none is woken."""

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import StartGateway
from tests.engines.fixtures import free_port
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import End
from tests.gateway import GatewayProcess
from tests.proxy.scenes import chat, model, yaml

SLASHES = "org/family/model-7B"


@pytest.fixture(scope="module")
def zoo(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    """One model of each kind; nothing of it has to work."""
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    models = {
        SLASHES: model(fake_servers.urls[:1], aliases=["short", "org/other"]),
        "off": {"cold": {"command": fake_command("--never-ready")}},
        "outside": {"api": {"url": nowhere}},
        "überall ☀": model([nowhere]),
    }
    return start_gateway(yaml(models))


@pytest.fixture
def zoo_client(zoo: GatewayProcess, client_of) -> OpenAI:
    client: OpenAI = client_of(zoo)
    return client


def test_list_has_every_model_in_the_order_of_the_file(zoo_client: OpenAI) -> None:
    listed = list(zoo_client.models.list())
    assert [m.id for m in listed] == [SLASHES, "off", "outside", "überall ☀"]
    assert {m.object for m in listed} == {"model"}
    assert {m.owned_by for m in listed} == {"lamplighter"}
    assert all(isinstance(m.created, int) for m in listed)


def test_list_tells_state_and_placement(zoo_client: OpenAI) -> None:
    extra = {m.id: m.model_extra for m in zoo_client.models.list()}
    told = {name: (e["state"], e["placement"]) for name, e in extra.items() if e}
    assert told[SLASHES] == ("hot", ["hot"])
    assert told["off"] == ("off", ["cold"])
    assert told["outside"] == ("api", ["api"])


@pytest.mark.parametrize("name", [SLASHES, "short", "org/other", "off", "überall ☀"])
def test_model_is_retrieved_by_its_name(zoo_client: OpenAI, name: str) -> None:
    assert zoo_client.models.retrieve(name).id == name


@pytest.mark.anyio
async def test_model_is_retrieved_by_the_async_client(zoo: GatewayProcess) -> None:
    async with AsyncOpenAI(base_url=zoo.base_url + "/", api_key="k", max_retries=0) as client:
        assert (await client.models.retrieve(SLASHES)).id == SLASHES
        assert [m.id async for m in await client.models.list()][0] == SLASHES


def test_unescaped_slashes_are_fine_too(zoo: GatewayProcess) -> None:
    assert zoo.http.get(f"/v1/models/{SLASHES}").json()["id"] == SLASHES


@pytest.mark.parametrize("name", ["org/family/model-7b", "of", "nothing/like/it", "x" * 5000])
def test_unknown_model_is_not_found(zoo_client: OpenAI, name: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        zoo_client.models.retrieve(name)
    assert caught.value.code == "model_not_found"
    assert len(caught.value.message) < 1000
    if len(name) < 20:
        hint = SLASHES if "org" in name else "off" if name == "of" else "/v1/models"
        assert hint in caught.value.message


def test_listing_asks_no_server_and_wakes_none(
    zoo: GatewayProcess, zoo_client: OpenAI, fakes: FakeServers
) -> None:
    before = len(fakes.requests)
    for _ in range(20):
        zoo_client.models.list()
        zoo_client.models.retrieve("off")
        zoo_client.models.retrieve(SLASHES)
    assert len(fakes.requests) == before
    assert zoo.model("off")["state"] == "off"
    assert zoo.children() == []


def test_alias_is_answered_by_its_model(
    zoo: GatewayProcess, zoo_client: OpenAI, fakes: FakeServers
) -> None:
    got = zoo.http.post("/v1/chat/completions", json=chat("short"))
    assert got.status_code == 200
    assert fakes.last.json["model"] == "fake"
    assert got.headers["x-lamplighter-model"] == SLASHES


def test_name_that_is_no_ascii_is_told_in_headers(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    gateway = start_gateway(yaml({"überall ☀": model(fakes.urls[:1])}))
    got = gateway.http.post("/v1/chat/completions", json=chat("überall ☀"))
    assert (got.status_code, fakes.last.json["model"]) == (200, "fake")
    assert got.headers["x-lamplighter-model"] == "\\xfcberall \\u2600"


def test_health_answers_while_a_server_hangs(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """One hung server holds up nobody else."""
    fakes.script(*[[End.STALL]] * 20)
    body = chat(one)
    with ThreadPoolExecutor(20) as pool:
        hung = [
            pool.submit(gateway.http.post, "/v1/chat/completions", json=body) for _ in range(20)
        ]
        fakes.arrived(20)
        began = time.monotonic()
        assert gateway.http.get("/health").text == "OK"
        assert gateway.http.get("/ready").json() == {"status": "ready"}
        assert gateway.http.post("/v1/chat/completions", json=chat("fake")).status_code == 200
        assert time.monotonic() - began < 5
        fakes.drop_connections()
        assert {h.result(10).status_code for h in hung} <= {502, 503}
