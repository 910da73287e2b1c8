"""The whole gateway behind a proxy: outside APIs go through it, everything else does not."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.backends.proxy_server import FakeProxy, copied, tunnelling
from tests.backends.tls import Certificate, make_certificate, needs_openssl
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, chunk, events, finish
from tests.gateway import STARTS_WITHIN_S, GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import chat, model, yaml

pytestmark = needs_openssl

API, REFUSED = "api.example.test", "refused.example.test"  # only the proxy knows these names
PASSWORD = "pa55word"
NOTHING = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "no_proxy"), "")


@dataclass
class Network:
    """What lies between the gateway and the internet."""

    plain: FakeProxy
    secure: FakeProxy

    @property
    def targets(self) -> list[str]:
        return self.plain.targets + self.secure.targets


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"), API)


@pytest.fixture(scope="module")
def network(fake_servers: FakeServers, certificate: Certificate) -> Iterator[Network]:
    """A proxy for each scheme, on a loop of their own; both lead to the first fake server."""
    port = urlsplit(fake_servers.urls[0]).port
    assert port is not None
    started: Future[tuple[Network, Callable[[], object]]] = Future()

    async def with_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copied(reader, far_writer), copied(far_reader, writer))

    async def run() -> None:
        async with AsyncExitStack() as stack:
            server = await asyncio.start_server(with_tls, "127.0.0.1", 0, ssl=certificate.server())
            stack.callback(server.close)
            tls_port = server.sockets[0].getsockname()[1]
            plain = await stack.enter_async_context(tunnelling(port))
            secure = await stack.enter_async_context(tunnelling(tls_port, refusing=REFUSED))
            end = asyncio.Event()
            ends = partial(asyncio.get_running_loop().call_soon_threadsafe, end.set)
            started.set_result((Network(plain, secure), ends))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="proxies")
    thread.start()
    network, ends = started.result(10)
    yield network
    ends()
    thread.join(10)


@pytest.fixture(scope="module")
def behind(
    network: Network,
    certificate: Certificate,
    fake_servers: FakeServers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    # 0.0.0.0 is this machine too, and not loopback by its number: nothing but the rule keeps it
    # from the proxy.
    here = fake_servers.urls[0].replace("127.0.0.1", "0.0.0.0")
    models = {
        "secure": {"api": {"url": f"https://{API}/v1", "model": "fake", "key": "sk-api"}},
        "plain": {"api": {"url": f"http://{API}/v1", "model": "fake"}},
        "refused": {"api": {"url": f"https://{REFUSED}/v1", "model": "fake"}, "retries": 0},
        "other-name": {"api": {"url": "https://other.example.test/v1"}, "retries": 0},
        "excepted": {"api": {"url": here, "model": "fake"}},
        "loopback": {"api": {"url": fake_servers.urls[0], "model": "fake"}},
        "hot": {"served_as": "fake", "hot": {"urls": [here], "check": {"every": "100ms"}}},
        "cold": {"served_as": "fake", "cold": {"command": fake_command()}},
    }
    env = {
        **NOTHING,
        "http_proxy": f"http://127.0.0.1:{network.plain.port}",
        "https_proxy": f"http://user:{PASSWORD}@127.0.0.1:{network.secure.port}",
        "no_proxy": "0.0.0.0",
        "SSL_CERT_FILE": str(certificate.file),
    }
    with run_gateway(tmp_path_factory.mktemp("behind"), yaml(models), env) as gateway:
        yield gateway


def test_https_api_is_reached_through_the_proxy(
    behind: GatewayProcess, network: Network, fakes: FakeServers
) -> None:
    got = behind.http.post("/v1/chat/completions", json=chat("secure"))
    assert got.status_code == 200
    assert got.headers["x-lamplighter-placement"] == "api"
    assert f"{API}:443" in network.secure.targets
    assert network.plain.targets == [t for t in network.plain.targets if t == f"{API}:80"]
    assert fakes.last.header("authorization") == "Bearer sk-api"
    assert fakes.last.header("host") == API
    assert fakes.last.header("proxy-authorization") is None


def test_http_api_is_reached_through_its_own_proxy(
    behind: GatewayProcess, network: Network
) -> None:
    assert behind.http.post("/v1/chat/completions", json=chat("plain")).status_code == 200
    assert f"{API}:80" in network.plain.targets


def test_stream_passes_through_the_tunnel(behind: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(events(chunk("Hel"), 0.01, chunk("lo"), finish(), DONE))
    got = behind.http.post("/v1/chat/completions", json=chat("secure", stream=True))
    assert all(part in got.content for part in (b"Hel", b"lo", b"[DONE]"))


def test_own_servers_and_excepted_apis_are_reached_directly(
    behind: GatewayProcess, network: Network, fakes: FakeServers
) -> None:
    before = list(network.targets)
    for name in ("hot", "cold", "excepted", "loopback"):
        assert behind.http.post("/v1/chat/completions", json=chat(name)).status_code == 200, name
    eventually(lambda: any(r.method == "GET" for r in fakes.requests), what="a health check")
    assert network.targets == before


def test_proxy_that_refuses_is_502_without_its_password(
    behind: GatewayProcess, network: Network
) -> None:
    got = behind.http.post("/v1/chat/completions", json=chat("refused"))
    assert (got.status_code, got.json()["error"]["code"]) == (502, "upstream_error")
    message = got.json()["error"]["message"]
    assert f"the proxy 127.0.0.1:{network.secure.port} refused {REFUSED}:443: 407" in message
    assert "https_proxy" in message
    assert b"\r\nproxy-authorization: Basic " in network.secure.heads[-1]


def test_certificate_of_another_name_is_refused_through_the_proxy(behind: GatewayProcess) -> None:
    got = behind.http.post("/v1/chat/completions", json=chat("other-name"))
    assert got.status_code == 502
    assert "TLS to other.example.test:443 through the proxy" in got.json()["error"]["message"]


def test_log_tells_the_way_and_not_the_password(behind: GatewayProcess, network: Network) -> None:
    way = f"{API}:443 is reached through the proxy 127.0.0.1:{network.secure.port}"
    assert way in behind.log
    shown = behind.log + behind.admin("GET", "/config").text + behind.admin("GET", "/models").text
    assert PASSWORD not in shown
    assert "Basic" not in shown


def test_proxy_of_another_kind_is_told_at_the_start(tmp_path: Path) -> None:
    env = {**NOTHING, "all_proxy": f"socks5://user:{PASSWORD}@127.0.0.1:1080"}
    file = tmp_path / "gateway.yaml"
    file.write_text("version: 1\n" + yaml({"outside": {"api": {"url": f"https://{API}/v1"}}}))
    ran = subprocess.run(
        [sys.executable, "-m", "proxy.cli", "serve", str(file), "--port", "0"],
        env={**os.environ, **env, "XDG_RUNTIME_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=STARTS_WITHIN_S,
    )
    assert ran.returncode != 0
    assert "all_proxy names a proxy of the kind socks5://" in ran.stderr
    assert PASSWORD not in ran.stdout + ran.stderr


def test_proxy_of_another_kind_refuses_a_reload_and_nothing_else(
    tmp_path: Path, fakes: FakeServers
) -> None:
    env = {**NOTHING, "all_proxy": "socks5://127.0.0.1:1080"}
    hot = {"hot": model(fakes.urls)}
    with run_gateway(tmp_path, yaml(hot), env) as gateway:
        gateway.write(yaml({**hot, "outside": {"api": {"url": f"https://{API}/v1"}}}))
        got = gateway.admin("POST", "/reload")
        assert got.status_code == 422
        assert "all_proxy names a proxy of the kind socks5://" in got.text
        assert gateway.http.post("/v1/chat/completions", json=chat("hot")).status_code == 200
        assert gateway.http.post("/v1/chat/completions", json=chat("outside")).status_code == 404
