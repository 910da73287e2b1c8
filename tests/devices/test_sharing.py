"""Four models on a device with room for two, as callers and operators see it."""

import json
import time
from typing import Any

import pytest

from tests.cold.scenes import LONG, Crowd, ask, error_of, gone, ready, yaml
from tests.devices.scenes import NAMES, ROOM_FOR_TWO, device, evicted, on_device, residents
from tests.gateway import GatewayProcess, eventually, run_gateway

SLOW = ("--pace", "0.1")


def start(folder: Any, models: dict[str, Any] | None = None, **more: Any) -> Any:
    found = models or {name: on_device() for name in NAMES}
    return run_gateway(folder, yaml(found, **{"devices": ROOM_FOR_TWO, **more}))


def metric(gateway: GatewayProcess, name: str) -> dict[str, float]:
    lines = [line for line in gateway.http.get("/metrics").text.splitlines() if name + "{" in line]
    return {line.split("{")[1].split("}")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with start(tmp_path_factory.mktemp("sharing")) as running:
        yield running


def test_an_idle_model_that_is_used_least_makes_room(gateway: GatewayProcess) -> None:
    for name in ("one", "one", "one", "two", "three"):
        assert ask(gateway, name).status_code == 200
    assert evicted(gateway) == ["two"]
    eventually(lambda: residents(gateway) == {"one", "three"})
    found = device(gateway)
    [eviction] = found["evictions"]
    assert found["used"] == found["memory"] == 32 * 2**30
    assert found["clock"] == eviction["priority"]
    assert eviction["in_favour_of"] == "three"
    assert eviction["to"] == "off"
    assert not eviction["served"]
    order = [(c["instance"], c["requests"]) for c in eviction["candidates"]]
    assert order == [("two@1", 1), ("one@1", 3)]
    assert metric(gateway, "lamplighter_evictions_total") == {'model="two",to="off"': 1.0}
    memory = metric(gateway, "lamplighter_device_memory_bytes")
    assert sum(memory.values()) == 32 * 2**30
    assert memory['device="gpu0",state="idle"'] == 32 * 2**30


def test_one_that_can_sleep_is_put_to_sleep_and_woken_while_host_memory_lasts(tmp_path) -> None:
    sleeps = {"level_1": {"share": 0.1, "wake": "1s"}}
    models = {name: on_device("--sleep-mode", sleep=sleeps) for name in NAMES[:3]}
    devices = {"gpu0": {"memory": "16GiB", "host_memory": "16GiB"}}
    with start(tmp_path, models, devices=devices) as gateway:
        for name in NAMES[:3]:
            assert ask(gateway, name).status_code == 200
        evictions = [(e["instance"], e["to"]) for e in device(gateway)["evictions"]]
        assert evictions == [("one@1", "sleep_1"), ("two@1", "off")]
        assert [each["instance"] for each in device(gateway)["asleep"]] == ["one@1"]
        memory = metric(gateway, "lamplighter_device_memory_bytes")
        assert memory['device="gpu0",state="asleep"'] == 16 * 2**30
        assert ask(gateway, "one").headers["x-lamplighter-instance"] == "one@1"
        assert residents(gateway) == {"one"}


def test_a_request_that_cannot_be_served_in_time_hears_what_it_waited_for(tmp_path) -> None:
    models = {name: on_device(*SLOW) for name in NAMES[:2]}
    models["late"] = on_device(max_wait="500ms")
    with start(tmp_path, models) as gateway, Crowd(gateway, 2) as crowd:
        ended = [crowd.streams(1, name, max_tokens=30)[0] for name in models if name != "late"]
        answer = ask(gateway, "late")
        assert answer.status_code == 503
        message = error_of(answer)["message"]
        assert "needs 16 GiB of the 32 GiB of device 'gpu0'" in message
        assert "one@1 has 16 GiB, in use" in message
        assert int(answer.headers["retry-after"]) >= 1
        assert all(each.result().whole for each in ended)
        assert evicted(gateway) == []
        assert device(gateway)["waiting"] == []


def test_who_waits_longest_has_its_turn_though_the_others_never_stop(tmp_path) -> None:
    models = {name: on_device(*SLOW) for name in NAMES[:2]}
    models["late"] = on_device()
    with start(tmp_path, models) as gateway, Crowd(gateway, 8) as crowd:
        begun_s = time.monotonic()
        over = begun_s + 6.0

        def keep_busy(name: str, tokens: int) -> list[int]:
            found = []
            while time.monotonic() < over:
                answer = ask(gateway, name, messages=LONG, max_tokens=tokens)
                found.append(answer.status_code)
            return found

        busy = [
            crowd.do(lambda n=name, t=tokens: keep_busy(n, t))
            for name in ("one", "two")
            for tokens in (7, 10, 13)  # never all at an end together
        ]
        eventually(lambda: residents(gateway) == {"one", "two"})
        assert ask(gateway, "late").status_code == 200
        assert time.monotonic() < over + 5
        for each in busy:
            assert set(each.result()) == {200}
        first = device(gateway)["evictions"][0]
        assert first["served"]
        assert first["in_favour_of"] == "late"


def test_a_model_that_moves_to_another_device_is_started_there(tmp_path) -> None:
    devices = {**ROOM_FOR_TWO, "gpu1": {"memory": "16GiB"}}
    models = {name: on_device() for name in NAMES[:3]}
    with start(tmp_path, models, devices=devices) as gateway:
        for name in ("one", "two"):
            ask(gateway, name)
        models["one"] = on_device(device="gpu1")
        gateway.write(yaml(models, devices=devices))
        assert gateway.admin("POST", "/reload").json()["ok"]
        eventually(lambda: residents(gateway) == {"two"})
        assert ask(gateway, "one").status_code == 200
        assert [r["model"] for r in device(gateway, "gpu1")["residents"]] == ["one"]
        assert ask(gateway, "three").status_code == 200
        assert evicted(gateway) == []
        assert residents(gateway) == {"two", "three"}


def test_a_device_that_shrinks_and_goes_evicts_and_frees(tmp_path) -> None:
    models = {name: on_device() for name in NAMES[:2]}
    with start(tmp_path, models) as gateway:
        for name in ("one", "two", "two"):
            ask(gateway, name)
        gateway.write(yaml(models, devices={"gpu0": {"memory": "20GiB"}}))
        assert gateway.admin("POST", "/reload").json()["ok"]
        gone(gateway, "one")
        assert evicted(gateway) == ["one"]
        ready(gateway, "two")
        free = {name: on_device(device=None, memory=None) for name in models}
        gateway.write(yaml(free))
        assert gateway.admin("POST", "/reload").json()["ok"]
        assert ask(gateway, "one").status_code == 200
        assert ask(gateway, "two").status_code == 200
        eventually(lambda: not [i for i in gateway.model("two")["instances"] if "@1" in i["id"]])


def test_models_that_are_held_ready_are_not_evicted_and_the_error_names_them(tmp_path) -> None:
    models = {name: on_device(placement={"pin": "always_on"}) for name in NAMES[:2]}
    models["late"] = on_device()
    with start(tmp_path, models) as gateway:
        ready(gateway, "one")
        ready(gateway, "two")
        eventually(lambda: all(r["held"] for r in device(gateway)["residents"]))
        answer = ask(gateway, "late")
        assert answer.status_code == 503, answer.text
        assert "two@1 has 16 GiB, held ready" in error_of(answer)["message"]
        assert answer.headers["retry-after"] == "60"
        assert evicted(gateway) == []


def test_admin_devices_asks_for_the_key(gateway: GatewayProcess) -> None:
    assert gateway.http.get("/admin/devices").status_code in (401, 403)
    assert json.loads(gateway.admin("GET", "/devices").text)["devices"][0]["device"] == "gpu0"
