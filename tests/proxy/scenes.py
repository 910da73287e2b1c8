"""Configurations and questions that the tests of the edge share."""

import json
import socket
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

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


def counted(
    gateway: GatewayProcess, model: str, metric: str = "requests", by: str = "outcome"
) -> dict[str, float]:
    """A counter of one model, by the values of one label."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(gateway.http.get("/metrics").text):
        for sample in family.samples:
            if sample.name == f"lamplighter_{metric}_total" and sample.labels["model"] == model:
                found[sample.labels[by]] = found.get(sample.labels[by], 0.0) + sample.value
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
