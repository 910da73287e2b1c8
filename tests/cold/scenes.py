"""Cold models of scripted fake servers, and questions to them."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2

from tests.fakes.process import fake_command
from tests.gateway import GatewayProcess, eventually

HELLO: Any = [{"role": "user", "content": "hello over there"}]
LONG: Any = [{"role": "user", "content": " ".join(f"word{n}" for n in range(200))}]  # to be said


def cold(*options: str, **more: Any) -> dict[str, Any]:
    """A model whose server is the fake one; `more` goes beside `command`, or over the model."""
    of_model = ("max_wait", "retries", "queue", "keepalive", "hot", "api", "fallback", "timeouts")
    model = {key: more.pop(key) for key in of_model if key in more}
    part = {"command": fake_command(*options), "idle": "1h", "stop_within": "2s", **more}
    return {"served_as": "fake", "cold": part, **model}


def yaml(models: dict[str, Any], **more: Any) -> str:
    """JSON is YAML."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in {"models": models, **more}.items()]
    return "\n".join(lines)


def ask(gateway: GatewayProcess, model: str, **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    body = {"model": model, "messages": HELLO, **more}
    return gateway.http.post("/v1/chat/completions", json=body, headers=headers)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


class Stream:
    """A long streamed answer on its way; `max_tokens` of its request bounds it."""

    def __init__(self, gateway: GatewayProcess, model: str, **more: Any) -> None:
        body = {"model": model, "messages": LONG, "stream": True, **more}
        self.request = gateway.http.build_request("POST", "/v1/chat/completions", json=body)
        self.begun = threading.Event()  # its first bytes came
        self.headers = httpx2.Headers()
        self.text = ""
        self._http = gateway.http

    def read(self) -> "Stream":
        """To its end."""
        answer = self._http.send(self.request, stream=True)
        try:
            self.headers = answer.headers
            for part in answer.iter_text():
                self.text += part
                self.begun.set()
        finally:
            self.begun.set()
            answer.close()
        return self

    @property
    def whole(self) -> bool:
        return self.text.endswith("data: [DONE]\n\n")

    @property
    def error(self) -> dict[str, Any]:
        """The error of its last event, which must be one."""
        assert "[DONE]" not in self.text
        assert self.text.endswith("\n\n")
        last = self.text.removesuffix("\n\n").rpartition("\n\n")[2]
        error: dict[str, Any] = json.loads(last.removeprefix("data: "))["error"]
        return error


class Crowd:
    """Callers at the same time, each with a connection of its own."""

    def __init__(self, gateway: GatewayProcess, size: int) -> None:
        self._gateway = gateway
        self._pool = ThreadPoolExecutor(size)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def ask(self, model: str, **more: Any) -> "Future[httpx2.Response]":
        return self._pool.submit(ask, self._gateway, model, **more)

    def stream(self, model: str, **more: Any) -> "tuple[Stream, Future[Stream]]":
        """A stream, and when it has ended."""
        stream = Stream(self._gateway, model, **more)
        return stream, self._pool.submit(stream.read)

    def streams(self, number: int, model: str, **more: Any) -> "list[Future[Stream]]":
        """So many streams, each of which has begun."""
        pairs = [self.stream(model, **more) for _ in range(number)]
        assert all(stream.begun.wait(20) for stream, _ in pairs)
        return [ended for _, ended in pairs]

    def do(self, work: Callable[[], Any]) -> "Future[Any]":
        return self._pool.submit(work)


def instances(gateway: GatewayProcess, model: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.model(model)["instances"]
    return found


def ready(gateway: GatewayProcess, model: str, number: int = 1) -> list[dict[str, Any]]:
    """The instances of a model once `number` of them are ready."""

    def look() -> list[dict[str, Any]] | None:
        found = [i for i in instances(gateway, model) if i["state"] == "ready"]
        return found if len(found) == number else None

    found: list[dict[str, Any]] = eventually(look, 15, f"{number} of {model} ready")
    return found


def gone(gateway: GatewayProcess, model: str) -> None:
    eventually(lambda: not instances(gateway, model), 15, f"{model} is gone")


def launches(gateway: GatewayProcess, model: str) -> int:
    """How many servers were ever launched for a model."""
    begun = [line for line in gateway.log.splitlines() if line.endswith(" is provisioning")]
    return sum(f" instance {model}@" in line for line in begun)


def server_of(gateway: GatewayProcess, instance: dict[str, Any]) -> int:
    """The process id of the fake server behind an instance, found by its port."""
    port = instance["url"].rsplit(":", 1)[1].split("/")[0]
    for process in gateway.children():
        command = process.cmdline()
        if "--port" in command and command[command.index("--port") + 1] == port:
            return process.pid
    raise AssertionError(f"no process of {instance}")
