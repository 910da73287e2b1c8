"""Configurations and questions that the tests of the edge share."""

import json
import socket
from typing import Any

from tests.gateway import GatewayProcess, eventually

HELLO: Any = [{"role": "user", "content": "hello over there"}]


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HELLO, **more}


def model(urls: list[str], *, served_as: str | None = "fake", **more: Any) -> dict[str, Any]:
    """An always-on model whose health is left to the requests of the test."""
    return {"served_as": served_as, "hot": {"urls": urls, "check": {"every": "1h"}}, **more}


def yaml(models: dict[str, Any], **more: Any) -> str:
    """JSON is YAML."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in {"models": models, **more}.items()]
    return "\n".join(lines)


def idle(gateway: GatewayProcess, model: str) -> bool:
    """Whether nothing of a model is in flight or waiting."""
    state = gateway.model(model)
    return not state["in_flight"] and not state["waiting"]


def settles(gateway: GatewayProcess, model: str) -> None:
    eventually(lambda: idle(gateway, model), 5, f"{model} has nothing in flight")


def counted(gateway: GatewayProcess, model: str, metric: str = "requests") -> dict[str, float]:
    """A counter of a model by its last label: outcomes of requests, results of attempts."""
    found = {}
    for line in gateway.http.get("/metrics").text.splitlines():
        if line.startswith(f"lamplighter_{metric}_total{{") and f'model="{model}"' in line:
            labels, _, value = line.rpartition(" ")
            last = labels.rpartition('="')[2].rstrip('"}')
            found[last] = found.get(last, 0.0) + float(value)
    return found


def raw(gateway: GatewayProcess, *parts: bytes, timeout_s: float = 15.0) -> bytes:
    """Everything that the gateway says to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout_s) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received
