"""The gateway in front of two fake servers, asked over bare sockets.

Health is kept per model and endpoint, so tests that break a server take a model of their own.
"""

from collections.abc import Iterator

import pytest

from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess, run_gateway
from tests.proxy.scenes import model, yaml

ONES, TWOS = 120, 30


@pytest.fixture(scope="session")
def gateway(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """`fake` keeps its name; `one-N` have one server, `two-N` two; both are called `fake` there."""
    one, two = fake_servers.urls[:1], fake_servers.urls
    models = {"fake": model(one, served_as=None)}
    models |= {f"one-{n}": model(one) for n in range(ONES)}
    models |= {f"two-{n}": model(two) for n in range(TWOS)}
    with run_gateway(tmp_path_factory.mktemp("relay"), yaml(models)) as running:
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
