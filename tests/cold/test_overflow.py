"""Always-on servers that are full or dead, and what answers in their place."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.cold.scenes import Crowd, ask, cold, error_of, gone, launches, yaml
from tests.engines.fixtures import free_port
from tests.fakes.process import fake_command
from tests.gateway import GatewayProcess, eventually, run_gateway

CHECK = {"every": "200ms"}


class AlwaysOn:
    """A fake server that the tests run themselves, as an operator would; it can be killed."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.id = f"127.0.0.1:{self.port}"
        self._command = [w.replace("{port}", str(self.port)) for w in fake_command(*options)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/models", trust_env=False).status_code < 500
        except httpx2.TransportError:
            return False


@pytest.fixture
def always_on() -> Iterator[Callable[..., AlwaysOn]]:
    with ExitStack() as stack:

        def start(*options: str) -> AlwaysOn:
            server = AlwaysOn(*options)
            stack.callback(server.kill)
            eventually(server.answers, 10, "an always-on server answers")
            return server

        yield start


def hot(*servers: AlwaysOn, **of_url: int) -> dict[str, object]:
    return {"urls": [{"url": s.url, **of_url} for s in servers], "check": CHECK}


def healthy(gateway: GatewayProcess, model: str) -> int:
    return sum(endpoint["healthy"] for endpoint in gateway.model(model)["endpoints"])


def test_killed_always_on_server_is_left_out_until_it_comes_back(
    always_on: Callable[..., AlwaysOn], tmp_path: Path
) -> None:
    one, two = always_on("--pace", "0.05"), always_on("--pace", "0.05")
    models = {"pair": {"served_as": "fake", "hot": hot(one, two)}}
    with run_gateway(tmp_path, yaml(models)) as gateway, Crowd(gateway, 20) as crowd:
        streams = crowd.streams(8, "pair", max_tokens=40)
        calls = [crowd.ask("pair") for _ in range(8)]
        one.kill()
        assert {call.result().status_code for call in calls} == {200}  # unseen
        ended = [stream.result() for stream in streams]
        assert sum(stream.whole for stream in ended) == 4  # they were shared evenly
        assert {s.error["code"] for s in ended if not s.whole} == {"response_lost"}
        eventually(lambda: healthy(gateway, "pair") == 1, 2, "it is left out")
        seen = {ask(gateway, "pair").headers["x-lamplighter-instance"] for _ in range(6)}
        assert seen == {two.id}
        one.start()
        eventually(lambda: healthy(gateway, "pair") == 2, 5, "its check brings it back")
        seen = {ask(gateway, "pair").headers["x-lamplighter-instance"] for _ in range(6)}
        assert seen == {one.id, two.id}


def test_full_always_on_server_overflows_into_a_cold_one(
    always_on: Callable[..., AlwaysOn], tmp_path: Path
) -> None:
    server = always_on("--pace", "0.1")
    models = {"both": cold("--pace", "0.1", hot=hot(server, max_concurrency=2), idle="300ms")}
    with run_gateway(tmp_path, yaml(models)) as gateway, Crowd(gateway, 8) as crowd:
        streams = crowd.streams(2, "both", max_tokens=20)
        assert launches(gateway, "both") == 0
        over = [crowd.ask("both") for _ in range(4)]
        for call in over:
            assert call.result().status_code == 200
            assert call.result().headers["x-lamplighter-placement"] == "cold"
            assert call.result().headers["x-lamplighter-instance"] == "both@1"
        for stream in streams:
            assert stream.result().whole
            assert stream.result().headers["x-lamplighter-placement"] == "hot"
        assert ask(gateway, "both").headers["x-lamplighter-placement"] == "hot"
        gone(gateway, "both")


def test_dead_always_on_server_is_replaced_by_a_cold_one(
    always_on: Callable[..., AlwaysOn], tmp_path: Path
) -> None:
    server = always_on()
    models = {"both": cold(hot=hot(server), idle="200ms")}
    with run_gateway(tmp_path, yaml(models)) as gateway:
        assert ask(gateway, "both").headers["x-lamplighter-placement"] == "hot"
        server.kill()
        answer = ask(gateway, "both")
        assert answer.status_code == 200
        assert answer.headers["x-lamplighter-placement"] == "cold"
        server.start()
        eventually(lambda: healthy(gateway, "both") == 1, 5, "it is back")
        assert ask(gateway, "both").headers["x-lamplighter-placement"] == "hot"
        gone(gateway, "both")


def test_call_that_cannot_be_started_goes_to_the_outside_api(
    always_on: Callable[..., AlwaysOn], tmp_path: Path
) -> None:
    server = always_on("--key", "their-key")
    api = {"url": server.url, "model": "fake", "key": "their-key"}
    models = {"outside": cold("--crash-at-load", "1", api=api)}
    with run_gateway(tmp_path, yaml(models)) as gateway:
        answer = ask(gateway, "outside")
        assert answer.status_code == 200
        assert answer.headers["x-lamplighter-placement"] == "api"
        server.kill()
        refused = ask(gateway, "outside")
        assert refused.status_code == 503
        assert error_of(refused)["code"] in ("model_unavailable", "no_endpoints")
        assert "model 'outside'" in error_of(refused)["message"]
