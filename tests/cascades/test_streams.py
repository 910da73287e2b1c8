"""Streams of a cascade: what is held back, what goes out at once, what is cut."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.cascades.scenes import SURE, UNSURE, pair, pieces, policy, streamed, text_of
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import End, Gate, events
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, idle, yaml

LINE = "the capital of France is Paris"


@contextmanager
def stream(gateway: GatewayProcess, policy: str, **more: Any) -> Iterator[httpx2.Response]:
    body = {"model": policy, "messages": HELLO, "stream": True, **more}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        yield response


def read(gateway: GatewayProcess, policy: str, **more: Any) -> tuple[httpx2.Headers, str]:
    with stream(gateway, policy, **more) as response:
        return response.headers, response.read().decode()


def test_sure_stream_is_kept_and_clean(gateway: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(streamed(*pieces(LINE)))
    headers, text = read(gateway, "plain")
    assert headers["x-lamplighter-cascade"] == "kept"
    assert text_of(text) == LINE
    assert text.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert all(choice["logprobs"] is None for c in chunks for choice in c["choices"])


@pytest.mark.parametrize("end", [b"\n\n", b""])
def test_logprobs_are_taken_out_of_long_and_of_unended_events(
    gateway: GatewayProcess, fakes: FakeServers, end: bytes
) -> None:
    tokens = [{"token": "a", "logprob": SURE, "top_logprobs": []}] * 5000
    choice = {"index": 0, "delta": {"content": "end"}, "logprobs": {"content": tokens}}
    last = b"data:  " + json.dumps({"choices": [choice]}).encode() + end
    parts: list[Any] = [last[at : at + 50_000] for at in range(0, len(last), 50_000)]
    paused = [step for part in parts for step in (0.05, part)]
    fakes.script(events(*pieces(LINE), *paused))
    headers, text = read(gateway, "early")
    assert headers["x-lamplighter-cascade"] == "kept"
    assert "end" in text
    assert "top_logprobs" not in text


def test_unsure_stream_is_escalated_without_a_word_of_it(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(streamed(*pieces("Rome or so", UNSURE)), streamed(*pieces(LINE)))
    headers, text = read(gateway, "plain")
    assert headers["x-lamplighter-cascade"] == "escalated"
    assert text_of(text) == LINE
    assert text.count("[DONE]") == 1


def test_clear_stream_goes_out_while_it_is_still_being_made(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    gate = Gate()
    parts = pieces(LINE)
    fakes.script(streamed(*parts[:4], gate, *parts[4:]))
    with stream(gateway, "early") as response:
        lines = response.iter_lines()
        first = next(line for line in lines if line.startswith("data: {"))
        assert response.headers["x-lamplighter-cascade"] == "kept"
        fakes.open(gate)
        rest = "\n".join([first, *lines])
    assert text_of(rest) == LINE
    assert '"top_logprobs"' not in rest


def test_clearly_bad_stream_is_cut_and_the_large_one_asked_at_once(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    never = Gate()
    fakes.script(streamed(*pieces("Rome or Milan I", UNSURE), never), streamed(*pieces(LINE, SURE)))
    headers, text = read(gateway, "early")
    assert headers["x-lamplighter-cascade"] == "escalated"
    assert text_of(text) == LINE
    eventually(lambda: idle(gateway, "small"), what="the small model's place is free")


def test_tools_are_never_answered_in_parts(gateway: GatewayProcess, fakes: FakeServers) -> None:
    gate = Gate()
    parts = pieces(LINE)
    fakes.script(streamed(*parts[:4], gate, *parts[4:]))
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    seen: list[str] = []

    def reading() -> None:
        with stream(gateway, "early", tools=tools) as response:
            seen.extend(line for line in response.iter_lines() if line.startswith("data: "))

    reader = threading.Thread(target=reading)
    reader.start()
    fakes.reached(gate)
    assert seen == []
    fakes.open(gate)
    reader.join(10)
    assert text_of("\n".join(seen)) == LINE


def test_small_that_breaks_off_is_never_seen(gateway: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(events(*pieces("the capital"), End.RESET), streamed(*pieces(LINE)))
    headers, text = read(gateway, "plain")
    assert headers["x-lamplighter-cascade"] == "small_failed"
    assert text_of(text) == LINE


def test_caller_who_leaves_frees_the_place(gateway: GatewayProcess, fakes: FakeServers) -> None:
    gate = Gate()
    fakes.script(streamed(*pieces("the capital"), gate))
    body = {"model": "plain", "messages": HELLO, "stream": True}
    with pytest.raises(httpx2.ReadTimeout):
        gateway.http.post("/v1/chat/completions", json=body, timeout=0.3)
    assert gate.reached.is_set()
    eventually(lambda: idle(gateway, "small"), what="the place is free")


def test_comments_keep_the_caller_awake_while_the_judge_waits(
    fake_servers: FakeServers, fakes: FakeServers, start_gateway: Any
) -> None:
    keepalive = {"keepalive": {"grace": "50ms", "every": "50ms"}}
    gateway = start_gateway(
        yaml(pair(fake_servers.urls), policies={"plain": policy()}, defaults=keepalive)
    )
    fakes.script(streamed(*pieces("Rome or so", UNSURE), 0.3), streamed(0.3, *pieces(LINE)))
    _, text = read(gateway, "plain")
    assert text.count(": ") > 2
    assert text_of(text) == LINE
