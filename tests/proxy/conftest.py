"""One gateway for most tests, in front of the two fake servers.

Health is kept per model and endpoint, so each test takes model names that no other test used:
what it breaks stays its own.
"""

from collections.abc import Callable, Iterator

import pytest
from openai import OpenAI

from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import model, yaml

ONES, TWOS = 200, 60


@pytest.fixture(scope="session")
def gateway(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """`fake` keeps its name; `one-N` have one server, `two-N` two; both are called `fake` there."""
    one, two = fake_servers.urls[:1], fake_servers.urls
    models = {"fake": model(one, served_as=None)}
    models |= {f"one-{n}": model(one) for n in range(ONES)}
    models |= {f"two-{n}": model(two) for n in range(TWOS)}
    before = len(fake_servers.requests)
    with run_gateway(tmp_path_factory.mktemp("gateway"), yaml(models)) as running:
        # One look at each server is under way; a test must not find it among its own requests.
        looks = sum(len(model["hot"]["urls"]) for model in models.values())
        eventually(lambda: len(fake_servers.requests) >= before + looks, 30, "the first looks")
        yield running


@pytest.fixture(scope="session")
def names() -> dict[str, Iterator[int]]:
    return {"one": iter(range(ONES)), "two": iter(range(TWOS))}


@pytest.fixture
def one(names: dict[str, Iterator[int]]) -> str:
    """A model with one server, untouched by other tests."""
    return f"one-{next(names['one'])}"


@pytest.fixture
def two(names: dict[str, Iterator[int]]) -> str:
    """A model with two servers, untouched by other tests."""
    return f"two-{next(names['two'])}"


@pytest.fixture(scope="session")
def client_of() -> Iterator[Callable[[GatewayProcess], OpenAI]]:
    """The real client for a gateway, without the SDK's own retries."""
    clients: dict[str, OpenAI] = {}

    def client_of(gateway: GatewayProcess) -> OpenAI:
        if gateway.base_url not in clients:
            clients[gateway.base_url] = OpenAI(
                base_url=gateway.base_url, api_key="sk-caller-secret", max_retries=0, timeout=30
            )
        return clients[gateway.base_url]

    yield client_of
    for client in clients.values():
        client.close()


@pytest.fixture
def client(gateway: GatewayProcess, client_of: Callable[[GatewayProcess], OpenAI]) -> OpenAI:
    return client_of(gateway)
