"""Servers that are started for a request and stopped after the last one."""

import contextlib
import json
import time
from typing import Any

import httpx2
import psutil
import pytest
from openai import OpenAI

from tests.cold.scenes import (
    HELLO,
    LONG,
    Crowd,
    ask,
    cold,
    error_of,
    gone,
    instances,
    launches,
    ready,
    server_of,
    yaml,
)
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import counted, settles

MODELS = {
    "crowd": cold("--ready-after", "0.4"),
    "left": cold("--ready-after", "0.8"),
    "brief": cold(idle="300ms"),
    "long": cold("--pace", "0.1", idle="200ms"),
    "loading": cold("--ready-after", "0.8", idle="100ms"),
    "leaving": cold("--pace", "0.2", idle="200ms"),
    "racing": cold(idle="20ms"),
    "wide": cold("--pace", "0.3", max_instances=3, max_concurrency=1),
    "narrow": cold("--ready-after", "1", queue={"requests": 2, "bytes": "1MiB"}),
    "small": cold("--ready-after", "1", queue={"requests": 9, "bytes": "2KiB"}),
    "slow": cold("--ready-after", "2"),
    "held": cold("--ready-after", "1.5", keepalive={"grace": "100ms", "every": "200ms"}),
    "replaced": cold("--ready-after", "30", max_wait="300ms", fallback=["crowd"]),
    "hurried": cold("--ready-after", "30", max_wait="300ms"),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with run_gateway(tmp_path_factory.mktemp("starts"), yaml(MODELS)) as running:
        yield running


def test_forty_first_calls_share_one_start(gateway: GatewayProcess) -> None:
    with Crowd(gateway, 40) as crowd:
        calls = [crowd.ask("crowd", stream=bool(n % 2)) for n in range(40)]
        answers = [call.result() for call in calls]
    assert {a.status_code for a in answers} == {200}
    assert {a.headers["x-lamplighter-instance"] for a in answers} == {"crowd@1"}
    assert {a.headers["x-lamplighter-cold-start"] for a in answers} == {"true"}
    assert all(int(a.headers["x-lamplighter-wait-ms"]) > 0 for a in answers)
    assert launches(gateway, "crowd") == 1
    assert ask(gateway, "crowd").headers["x-lamplighter-cold-start"] == "false"


def test_callers_who_leave_while_they_wait_are_out_of_the_queue(gateway: GatewayProcess) -> None:
    body = {"model": "left", "messages": HELLO}
    clients = [httpx2.Client(base_url=gateway.url, trust_env=False) for _ in range(3)]
    with Crowd(gateway, 6) as crowd:
        stays = crowd.ask("left")
        leaving = [
            crowd.do(lambda c=c: c.post("/v1/chat/completions", json=body, timeout=0.3))
            for c in clients
        ]
        eventually(lambda: gateway.model("left")["waiting"] == 4)
        for call in leaving:
            with pytest.raises(httpx2.TimeoutException):
                call.result()
        for client in clients:
            client.close()
        eventually(lambda: gateway.model("left")["waiting"] == 1, 1, "only one still waits")
        assert stays.result().status_code == 200
    settles(gateway, "left")
    assert counted(gateway, "left") == {"cancelled": 3, "ok": 1}
    assert counted(gateway, "left", "upstream_attempts", "result") == {"2xx": 1}


def test_nothing_is_launched_again_for_callers_who_left(tmp_path) -> None:
    models = {"gone": cold("--listen-after", "0.5", "--crash-at-load", "1")}
    with run_gateway(tmp_path, yaml(models)) as gateway:
        with contextlib.suppress(httpx2.TimeoutException):
            body = {"model": "gone", "messages": HELLO}
            gateway.http.post("/v1/chat/completions", json=body, timeout=0.2)
        gone(gateway, "gone")
        assert launches(gateway, "gone") == 1


def test_idle_server_is_gone_with_its_process(gateway: GatewayProcess) -> None:
    assert ask(gateway, "brief").status_code == 200
    process = psutil.Process(server_of(gateway, ready(gateway, "brief")[0]))
    gone(gateway, "brief")
    assert not process.is_running()
    assert gateway.model("brief")["state"] == "off"
    assert ask(gateway, "brief").headers["x-lamplighter-instance"] == "brief@2"


def test_idle_time_counts_from_the_last_byte_of_a_long_stream(gateway: GatewayProcess) -> None:
    ask(gateway, "long", max_tokens=1)
    with Crowd(gateway, 1) as crowd:
        stream, ended = crowd.stream("long", max_tokens=15)  # 1.5 s, many times `idle`
        assert stream.begun.wait(5)
        pid = server_of(gateway, ready(gateway, "long")[0])
        assert ended.result().whole
    ended_s = time.monotonic()
    gone(gateway, "long")
    assert time.monotonic() - ended_s > 0.15  # `idle`, less the time in which the test noticed
    assert not psutil.pid_exists(pid)
    assert launches(gateway, "long") == 1


def test_server_is_not_unloaded_while_it_loads(gateway: GatewayProcess) -> None:
    """Loading takes many times `idle`, and who asked for it has left."""
    with contextlib.suppress(httpx2.TimeoutException):
        body = {"model": "loading", "messages": HELLO}
        gateway.http.post("/v1/chat/completions", json=body, timeout=0.2)
    assert ask(gateway, "loading").headers["x-lamplighter-instance"] == "loading@1"
    assert launches(gateway, "loading") == 1


def test_callers_who_leave_their_streams_let_the_server_go_idle(gateway: GatewayProcess) -> None:
    body = {"model": "leaving", "messages": LONG, "stream": True}  # 40 s of it
    with contextlib.ExitStack() as stack:
        reading = []  # an iterator that is dropped closes its stream
        for _ in range(5):
            client = stack.enter_context(httpx2.Client(base_url=gateway.url, trust_env=False))
            stream = stack.enter_context(client.stream("POST", "/v1/chat/completions", json=body))
            reading.append(stream.iter_raw())
            next(reading[-1])
        assert gateway.model("leaving")["in_flight"] == 5
    eventually(lambda: gateway.model("leaving")["in_flight"] == 0, 1, "nothing is in flight")
    gone(gateway, "leaving")
    assert counted(gateway, "leaving") == {"cancelled": 5}


def test_calls_at_the_instant_of_stopping_are_all_served(gateway: GatewayProcess) -> None:
    for n in range(40):
        assert ask(gateway, "racing").status_code == 200
        time.sleep(0.015 + (n % 10) * 0.001)  # around the idle time, which is what is tested
    assert launches(gateway, "racing") > 1


def test_more_servers_come_when_the_queue_asks_for_them(gateway: GatewayProcess) -> None:
    with Crowd(gateway, 9) as crowd:
        calls = [crowd.ask("wide", max_tokens=2) for _ in range(9)]
        busiest = 0
        while not all(call.done() for call in calls):
            busiest = max(busiest, *(i["in_flight"] for i in instances(gateway, "wide")), 0)
        answers = [call.result() for call in calls]
    assert busiest == 1
    assert {a.status_code for a in answers} == {200}
    assert {a.headers["x-lamplighter-instance"] for a in answers} == {"wide@1", "wide@2", "wide@3"}
    assert launches(gateway, "wide") == 3


def test_queue_is_bounded_in_requests(gateway: GatewayProcess) -> None:
    with Crowd(gateway, 5) as crowd:
        waiting = [crowd.ask("narrow") for _ in range(2)]
        eventually(lambda: gateway.model("narrow")["waiting"] == 2)
        refused = ask(gateway, "narrow")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "saturated")
        assert int(refused.headers["retry-after"]) >= 1
        assert {call.result().status_code for call in waiting} == {200}


def test_queue_is_bounded_in_bytes(gateway: GatewayProcess) -> None:
    large: Any = [{"role": "user", "content": "x" * 1500}]
    with Crowd(gateway, 2) as crowd:
        waiting = crowd.ask("small", messages=large)
        eventually(lambda: gateway.model("small")["waiting"] == 1)
        refused = ask(gateway, "small", messages=large)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "saturated")
        assert int(refused.headers["retry-after"]) >= 1
        assert "bytes" in error_of(refused)["message"]
        beside = crowd.ask("small")  # there is room for a small one
        assert {waiting.result().status_code, beside.result().status_code} == {200}
    assert ask(gateway, "small", messages=large).status_code == 200


def test_plain_caller_is_told_before_its_own_time_is_over(gateway: GatewayProcess) -> None:
    refused = ask(gateway, "slow", headers={"x-stainless-read-timeout": "1.2"})
    assert (refused.status_code, error_of(refused)["code"]) == (503, "model_starting")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-lamplighter-reason"] == "model-starting"
    assert ask(gateway, "slow").headers["x-lamplighter-instance"] == "slow@1"  # it went on
    assert launches(gateway, "slow") == 1


def test_impatient_stream_hears_something_in_time(gateway: GatewayProcess) -> None:
    """One whose client gives up after a second without a byte, while the start takes two."""
    gateway.admin("POST", "/models/slow/stop")
    gone(gateway, "slow")
    with OpenAI(base_url=gateway.base_url, api_key="x", max_retries=0, timeout=1.0) as client:
        stream = client.chat.completions.create(
            model="slow", messages=HELLO, stream=True, max_tokens=2
        )
        assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices)


def test_fallback_that_is_ready_answers_when_the_wait_is_over(gateway: GatewayProcess) -> None:
    assert ask(gateway, "crowd").status_code == 200
    got = ask(gateway, "replaced")
    assert got.status_code == 200
    assert got.headers["x-lamplighter-model"] == "crowd"
    assert int(got.headers["x-lamplighter-wait-ms"]) >= 300
    gateway.admin("POST", "/models/replaced/stop")
    gone(gateway, "replaced")


def test_thirty_instances_at_once_all_serve(tmp_path) -> None:
    models = {"many": cold(max_instances=30, max_concurrency=1)}
    with run_gateway(tmp_path, yaml(models)) as gateway, Crowd(gateway, 30) as crowd:
        calls = [crowd.ask("many", max_tokens=1) for _ in range(30)]
        assert {call.result().status_code for call in calls} == {200}


def test_policy_bounds_the_wait_of_a_stream_too(gateway: GatewayProcess) -> None:
    refused = ask(gateway, "hurried", stream=True)
    assert (refused.status_code, error_of(refused)["code"]) == (503, "model_starting")
    gateway.admin("POST", "/models/hurried/stop")
    gone(gateway, "hurried")


def test_stream_is_kept_awake_while_its_model_starts(gateway: GatewayProcess) -> None:
    got = ask(gateway, "held", stream=True, max_tokens=3)
    assert got.status_code == 200
    comments, _, events = got.text.partition("data: ")
    lines = [line for line in comments.splitlines() if line]
    assert len(lines) >= 2
    assert all(line.startswith(": starting model=held stage=") for line in lines)
    assert events.endswith("data: [DONE]\n\n")
    assert ": starting" not in events


def test_gauges_return_to_zero(gateway: GatewayProcess) -> None:
    page = gateway.http.get("/metrics").text
    for metric in ("inflight_requests", "queue_depth"):
        lines = [x for x in page.splitlines() if x.startswith(f"lamplighter_{metric}{{")]
        assert len(lines) == len(MODELS)
        assert {line.rsplit(" ", 1)[1] for line in lines} == {"0.0"}
    assert 'lamplighter_cold_start_seconds_count{model="crowd",stage="total"} 1.0' in page


def test_key_that_a_server_was_given_is_asked_of_nobody_else(tmp_path) -> None:
    models = {"keyed": cold(env={"FAKE_API_KEY": "{key}"})}
    with run_gateway(tmp_path, yaml(models)) as gateway:
        assert ask(gateway, "keyed").status_code == 200
        url = instances(gateway, "keyed")[0]["url"]
        assert httpx2.get(f"{url}/models", trust_env=False).status_code == 401
        assert "FAKE_API_KEY" in json.dumps(gateway.admin("GET", "/config").json())
