"""Readiness against servers that answer as real ones do while they start."""

import asyncio
import json
import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from backends.launchers import LaunchSpec
from backends.launchers.process import ProcessLauncher
from backends.log_ring import LogRing
from backends.ports import Ports
from backends.readiness import SURE_AFTER, WrongModel, wait_until_ready
from tests.engines.fixtures import ColdCommand

pytestmark = pytest.mark.anyio

WITHIN_S = 10.0
NAME = "org/model"
LISTED = (200, {"object": "list", "data": [{"id": NAME, "object": "model"}]})
LOADING = (503, {"error": {"message": "Loading model", "type": "unavailable_error"}})
CHAT = "POST /v1/chat/completions"
COMPLETIONS = "POST /v1/completions"
EMBEDDINGS = "POST /v1/embeddings"
RERANK = "POST /v1/rerank"
MODELS = "GET /v1/models"
SLEEPING = "GET /is_sleeping"
OK = (200, {})

Answer = tuple[int, object]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@dataclass
class Server:
    """Answers each request line with the next of its answers, the last one again and again."""

    answers: dict[str, list[Answer | None]]
    seen: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    bodies: dict[str, Any] = field(default_factory=dict)
    url: str = ""
    key: str | None = None
    pid: int = 0

    async def wait(self) -> int:
        return await asyncio.get_running_loop().create_future()

    async def stop(self, within_s: float) -> None: ...

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:])}
        line = head[0].removesuffix(" HTTP/1.1")
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.seen.append(line)
        self.keys.add(headers.get("authorization"))
        self.bodies[line] = json.loads(body or b"null")
        answers = self.answers.get(line, [(404, {"detail": "Not Found"})])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:  # hang up
            return False
        status, content = answer
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(text), text))
        return True


@asynccontextmanager
async def serving(**answers: list[Answer | None]) -> AsyncIterator[Server]:
    named = {NAMES[name]: list(given) for name, given in answers.items()}
    server = Server({MODELS: [LISTED], **named})
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()


NAMES = {
    "models": MODELS,
    "chat": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
    "rerank": RERANK,
    "sleeping": SLEEPING,
    "list": "GET /v1/v2/list",
}


async def ready(server: Server, **options: Any) -> list[str]:
    """The stages reached until the server was found ready."""
    stages: list[str] = []
    async with asyncio.timeout(WITHIN_S):
        await wait_until_ready(server, NAME, stages.append, **options)
    return stages


async def test_a_server_that_answers_is_ready() -> None:
    async with serving(chat=[OK]) as server:
        assert await ready(server) == ["warming"]
        assert server.seen == [MODELS, SLEEPING, CHAT]
        assert server.bodies[CHAT]["model"] == NAME
        assert server.bodies[CHAT]["max_tokens"] == 1
        assert server.keys == {None}


async def test_the_port_may_open_late() -> None:
    port = Ports(seed=os.getpid()).take()
    server = Server({MODELS: [LISTED], CHAT: [OK]}, url=f"http://127.0.0.1:{port}/v1")
    waiting = asyncio.ensure_future(ready(server))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", port)
    assert await waiting == ["warming"]
    listener.close()


@pytest.mark.parametrize(
    "early",
    [
        LOADING,
        (200, b"<html>"),
        (200, []),
        (200, {"data": [{}]}),
        (200, {"data": []}),
        (500, {}),
        None,
    ],
    ids=["503", "no JSON", "a list", "no ids", "no models yet", "500", "hang up"],
)
async def test_a_server_that_does_not_list_its_models_yet_is_asked_again(
    early: Answer | None,
) -> None:
    async with serving(models=[early] * (SURE_AFTER + 2) + [LISTED], chat=[OK]) as server:
        assert await ready(server) == ["warming"]
        assert server.seen.count(MODELS) == SURE_AFTER + 3


@pytest.mark.parametrize("early", [LOADING, (500, {}), (429, {}), None])
async def test_a_canary_that_fails_is_sent_again(early: Answer | None) -> None:
    async with serving(chat=[early] * (SURE_AFTER + 2) + [OK]) as server:
        assert await ready(server) == ["warming"]
        assert set(server.seen) == {MODELS, SLEEPING, CHAT}


@pytest.mark.parametrize("refusal", [400, 404, 405, 422, 501])
@pytest.mark.parametrize("offered", ["completions", "embeddings", "rerank"])
async def test_a_model_that_does_not_chat_is_asked_for_what_it_does(
    refusal: int, offered: str
) -> None:
    order = [CHAT, COMPLETIONS, EMBEDDINGS, RERANK]
    refused = order[: order.index(NAMES[offered])]
    answers = {k: [(refusal, {})] for k, line in NAMES.items() if line in refused}
    async with serving(**answers, **{offered: [OK]}) as server:
        await ready(server)
        assert server.seen == [MODELS, SLEEPING, *refused, NAMES[offered]]


async def test_a_sleeping_server_is_not_ready() -> None:
    asleep = (200, {"is_sleeping": True})
    async with serving(
        sleeping=[asleep, asleep, (200, {"is_sleeping": False})], chat=[OK]
    ) as server:
        await ready(server)
        assert server.seen == [MODELS, SLEEPING, SLEEPING, SLEEPING, CHAT]


async def test_another_path_and_no_canary_can_be_asked_for() -> None:
    async with serving(list=[LISTED]) as server:
        assert await ready(server, models_path="/v2/list", canary=False) == ["warming"]
        assert server.seen == ["GET /v1/v2/list", SLEEPING]


async def test_an_alias_of_llama_cpp_counts_as_listed() -> None:
    listed = (200, {"data": [{"id": "file.gguf", "aliases": [NAME]}]})
    async with serving(models=[listed], chat=[OK]) as server:
        await ready(server)


async def test_the_key_goes_with_every_call() -> None:
    async with serving(chat=[OK]) as server:
        server.key = "secret"
        await ready(server)
        assert server.keys == {"Bearer secret"}


async def test_the_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(chat=[OK]) as server:
        await ready(server)


OTHERS = (200, {"data": [{"id": "b"}, {"id": "a"}]})


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"models": [OTHERS]}, "it serves a, b but not org/model"),
        ({"models": [(401, {})]}, r"/v1/models answered 401; if it asks for a key"),
        ({"chat": [(403, {})]}, r"chat/completions answered 403; if it asks for a key"),
        ({}, r"it refuses a first request to each of chat/completions, .*canary: false"),
    ],
)
async def test_an_answer_that_stays_wrong_is_an_error(
    answers: dict[str, list[Answer | None]], says: str
) -> None:
    async with serving(**answers) as server:
        with pytest.raises(WrongModel, match=says):
            await ready(server)


async def test_a_wrong_list_must_be_seen_in_a_row() -> None:
    flapping: list[Answer | None] = [OTHERS] * (SURE_AFTER - 1) + [LOADING]
    async with serving(models=[*flapping, *flapping, LISTED], chat=[OK]) as server:
        await ready(server)


async def test_what_is_missing_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "lamplighter.readiness")
    async with serving(models=[LOADING] * 5 + [LISTED], chat=[OK]) as server:
        await ready(server)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("lamp")]
    what = "GET /v1/models answered 503 and no list of models"
    assert said == [f"{server.url} is not ready: {what}"]


async def test_waiting_can_be_cancelled_at_any_time_without_leaks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts, never answers
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/v1"
        before = math.inf
        for delay_s in (0.1, 0, 0.01, 0.05, 0.1):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await wait_until_ready(Server({}, url=url), NAME, lambda stage: None)
            # The first time libuv opens one for itself.
            before = min(before, len(os.listdir("/proc/self/fd")))
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the world outside sets no events
            await asyncio.sleep(0.005)


async def test_a_real_llama_cpp_becomes_ready(llama_command: ColdCommand) -> None:
    served_as = llama_command.served_as
    command = (*llama_command.command, "--key", "{key}")
    log, stages = LogRing(), list[str]()
    server = await ProcessLauncher().launch(LaunchSpec("m", served_as, command, {}, "/v1"), log)
    try:
        async with asyncio.timeout(60):
            await wait_until_ready(server, served_as, stages.append)
        assert stages == ["warming"]
        assert server.key is not None
        assert server.key not in "\n".join(log.tail(1000))
    finally:
        await server.stop(WITHIN_S)
    assert await server.wait() == 0, log.tail(20)


async def test_a_real_llama_cpp_under_another_name_is_the_wrong_model(
    llama_command: ColdCommand,
) -> None:
    spec = LaunchSpec("m", "other", tuple(llama_command.command), {}, "/v1")
    server = await ProcessLauncher().launch(spec, LogRing())
    try:
        async with asyncio.timeout(60):
            with pytest.raises(WrongModel, match="it serves smollm2.* but not other"):
                await wait_until_ready(server, "other", lambda stage: None)
    finally:
        await server.stop(WITHIN_S)
