"""Connect, first byte, idle and total are four limits, and each is told for what it is."""

import json
import socket
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from tests.conftest import StartGateway
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Step, answer, chunk, comment, events
from tests.gateway import GatewayProcess
from tests.proxy.scenes import HELLO, chat, counted, model, settles, yaml

LIMIT = "300ms"
STEADY: list[Step] = [0.1, chunk("x")] * 8  # longer than the limit, never silent for as long


@pytest.fixture(scope="module")
def deaf() -> Iterator[str]:
    """An address that never takes a connection: its queue of them is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        for client in waiting:
            client.close()


@pytest.fixture(scope="module")
def timed(start_gateway: StartGateway, fake_servers: FakeServers, deaf: str) -> GatewayProcess:
    one, two = fake_servers.urls[:1], fake_servers.urls
    models = {
        "deaf": model([deaf], timeouts={"connect": LIMIT}),
        "half-deaf": model([deaf, *one], timeouts={"connect": LIMIT}),
        "first": model(two, timeouts={"first_byte": LIMIT}),
        "idle": model(one, timeouts={"idle": LIMIT}),
        "idle-two": model(two, timeouts={"idle": LIMIT}),
        "total": model(one, timeouts={"total": LIMIT}),
        "total-two": model(two, timeouts={"total": LIMIT}),
        "starting": {"served_as": "fake", "cold": {"command": fake_command("--never-ready")}},
        "narrow": model([{"url": one[0], "max_concurrency": 1}], max_wait=LIMIT),
        "tiny": model([{"url": one[0], "max_concurrency": 1}], queue={"requests": 1}),
    }
    return start_gateway(yaml(models))


def post(gateway: GatewayProcess, name: str, *, stream: bool = False):
    return gateway.http.post("/v1/chat/completions", json=chat(name, stream=stream))


def last_error(body: bytes) -> str:
    code: str = json.loads(body.strip().rpartition(b"data: ")[2])["error"]["code"]
    return code


def test_server_that_takes_no_connection_is_502(timed: GatewayProcess) -> None:
    got = post(timed, "deaf")
    assert (got.status_code, got.json()["error"]["code"]) == (502, "upstream_error")
    assert "no connection" in got.json()["error"]["message"]


def test_server_that_takes_no_connection_is_passed_over(timed: GatewayProcess) -> None:
    for _ in range(2):
        assert post(timed, "half-deaf").status_code == 200


def test_silence_before_the_first_byte_is_504_and_not_tried_twice(
    timed: GatewayProcess, fakes: FakeServers
) -> None:
    """The server may be at work on it still."""
    fakes.script([End.STALL])
    got = post(timed, "first")
    assert (got.status_code, got.json()["error"]["code"]) == (504, "upstream_timeout")
    assert len(fakes.posts) == 1


def test_limit_on_the_first_byte_does_not_limit_the_rest(
    timed: GatewayProcess, fakes: FakeServers
) -> None:
    fakes.script(events(*STEADY, DONE))
    assert post(timed, "first", stream=True).content == chunk("x") * 8 + DONE


def test_silence_in_a_stream_is_an_error_event(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(events(chunk("a"), End.STALL))
    body = post(timed, "idle", stream=True).content
    assert body.startswith(chunk("a"))
    assert last_error(body) == "upstream_timeout"
    assert b"[DONE]" not in body


def test_limit_on_silence_does_not_limit_a_steady_stream(
    timed: GatewayProcess, fakes: FakeServers
) -> None:
    steady: list[Step] = [0.1, comment("prefill")] * 8
    fakes.script(events(chunk("a"), *steady, *STEADY, DONE))
    body = post(timed, "idle", stream=True).content
    assert body == chunk("a") + comment("prefill") * 8 + chunk("x") * 8 + DONE


def test_silence_in_a_plain_answer_is_504(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", End.STALL])
    got = post(timed, "idle")
    assert (got.status_code, got.json()["error"]["code"]) == (504, "upstream_timeout")


def test_total_ends_a_plain_answer(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([End.STALL])
    got = post(timed, "total")
    assert (got.status_code, got.json()["error"]["code"]) == (504, "upstream_timeout")
    assert "timeouts.total" in got.json()["error"]["message"]
    settles(timed, "total")


def test_total_bounds_all_attempts_together(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([0.2, End.RESET], [End.STALL])
    got = post(timed, "total-two")
    assert (got.status_code, got.json()["error"]["code"]) == (504, "upstream_timeout")
    assert len(fakes.posts) == 2


def test_total_ends_a_steady_stream(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(events(*STEADY, DONE))
    body = post(timed, "total", stream=True).content
    assert body.startswith(chunk("x"))
    assert last_error(body) == "upstream_timeout"
    assert b"[DONE]" not in body


def test_timeouts_count_as_errors(timed: GatewayProcess, fakes: FakeServers) -> None:
    before = counted(timed, "idle-two").get("error", 0.0)
    fakes.script(events(chunk("a"), End.STALL))
    post(timed, "idle-two", stream=True)
    assert counted(timed, "idle-two")["error"] == before + 1


# --- waiting -------------------------------------------------------------------------------------


def test_caller_is_told_before_its_own_timeout(timed: GatewayProcess) -> None:
    """openai-python sends its read timeout; it hears the reason a second before that."""
    with (
        OpenAI(base_url=timed.base_url, api_key="k", max_retries=0, timeout=1.5) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model="starting", messages=HELLO)
    told = caught.value
    assert (told.status_code, told.code) == (503, "model_starting")
    assert told.type == "service_unavailable"
    assert 1 <= int(told.response.headers["retry-after"]) <= 60
    assert told.response.headers["x-lamplighter-reason"] == "model-starting"
    assert timed.admin("POST", "/models/starting/stop").status_code == 202


def test_wait_in_the_queue_ends_with_429(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([End.STALL])
    request = timed.http.build_request("POST", "/v1/chat/completions", json=chat("narrow"))
    with socket.create_connection(("127.0.0.1", timed.port)) as first:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        first.sendall(head % len(request.content) + request.content)
        fakes.arrived()
        got = post(timed, "narrow")
    assert (got.status_code, got.json()["error"]["code"]) == (429, "queue_timeout")
    assert got.json()["error"]["type"] == "rate_limit_error"
    assert int(got.headers["retry-after"]) >= 1
    assert "narrow" in got.json()["error"]["message"]


def test_full_queue_is_429_at_once(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([End.STALL])
    content = timed.http.build_request("POST", "/", json=chat("tiny")).content
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    address = ("127.0.0.1", timed.port)
    with socket.create_connection(address) as first, socket.create_connection(address) as second:
        first.sendall(request % len(content) + content)
        fakes.arrived()
        second.sendall(request % len(content) + content)
        got = post(timed, "tiny")
        while got.status_code == 200:  # the second had not joined the queue yet
            got = post(timed, "tiny")
    assert (got.status_code, got.json()["error"]["code"]) == (429, "saturated")
    assert int(got.headers["retry-after"]) >= 1


def test_long_answer_is_no_reason_to_end_others(timed: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script([End.STALL], answer({"ok": 1}))
    with socket.create_connection(("127.0.0.1", timed.port)) as hung:
        body = json.dumps(chat("idle")).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        hung.sendall(head % len(body) + body)
        fakes.arrived()
        assert post(timed, "idle").json() == {"ok": 1}
    settles(timed, "idle")
