"""A changed file is taken over whole or not at all; it disturbs nothing that it does not change."""

import os
import signal
from pathlib import Path

import pytest

from tests.cold.scenes import Crowd, ask, cold, error_of, gone, instances, ready, server_of, yaml
from tests.gateway import GatewayProcess, eventually, run_gateway


@pytest.fixture
def gateway(tmp_path: Path):
    models = {"kept": cold("--pace", "0.1"), "other": cold()}
    with run_gateway(tmp_path, yaml(models)) as running:
        yield running


def reload(gateway: GatewayProcess, models: dict, status: int = 200) -> dict:
    gateway.write(yaml(models))
    answer = gateway.admin("POST", "/reload")
    assert answer.status_code == status
    return answer.json()


def served(gateway: GatewayProcess) -> set[str]:
    return {m["id"] for m in gateway.http.get("/v1/models").json()["data"]}


def test_reload_leaves_unchanged_models_alone(gateway: GatewayProcess) -> None:
    ask(gateway, "kept", max_tokens=1)
    server = server_of(gateway, ready(gateway, "kept")[0])
    with Crowd(gateway, 1) as crowd:
        [stream] = crowd.streams(1, "kept", max_tokens=15)
        assert reload(gateway, {"kept": cold("--pace", "0.1"), "new": cold()})["ok"]
        assert served(gateway) == {"kept", "new"}
        assert ask(gateway, "new").status_code == 200
        assert ask(gateway, "other").status_code == 404
        assert not stream.done()  # or it proves nothing
        assert stream.result().whole
    assert server_of(gateway, ready(gateway, "kept")[0]) == server
    assert ask(gateway, "kept", max_tokens=1).headers["x-lamplighter-instance"] == "kept@1"


def test_reload_changes_idle_time_in_place(gateway: GatewayProcess) -> None:
    ask(gateway, "kept", max_tokens=1)
    ready(gateway, "kept")
    reload(gateway, {"kept": cold("--pace", "0.1", idle="200ms"), "other": cold()})
    gone(gateway, "kept")


def test_reload_of_a_changed_command_drains_the_old_server(gateway: GatewayProcess) -> None:
    ask(gateway, "kept", max_tokens=1)
    processes = gateway.children()
    with Crowd(gateway, 1) as crowd:
        [stream] = crowd.streams(1, "kept", max_tokens=15)
        reload(gateway, {"kept": cold("--pace", "0.01")})
        assert ask(gateway, "kept", max_tokens=1).status_code == 200  # by the new server
        assert not stream.done()
        assert stream.result().whole  # by the old one
    eventually(lambda: not any(p.is_running() for p in processes), 5, "the old server is gone")
    assert len(instances(gateway, "kept")) == 1


def test_reload_removing_a_model_stops_its_server_and_serves_who_waits(
    gateway: GatewayProcess,
) -> None:
    with Crowd(gateway, 1) as crowd:
        waiting = crowd.ask("other")
        eventually(lambda: instances(gateway, "other"))
        reload(gateway, {"kept": cold("--pace", "0.1")})
        assert waiting.result().status_code == 200
    eventually(lambda: not gateway.children(), 5, "its server is gone")


def test_reloads_under_load_disturb_no_call(gateway: GatewayProcess) -> None:
    """Other models come, go and change at every reload; `kept` never knows."""
    ask(gateway, "kept", max_tokens=1)
    server = server_of(gateway, ready(gateway, "kept")[0])
    kept = cold("--pace", "0.1")
    with Crowd(gateway, 4) as crowd:
        streams = crowd.streams(2, "kept", max_tokens=15)
        number = 0
        while not all(stream.done() for stream in streams):
            number += 1
            reload(gateway, {"kept": kept, f"new-{number}": cold(), "other": cold(idle="1m")})
            asked = crowd.ask("kept", max_tokens=1), crowd.ask(f"new-{number}")
            reload(gateway, {"kept": kept, "other": cold()})
            assert {call.result().status_code for call in asked} <= {200, 404}
            assert asked[0].result().headers["x-lamplighter-instance"] == "kept@1"
        assert all(stream.result().whole for stream in streams)
    assert number > 1
    assert server_of(gateway, ready(gateway, "kept")[0]) == server
    eventually(lambda: len(gateway.children()) == 2, 5, "only `kept` and its guard are left")


def test_bad_file_is_refused_whole_and_said_everywhere(gateway: GatewayProcess) -> None:
    gateway.write("models:\n  kept: {cold: {comand: x}}\n  fresh: {}\n")
    answer = gateway.admin("POST", "/reload")
    assert answer.status_code == 422
    errors = answer.json()["errors"]
    assert len(errors) >= 2
    assert all(f"{gateway.file}:" in error for error in errors)
    assert "did you mean 'command'?" in " ".join(errors)
    shown = gateway.admin("GET", "/config").json()["reload"]
    assert (shown["ok"], shown["errors"]) == (False, errors)
    assert "not taken over" in gateway.log
    assert "lamplighter_config_reload_failures_total 0.0" not in gateway.http.get("/metrics").text
    assert served(gateway) == {"kept", "other"}
    assert ask(gateway, "other").status_code == 200


def test_sighup_reloads(gateway: GatewayProcess) -> None:
    before = gateway.admin("GET", "/config").json()["reload"]["at"]
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: gateway.admin("GET", "/config").json()["reload"]["at"] > before)
    assert gateway.admin("GET", "/config").json()["reload"]["ok"]


def test_changed_file_is_taken_over_by_itself(gateway: GatewayProcess) -> None:
    gateway.write(yaml({"only": cold()}))
    eventually(lambda: served(gateway) == {"only"}, 5)


def test_link_that_is_swapped_as_kubernetes_does_is_a_change(tmp_path: Path) -> None:
    with run_gateway(tmp_path, yaml({"first": cold()})) as gateway:
        text = gateway.file.read_text()
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "gateway.yaml").write_text(text.replace("first", f"in-{name}"))
        link = tmp_path / "data"
        link.symlink_to("one")
        gateway.file.unlink()
        gateway.file.symlink_to("data/gateway.yaml")
        eventually(lambda: served(gateway) == {"in-one"}, 5)
        other = tmp_path / "data.new"
        other.symlink_to("two")
        os.replace(other, link)
        eventually(lambda: served(gateway) == {"in-two"}, 5)


def test_missing_file_leaves_everything_as_it_is(gateway: GatewayProcess) -> None:
    gateway.file.unlink()
    answer = gateway.admin("POST", "/reload")
    assert answer.status_code == 422
    assert "cannot read the file" in answer.json()["errors"][0]
    assert ask(gateway, "other").status_code == 200


def test_what_needs_a_restart_is_said(gateway: GatewayProcess) -> None:
    gateway.write("server: {port: 1}\n" + yaml({"kept": cold()}))
    notes = gateway.admin("POST", "/reload").json()["notes"]
    assert "server.port" in " ".join(notes)


def test_error_names_a_model_that_went(gateway: GatewayProcess) -> None:
    reload(gateway, {"kept": cold()})
    refused = ask(gateway, "other")
    assert error_of(refused)["code"] == "model_not_found"


def test_model_that_comes_back_numbers_its_instances_on(gateway: GatewayProcess) -> None:
    assert ask(gateway, "other").headers["x-lamplighter-instance"] == "other@1"
    reload(gateway, {"kept": cold("--pace", "0.1")})
    reload(gateway, {"kept": cold("--pace", "0.1"), "other": cold()})
    assert ask(gateway, "other").headers["x-lamplighter-instance"] == "other@2"
