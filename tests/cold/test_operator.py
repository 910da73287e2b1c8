"""What an operator does by hand: start, drain and stop models and instances, read their logs."""

from collections.abc import Iterator

import psutil
import pytest

from tests.cold.scenes import (
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
    "started": cold(),
    "drained": cold("--pace", "0.1"),
    "stopped": cold("--pace", "0.1"),
    "loading": cold("--never-ready", "--log", "reading the weights"),
    "one-of-two": cold("--pace", "0.3", max_instances=2, max_concurrency=1),
    "frozen": cold(stop_within="300ms"),
    "impatient": cold("--crash-at-load", "1"),
    "talking": cold("--log", "hello from the server"),
    "always-on": {"hot": {"urls": ["http://127.0.0.1:9/v1"], "check": {"every": "1h"}}},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with run_gateway(tmp_path_factory.mktemp("operator"), yaml(MODELS)) as running:
        yield running


def do(gateway: GatewayProcess, what: str) -> None:
    assert gateway.admin("POST", what).status_code == 202


def test_start_starts_one_server_however_often_it_is_asked(gateway: GatewayProcess) -> None:
    for _ in range(3):
        do(gateway, "/models/started/start")
    [instance] = ready(gateway, "started")
    do(gateway, "/models/started/start")
    answer = ask(gateway, "started")
    assert answer.headers["x-lamplighter-instance"] == instance["id"] == "started@1"
    assert answer.headers["x-lamplighter-cold-start"] == "false"
    assert launches(gateway, "started") == 1


@pytest.mark.parametrize("path", ["/models/drained", "/instances/{instance}"])
def test_drain_lets_streams_end_while_new_calls_get_a_new_server(
    gateway: GatewayProcess, path: str
) -> None:
    ask(gateway, "drained", max_tokens=1)
    [old] = ready(gateway, "drained")
    with Crowd(gateway, 2) as crowd:
        streams = crowd.streams(2, "drained", max_tokens=12)
        do(gateway, path.format(instance=old["id"]) + "/drain")
        new = ask(gateway, "drained", max_tokens=1)
        assert new.headers["x-lamplighter-instance"] != old["id"]
        assert all(stream.result().whole for stream in streams)
    eventually(lambda: [i["id"] for i in instances(gateway, "drained")] != [old["id"]])
    [left] = ready(gateway, "drained")
    assert left["id"] == new.headers["x-lamplighter-instance"]


@pytest.mark.parametrize("path", ["/models/stopped", "/instances/{instance}"])
def test_stop_ends_streams_with_an_error_event(gateway: GatewayProcess, path: str) -> None:
    ask(gateway, "stopped", max_tokens=1)
    [old] = ready(gateway, "stopped")
    pid = server_of(gateway, old)
    with Crowd(gateway, 2) as crowd:
        streams = crowd.streams(2, "stopped")
        do(gateway, path.format(instance=old["id"]) + "/stop")
        assert {stream.result().error["code"] for stream in streams} == {"response_lost"}
    gone(gateway, "stopped")
    assert not psutil.pid_exists(pid)
    assert gateway.model("stopped")["state"] == "off"


def test_stop_of_a_start_leaves_nothing(gateway: GatewayProcess) -> None:
    do(gateway, "/models/loading/start")
    log = "/instances/loading@1/log"
    eventually(lambda: "reading the weights" in gateway.admin("GET", log).text)
    do(gateway, "/models/loading/stop")
    gone(gateway, "loading")
    assert gateway.model("loading")["start"]["failure"] is None  # it was not the model's fault
    assert "reading the weights" in gateway.admin("GET", log).text


def test_stop_of_one_instance_leaves_the_other(gateway: GatewayProcess) -> None:
    with Crowd(gateway, 2) as crowd:
        calls = [crowd.ask("one-of-two") for _ in range(2)]
        assert {call.result().status_code for call in calls} == {200}
    first, second = ready(gateway, "one-of-two", 2)
    pid = server_of(gateway, second)
    do(gateway, f"/instances/{first['id']}/stop")
    assert [i["id"] for i in ready(gateway, "one-of-two")] == [second["id"]]
    assert server_of(gateway, second) == pid
    assert ask(gateway, "one-of-two").headers["x-lamplighter-instance"] == second["id"]


def test_frozen_server_is_killed_after_its_time(gateway: GatewayProcess) -> None:
    """One that was sent SIGSTOP does not even hear the SIGTERM."""
    ask(gateway, "frozen")
    server = psutil.Process(server_of(gateway, ready(gateway, "frozen")[0]))
    server.suspend()
    do(gateway, "/models/frozen/stop")
    gone(gateway, "frozen")
    assert not server.is_running()
    assert ask(gateway, "frozen").headers["x-lamplighter-instance"] == "frozen@2"


def test_start_by_hand_does_not_wait_for_the_pause_after_failures(gateway: GatewayProcess) -> None:
    assert ask(gateway, "impatient").status_code == 503
    before = launches(gateway, "impatient")
    assert ask(gateway, "impatient").status_code == 503
    assert launches(gateway, "impatient") == before  # it is the pause
    do(gateway, "/models/impatient/start")
    eventually(lambda: launches(gateway, "impatient") > before, 1, "it is tried at once")


def test_log_is_readable_while_the_server_runs_and_after_its_end(gateway: GatewayProcess) -> None:
    ask(gateway, "talking")
    path = "/instances/talking@1/log"
    assert gateway.admin("GET", path).text == "hello from the server\n"
    do(gateway, "/instances/talking@1/stop")
    gone(gateway, "talking")
    assert gateway.admin("GET", path).text == "hello from the server\n"
    refused = gateway.admin("POST", "/instances/talking@1/stop")
    assert (refused.status_code, error_of(refused)["code"]) == (404, "not_found")


def test_every_instance_is_listed_with_its_stages(gateway: GatewayProcess) -> None:
    ask(gateway, "started")
    listed = gateway.admin("GET", "/instances").json()["instances"]
    [instance] = [i for i in listed if i["id"] == "started@1"]
    assert list(instance["stages_s"]) == ["provisioning", "loading", "warming", "ready"]
    assert list(instance["stages_s"].values()) == sorted(instance["stages_s"].values())
    assert instance["in_flight"] == 0


def test_model_without_a_cold_part_cannot_be_started(gateway: GatewayProcess) -> None:
    refused = gateway.admin("POST", "/models/always-on/start")
    assert refused.status_code == 400
    assert "no 'cold' part" in error_of(refused)["message"]
