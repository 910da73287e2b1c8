"""Cold models whose servers can sleep, as a caller and an operator see them."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cold.scenes import Crowd, ask, cold, gone, instances, launches, ready, server_of, yaml
from tests.gateway import GatewayProcess, eventually, run_gateway

# Asleep after 0.22 s, and not off before 200 s: see docs/placement.md on how prices lead there.
LEVEL_1 = {"level_1": {"share": 0.1, "wake": "200ms"}}
LEVEL_2 = {"level_2": {"share": 0.1, "wake": "200ms"}}
BOTH = {"level_1": {"share": 0.5, "wake": "200ms"}, "level_2": {"share": 0.01, "wake": "600ms"}}


def sleepy(*options: str, sleep: Any = None, **more: Any) -> dict[str, Any]:
    prices = {"idle": "ski_rental", "jitter": 0, "gpu_hour": 1, "sleep": sleep or LEVEL_1}
    return {**cold("--sleep-mode", *options, **prices, **more), "delay_hour": 0}


MODELS = {
    "light": sleepy(),
    "deep": sleepy(sleep=LEVEL_2),
    "both": sleepy(sleep=BOTH),
    "crowded": sleepy("--wake-takes", "0.3"),
    "refusing": sleepy("--sleep-fault", "refuses"),
    "killed": sleepy(),
    "told": sleepy(),
    "stored": sleepy(),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with run_gateway(tmp_path_factory.mktemp("sleep"), yaml(MODELS)) as running:
        yield running


def asleep(gateway: GatewayProcess, model: str, rung: str = "sleep_1") -> dict[str, Any]:
    """Its one instance, once it sleeps."""

    def look() -> dict[str, Any] | None:
        found = [i for i in instances(gateway, model) if i["state"] == "sleeping"]
        reported = f"{found[0]['id']} is sleeping" in gateway.log if found else False
        return found[0] if reported and found[0]["rung"] == rung else None

    found: dict[str, Any] = eventually(look, 15, f"{model} sleeps")
    return found


def calls(gateway: GatewayProcess, instance_id: str) -> list[str]:
    """What its server was told about sleep."""
    log = gateway.admin("GET", f"/instances/{instance_id}/log", params={"lines": 1000}).text
    assert "ASKED WHILE ASLEEP" not in log
    return [line.partition("sleep mode: ")[2] for line in log.splitlines() if "sleep mode:" in line]


@pytest.mark.parametrize(("model", "rung"), [("light", "sleep_1"), ("deep", "sleep_2")])
def test_idle_model_sleeps_and_the_next_request_wakes_it(
    gateway: GatewayProcess, model: str, rung: str
) -> None:
    ask(gateway, model)
    assert gateway.model(model)["state"] in ("ready", "sleeping")
    asleep(gateway, model, rung)
    assert gateway.model(model)["state"] == "sleeping"
    answer = ask(gateway, model)
    assert answer.json()["choices"][0]["message"]["content"] == "hello over there"
    assert answer.headers["x-lamplighter-instance"] == f"{model}@1"
    assert answer.headers["x-lamplighter-cold-start"] == "true"
    assert len(gateway.model(model)["start"]["wakes_s"][rung]) == 1
    assert launches(gateway, model) == 1
    metrics = gateway.http.get("/metrics").text
    transitions = f'lamplighter_instance_transitions_total{{model="{model}",to="waking"}} 1.0'
    assert transitions in metrics
    assert f'lamplighter_wake_seconds_count{{model="{model}",rung="{rung}"}} 1.0' in metrics
    starts = f'lamplighter_cold_start_seconds_count{{model="{model}",stage="total"}} 1.0'
    assert starts in metrics  # a wake is none


def test_both_levels_are_gone_down_one_after_the_other(gateway: GatewayProcess) -> None:
    ask(gateway, "both")
    asleep(gateway, "both", "sleep_2")
    assert calls(gateway, "both@1") == ["/sleep?level=1", "/wake_up", "/sleep?level=2"]
    answer = ask(gateway, "both")
    assert answer.json()["choices"][0]["message"]["content"] == "hello over there"


def test_callers_who_come_at_once_are_all_served_by_one_wake(gateway: GatewayProcess) -> None:
    ask(gateway, "crowded")
    asleep(gateway, "crowded")
    with Crowd(gateway, 12) as crowd:
        answers = [crowd.ask("crowded") for _ in range(12)]
        assert {a.result().status_code for a in answers} == {200}
    assert calls(gateway, "crowded@1")[:2] == ["/sleep?level=1", "/wake_up"]


def test_engine_that_refuses_is_stopped_and_said_so_once(gateway: GatewayProcess) -> None:
    for number in (1, 2):
        answer = ask(gateway, "refusing")
        assert answer.headers["x-lamplighter-instance"] == f"refusing@{number}"
        gone(gateway, "refusing")
    assert gateway.log.count("cannot be put to sleep") == 1


def test_server_that_is_killed_asleep_is_replaced_for_the_next_caller(
    gateway: GatewayProcess,
) -> None:
    ask(gateway, "killed")
    instance = asleep(gateway, "killed")
    os.kill(server_of(gateway, instance), signal.SIGKILL)
    gone(gateway, "killed")
    assert gateway.model("killed")["state"] == "failed"
    assert ask(gateway, "killed").headers["x-lamplighter-instance"] == "killed@2"


def test_operator_who_starts_a_sleeping_model_wakes_it(gateway: GatewayProcess) -> None:
    ask(gateway, "told")
    asleep(gateway, "told")
    assert gateway.admin("POST", "/models/told/start").status_code == 202
    eventually(lambda: "told@1 is waking" in gateway.log, 15, "it wakes")
    ready(gateway, "told")
    assert gateway.admin("POST", "/models/told/stop").status_code == 202
    gone(gateway, "told")


def test_stored_response_wakes_the_server_that_keeps_it(gateway: GatewayProcess) -> None:
    body = {"model": "stored", "input": "hello"}
    stored = gateway.http.post("/v1/responses", json=body).json()["id"]
    asleep(gateway, "stored")
    answer = gateway.http.get(f"/v1/responses/{stored}")
    assert (answer.status_code, answer.json()["id"]) == (200, stored)
    assert launches(gateway, "stored") == 1


def test_reload_keeps_a_sleeper_and_a_new_level_works_on_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("reload")
    with run_gateway(folder, yaml({"m": sleepy()})) as gateway:
        ask(gateway, "m")
        asleep(gateway, "m")
        gateway.write(yaml({"m": sleepy(sleep=BOTH)}))
        assert gateway.admin("POST", "/reload").status_code == 200
        asleep(gateway, "m", "sleep_2")
        assert ask(gateway, "m").headers["x-lamplighter-instance"] == "m@1"
        asleep(gateway, "m", "sleep_2")
        # Without any level its dev routes are to go, and so is the server that has them.
        gateway.write(yaml({"m": {**sleepy(), "cold": {**sleepy()["cold"], "sleep": {}}}}))
        assert gateway.admin("POST", "/reload").status_code == 200
        assert ask(gateway, "m").headers["x-lamplighter-instance"] == "m@2"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_end_of_the_gateway_leaves_no_sleeper(
    tmp_path_factory: pytest.TempPathFactory, signum: signal.Signals
) -> None:
    with run_gateway(tmp_path_factory.mktemp("end"), yaml({"m": sleepy()})) as gateway:
        ask(gateway, "m")
        asleep(gateway, "m")
        processes = gateway.children()
        gateway.stop(signum)
        eventually(lambda: not any(p.is_running() for p in processes), 15, "all are gone")
