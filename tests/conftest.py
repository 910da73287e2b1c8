"""Fixtures for all tests: gateways that are started on demand, fake servers, real engines."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.engines.require import need
from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess, run_gateway

# A test that is slow on a busy machine has not failed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["tests.engines.fixtures", "tests.clients.fixtures"]

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def openssl() -> None:
    need("openssl")


@pytest.fixture(scope="session")
def fake_servers() -> Iterator[FakeServers]:
    """Two scriptable model servers that live for the session; tests take them by `fakes`."""
    with FakeServers(2) as servers:
        yield servers


@pytest.fixture
def fakes(fake_servers: FakeServers) -> Iterator[FakeServers]:
    """The session's fake servers, with nothing scripted and nothing received."""
    fake_servers.reset()
    yield fake_servers
    fake_servers.reset()


@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """`start_gateway(yaml_text)`: a gateway process that is stopped after the module's tests."""
    with contextlib.ExitStack() as stack:

        def start(text: str) -> GatewayProcess:
            folder = tmp_path_factory.mktemp("gateway")
            return stack.enter_context(run_gateway(folder, text))

        yield start
