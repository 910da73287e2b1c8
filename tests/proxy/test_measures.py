"""What a running gateway has measured, as operators see it, over restarts and over workers."""

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cold.scenes import cold
from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import chat, model, yaml

HOUR_USD = 36.0  # a cent a second
KEY = "sk-the-key-of-the-api"


def models(fakes: FakeServers) -> dict[str, Any]:
    url = fakes.urls[0]
    return {
        "cold": cold(gpu_hour=HOUR_USD),
        "eager": {**model([url], served_as="fake"), "priority": "low"},
        "pool": model([{"url": url, "gpu_hour": HOUR_USD}], served_as="fake"),  # type: ignore[list-item]
        "outside": {
            "served_as": "fake",
            "api": {"url": url, "key": KEY, "price": {"input": 1000, "output": 2000}},
        },
    }


def text(fakes: FakeServers, folder: Path, **store: str) -> str:
    return yaml(models(fakes), store={"path": str(folder / "kept.db"), **store})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measures")


@pytest.fixture(scope="module")
def measured(fake_servers: FakeServers, folder: Path) -> Iterator[GatewayProcess]:
    with run_gateway(folder, text(fake_servers, folder)) as running:
        for name in ("cold", "pool", "outside"):
            assert ask(running, name).status_code == 200
            ask(running, name, stream=True)
        yield running


def ask(gateway: GatewayProcess, name: str, **more: Any) -> Any:
    return gateway.http.post("/v1/chat/completions", json=chat(name, **more))


def demand(gateway: GatewayProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any] = gateway.admin("GET", f"/demand/{name}").json()
    return found


def spend(gateway: GatewayProcess) -> dict[str, Any]:
    found: dict[str, Any] = gateway.admin("GET", "/spend").json()
    return found


def spent(gateway: GatewayProcess, name: str, kind: str) -> float:
    """Today, as of the last second."""
    days = spend(gateway)["days"]
    return float(days[0]["models"].get(name, {}).get(kind, 0.0)) if days else 0.0


def rows(folder: Path, name: str = "kept.db") -> list[tuple[Any, ...]]:
    database = sqlite3.connect(folder / name)
    try:
        columns = "model, placement, cold, input_tokens, output_tokens, usd, outcome, time"
        return database.execute(f"SELECT {columns} FROM requests ORDER BY time").fetchall()
    finally:
        database.close()


def samples(gateway: GatewayProcess) -> dict[str, float]:
    """By name and labels, the model first."""
    found = {}
    for family in text_string_to_metric_families(gateway.http.get("/metrics").text):
        for sample in family.samples:
            labels = [sample.labels.pop("model", ""), *sample.labels.values()]
            found[" ".join([sample.name, *filter(None, labels)])] = sample.value
    return found


def test_demand_of_a_model_is_shown(measured: GatewayProcess) -> None:
    eventually(lambda: demand(measured, "cold")["rates"]["1m"]["requests_per_s"], 15)
    found = demand(measured, "cold")
    assert found["model"] == "cold"
    assert found["rates"]["5m"]["arrivals"] == {"normal": 2}
    assert found["rates"]["5m"]["output_tokens_per_s"] > 0
    assert found["in_flight"] == 0
    assert found["peak_5m"] >= 1
    assert found["idle_s"] > 0
    assert len(found["hours"]) == 168
    assert set(found["starts"]) == {"provisioning", "loading", "warming", "total"}
    assert found["first_token"]["hot"]["count"] == 1
    short = measured.model("cold")["demand"]
    assert set(found) - set(short) == {"model", "gaps", "hours"}


def test_arrivals_are_counted_by_the_priority_that_was_asked_for(measured: GatewayProcess) -> None:
    ask(measured, "eager")
    headers = {"x-lamplighter-priority": "high"}
    measured.http.post("/v1/chat/completions", json=chat("eager"), headers=headers)
    found = samples(measured)
    assert found["lamplighter_arrivals_total eager low"] == 1
    assert found["lamplighter_arrivals_total eager high"] == 1


def test_spend_is_shown_by_kind(measured: GatewayProcess) -> None:
    eventually(lambda: spent(measured, "cold", "holding") > 0, 5)
    assert spent(measured, "cold", "starting") > 0
    assert spent(measured, "cold", "serving") > 0
    assert spent(measured, "pool", "holding") > 0
    usage = ask(measured, "outside").json()["usage"]
    each = (usage["prompt_tokens"] * 1000 + usage["completion_tokens"] * 2000) / 1e6
    eventually(lambda: spent(measured, "outside", "api") >= 3 * each - 1e-9, 5)
    assert spent(measured, "outside", "api") == pytest.approx(3 * each)
    found = spend(measured)
    assert found["today_usd"] == pytest.approx(found["days"][0]["usd"], abs=0.05)
    assert found["days"][0]["day"] in {
        time.strftime("%Y-%m-%d", time.gmtime(time.time() + late)) for late in (0, -60)
    }
    state = measured.model("outside")
    assert state["spend_today_usd"]["api"] == pytest.approx(3 * each)


def test_metrics_tell_arrivals_rates_and_spend(measured: GatewayProcess) -> None:
    eventually(lambda: "lamplighter_spend_usd_total cold holding" in samples(measured), 5)
    found = samples(measured)
    assert found["lamplighter_arrivals_total cold normal"] == 2
    assert found["lamplighter_spend_usd_total cold starting"] > 0
    assert found["lamplighter_spend_today_usd pool"] > 0
    assert "lamplighter_request_rate cold 1h" in found
    assert found["lamplighter_store_errors_total"] == 0
    assert found["lamplighter_store_rows_dropped_total"] == 0


def test_store_has_every_request_and_no_word_of_it(measured: GatewayProcess, folder: Path) -> None:
    before = len(rows(folder))
    ask(measured, "cold", stream=True)
    eventually(lambda: len(rows(folder)) > before, 10)
    found = [row for row in rows(folder) if row[0] == "cold"]
    assert [row[:3] for row in found[:2]] == [("cold", "cold", 1), ("cold", "cold", 0)]
    assert {row[6] for row in found} == {"ok"}
    assert all(row[3] and row[4] for row in found)
    assert abs(found[-1][7] - time.time()) < 60
    for file in folder.glob("kept.db*"):
        content = file.read_bytes()
        assert b"hello" not in content
        assert KEY.encode() not in content


def test_killed_gateway_knows_it_all_again(fake_servers: FakeServers, tmp_path: Path) -> None:
    with run_gateway(tmp_path, text(fake_servers, tmp_path)) as gateway:
        ask(gateway, "outside")
        ask(gateway, "cold")
        eventually(lambda: len(rows(tmp_path)) == 2, 10)
        eventually(lambda: spent(gateway, "cold", "holding") > 0.02, 10)  # two seconds of it
        api = spent(gateway, "outside", "api")
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
    with run_gateway(tmp_path, text(fake_servers, tmp_path)) as gateway:
        assert spent(gateway, "outside", "api") == pytest.approx(api)
        assert spent(gateway, "cold", "starting") > 0
        assert demand(gateway, "cold")["starts"]["total"]["count"] == 1
        assert gateway.stop() == 0
    assert len(rows(tmp_path)) == 2


def test_workers_tell_their_requests_and_what_an_api_charged(
    fake_servers: FakeServers, tmp_path: Path
) -> None:
    with run_gateway(tmp_path, text(fake_servers, tmp_path), workers=2) as gateway:
        for _ in range(6):  # on several connections, so that both workers have some
            gateway.http.close()
            gateway.http = type(gateway.http)(base_url=gateway.url, timeout=30.0, trust_env=False)
            usage = ask(gateway, "outside").json()["usage"]
            ask(gateway, "pool", stream=True)
        ask(gateway, "cold")
        each = (usage["prompt_tokens"] * 1000 + usage["completion_tokens"] * 2000) / 1e6
        eventually(lambda: len(rows(tmp_path)) == 13, 10)
        eventually(lambda: spent(gateway, "outside", "api") >= 6 * each - 1e-9, 5)
        assert spent(gateway, "outside", "api") == pytest.approx(6 * each)
        assert samples(gateway)["lamplighter_arrivals_total outside normal"] == 6
        eventually(lambda: demand(gateway, "pool")["first_token"], 5)
        assert demand(gateway, "pool")["first_token"]["hot"]["count"] == 6
        for worker in gateway.workers():
            worker.kill()
        time.sleep(1.5)
        assert spent(gateway, "outside", "api") == pytest.approx(6 * each)
        assert gateway.stop() == 0
    assert sum(row[5] for row in rows(tmp_path)) == pytest.approx(6 * each)


def test_second_gateway_on_one_file_goes_on_in_memory(
    measured: GatewayProcess, fake_servers: FakeServers, folder: Path, tmp_path: Path
) -> None:
    with run_gateway(tmp_path, text(fake_servers, folder)) as second:
        assert ask(second, "pool").status_code == 200
        assert f"{folder / 'kept.db'} cannot be used: another gateway uses it" in second.log
        assert samples(second)["lamplighter_store_errors_total"] == 1
        eventually(lambda: spent(second, "pool", "holding") > 0, 5)


def test_other_path_needs_a_restart(
    measured: GatewayProcess, fake_servers: FakeServers, folder: Path, tmp_path: Path
) -> None:
    measured.write(text(fake_servers, tmp_path))
    try:
        notes = measured.admin("POST", "/reload").json()["notes"]
        assert notes == ["store.path changes only at the next start"]
        assert json.loads(measured.admin("GET", "/config").text)["config"]["store"]["path"]
        assert not list(tmp_path.glob("kept.db*"))
    finally:
        measured.write(text(fake_servers, folder))
        measured.admin("POST", "/reload")
