"""Servers that are started for a request and stopped after the last one."""

import contextlib
import json
import time

import httpx2
import psutil
import pytest

from tests.cold.scenes import (
    HELLO,
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

MODELS = {
    "crowd": cold("--ready-after", "0.4"),
    "left": cold("--ready-after", "0.8"),
    "brief": cold(idle="300ms"),
    "long": cold("--pace", "0.1", idle="300ms"),
    "racing": cold(idle="20ms"),
    "wide": cold("--pace", "0.3", max_instances=3, max_concurrency=1),
    "narrow": cold("--ready-after", "1", queue={"requests": 2, "bytes": "1KiB"}),
    "slow": cold("--ready-after", "2"),
    "held": cold("--ready-after", "1.5", keepalive={"grace": "100ms", "every": "200ms"}),
    "operated": cold(),
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
    begun = time.monotonic()
    got = ask(gateway, "long", stream=True, max_tokens=20)
    assert got.text.endswith("data: [DONE]\n\n")
    assert time.monotonic() - begun > 0.5  # longer than `idle`, or it proves nothing
    assert launches(gateway, "long") == 1
    gone(gateway, "long")


def test_calls_at_the_instant_of_stopping_are_all_served(gateway: GatewayProcess) -> None:
    for n in range(40):
        assert ask(gateway, "racing").status_code == 200
        time.sleep(0.015 + (n % 10) * 0.001)  # around the idle time, which is what is tested
    assert launches(gateway, "racing") > 1


def test_more_servers_come_when_the_queue_asks_for_them(gateway: GatewayProcess) -> None:
    with Crowd(gateway, 9) as crowd:
        calls = [crowd.ask("wide", max_tokens=2) for _ in range(9)]
        answers = [call.result() for call in calls]
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


def test_plain_caller_is_told_before_its_own_time_is_over(gateway: GatewayProcess) -> None:
    refused = ask(gateway, "slow", headers={"x-stainless-read-timeout": "1.2"})
    assert (refused.status_code, error_of(refused)["code"]) == (503, "model_starting")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-lamplighter-reason"] == "model-starting"
    assert ask(gateway, "slow").headers["x-lamplighter-instance"] == "slow@1"  # it went on
    assert launches(gateway, "slow") == 1


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


def test_operator_starts_drains_and_reads_the_log(gateway: GatewayProcess) -> None:
    assert gateway.admin("POST", "/models/operated/start").status_code == 202
    instance = ready(gateway, "operated")[0]
    assert gateway.admin("GET", f"/instances/{instance['id']}/log").status_code == 200
    assert gateway.admin("POST", f"/instances/{instance['id']}/drain").status_code == 202
    gone(gateway, "operated")
    assert gateway.admin("GET", f"/instances/{instance['id']}/log").status_code == 200
    assert ask(gateway, "operated").status_code == 200
    assert gateway.admin("POST", "/models/operated/stop").status_code == 202
    gone(gateway, "operated")


def test_gauges_return_to_zero(gateway: GatewayProcess) -> None:
    page = gateway.http.get("/metrics").text
    for metric in ("inflight_requests", "queue_depth"):
        lines = [x for x in page.splitlines() if x.startswith(f"lamplighter_{metric}{{")]
        assert len(lines) == len(MODELS)
        assert {line.rsplit(" ", 1)[1] for line in lines} == {"0.0"}
    assert 'lamplighter_cold_start_seconds_count{model="crowd",stage="total"} 1.0' in page


def test_sigterm_stops_every_server(tmp_path) -> None:
    models = {"a": cold("--with-child"), "b": cold("--ignore-sigterm", stop_within="300ms")}
    with run_gateway(tmp_path, yaml(models)) as gateway:
        ask(gateway, "a")
        ask(gateway, "b")
        processes = gateway.children()
        assert len(processes) == 5  # two guards, two servers, one child of a server
        assert gateway.stop() == 0
        assert not any(p.is_running() for p in processes)


def test_kill_9_of_the_gateway_leaves_no_server(tmp_path) -> None:
    with run_gateway(tmp_path, yaml({"a": cold("--with-child", "--ignore-sigterm")})) as gateway:
        ask(gateway, "a")
        processes = gateway.children()
        assert len(processes) == 3
        gateway.process.kill()
        gateway.process.wait()
        eventually(lambda: not any(p.is_running() for p in processes), 3, "they died with it")


def test_key_that_a_server_was_given_is_asked_of_nobody_else(tmp_path) -> None:
    models = {"keyed": cold(env={"FAKE_API_KEY": "{key}"})}
    with run_gateway(tmp_path, yaml(models)) as gateway:
        assert ask(gateway, "keyed").status_code == 200
        url = instances(gateway, "keyed")[0]["url"]
        assert httpx2.get(f"{url}/models", trust_env=False).status_code == 401
        assert "FAKE_API_KEY" in json.dumps(gateway.admin("GET", "/config").json())
