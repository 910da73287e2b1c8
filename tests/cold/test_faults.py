"""Servers that cannot be started, or die, or hang: what their callers hear, and who else does."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.cold.scenes import (
    Crowd,
    Stream,
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
from tests.proxy.scenes import counted

LAST_WORDS = "CUDA out of memory at layer 17"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("faults")
    script = folder / "not-executable"
    script.write_text("#!/bin/sh\n")
    # On a busy machine the reason may come later than a stream's first comment would.
    patient = {"keepalive": {"grace": "20s"}}
    never = {"start_within": "600ms", **patient}
    models = {
        "missing": cold(command=["no-such-program", "{port}"], **patient),
        "forbidden": cold(command=[str(script), "{port}"], **patient),
        "crashing": cold("--log", LAST_WORDS, "--crash-at-load", "7", **patient),
        "silent": cold("--log", "loading for ever", "--never-listen", **never),
        "loading": cold("--log", "still 503", "--never-ready", **never),
        "stranger": cold("--model", "somebody-else", **patient),
        "recovers": cold(command=_fails_first(2, folder / "recovers")),
        "mended": cold(command=_fails_first(3, folder / "mended")),
        "late": cold(
            *("--log", LAST_WORDS, "--listen-after", "0.4", "--crash-at-load", "7"),
            keepalive={"grace": "100ms", "every": "100ms"},
        ),
        "wanders": cold("--never-ready", start_within="1s", fallback=["fine"]),
        "fine": cold(),
        "killed": cold("--pace", "0.2"),
        "poisoned": cold("--crash-on", "3"),
        "streams": cold("--pace", "0.2"),
        "stopped": cold(timeouts={"first_byte": "500ms"}),
        "frozen": cold(timeouts={"first_byte": "500ms"}, max_wait="60s"),
        "freezing": cold("--pace", "0.1", timeouts={"idle": "500ms"}),
        "guarded": cold("--with-child"),
    }
    with run_gateway(folder, yaml(models)) as running:
        yield running


def _fails_first(times: int, mark: Path) -> list[str]:
    """A shell script whose first runs crash; the others become the fake server."""
    command = " ".join(cold()["cold"]["command"]).replace("{port}", "$1")
    count = f"n=$(cat {mark} 2>/dev/null || echo 0); echo $((n+1)) > {mark}"
    crash = f"if [ $n -lt {times} ]; then echo crash $n; exit 1; fi"
    return ["sh", "-c", f"{count}; {crash}; exec {command}", "sh", "{port}"]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("missing", "no such command: no-such-program"),
        ("forbidden", "permission denied"),
        ("crashing", LAST_WORDS),
        ("silent", "loading for ever"),
        ("loading", "still 503"),
        ("stranger", "it serves somebody-else but not fake"),
    ],
)
def test_every_waiter_hears_why_its_model_cannot_be_started(gateway, model, says):
    begun = time.monotonic()
    with Crowd(gateway, 5) as crowd:
        bad = [crowd.ask(model, stream=bool(n % 2)) for n in range(4)]
        good = crowd.ask("fine")
        for call in bad:
            refused = call.result()
            assert (refused.status_code, error_of(refused)["code"]) == (503, "model_unavailable")
            message = error_of(refused)["message"]
            assert f"model '{model}'" in message
            assert says in message
            assert int(refused.headers["retry-after"]) >= 1
        assert good.result().status_code == 200
    assert time.monotonic() - begun < 15
    gone(gateway, model)
    assert gateway.model(model)["state"] == "failed"
    again = ask(gateway, model)  # within the pause: the same words, and no new process
    assert says in error_of(again)["message"]


def test_crash_at_load_is_tried_again_unseen_by_the_caller(gateway: GatewayProcess) -> None:
    got = ask(gateway, "recovers")
    assert got.status_code == 200
    assert got.headers["x-lamplighter-instance"] == "recovers@3"
    assert launches(gateway, "recovers") == 3


def test_start_that_failed_is_tried_again_after_its_pause(gateway: GatewayProcess) -> None:
    refused = ask(gateway, "mended")
    assert (refused.status_code, error_of(refused)["code"]) == (503, "model_unavailable")
    assert "crash 2" in error_of(refused)["message"]
    assert gateway.model("mended")["start"]["failure"] is not None
    pause_s = int(refused.headers["retry-after"])
    begun_s = time.monotonic()
    eventually(lambda: ask(gateway, "mended").status_code == 200, pause_s + 5, "it answers")
    assert time.monotonic() - begun_s > pause_s - 1.1  # whole seconds, rounded up
    assert launches(gateway, "mended") == 4
    assert gateway.model("mended")["start"]["failure"] is None


def test_failure_after_comments_is_an_error_event_with_the_last_words(
    gateway: GatewayProcess,
) -> None:
    stream = Stream(gateway, "late").read()
    assert stream.text.startswith(": starting model=late ")
    assert stream.error["code"] == "model_unavailable"
    assert "model 'late'" in stream.error["message"]
    assert LAST_WORDS in stream.error["message"]


def test_fallback_answers_when_a_model_cannot_be_started(gateway: GatewayProcess) -> None:
    got = ask(gateway, "wanders")
    assert got.status_code == 200
    assert got.headers["x-lamplighter-model"] == "fine"


def test_killed_server_without_a_byte_sent_is_replaced_unseen(gateway: GatewayProcess) -> None:
    ask(gateway, "killed", max_tokens=1)
    victim = server_of(gateway, ready(gateway, "killed")[0])
    with Crowd(gateway, 8) as crowd:
        calls = [crowd.ask("killed", max_tokens=3) for _ in range(8)]
        eventually(lambda: gateway.model("killed")["in_flight"] == 8)
        os.kill(victim, signal.SIGKILL)
        answers = [call.result() for call in calls]
    assert {a.status_code for a in answers} == {200}
    assert {a.headers["x-lamplighter-instance"] for a in answers} == {"killed@2"}
    assert {a.headers["x-lamplighter-attempts"] for a in answers} == {"2"}


def test_idle_server_that_dies_is_noticed_at_once(gateway: GatewayProcess) -> None:
    ask(gateway, "killed", max_tokens=1)
    instance = ready(gateway, "killed")[0]
    os.kill(server_of(gateway, instance), signal.SIGKILL)
    eventually(lambda: not instances(gateway, "killed"), 2, "its end was noticed")
    assert ask(gateway, "killed", max_tokens=1).status_code == 200


def test_request_that_kills_its_server_is_tried_again(gateway: GatewayProcess) -> None:
    assert ask(gateway, "poisoned").headers["x-lamplighter-instance"] == "poisoned@1"
    got = ask(gateway, "poisoned")  # the canary was a POST too, so this one is the third
    assert got.status_code == 200
    assert launches(gateway, "poisoned") >= 2


def test_killed_server_ends_its_streams_with_an_error_event(gateway: GatewayProcess) -> None:
    ask(gateway, "streams", max_tokens=1)
    victim = server_of(gateway, ready(gateway, "streams")[0])
    with Crowd(gateway, 10) as crowd:
        streams = crowd.streams(10, "streams")
        os.kill(victim, signal.SIGKILL)
        assert {s.result().error["code"] for s in streams} == {"response_lost"}
    assert ask(gateway, "streams", max_tokens=1).headers["x-lamplighter-instance"] == "streams@2"
    counts = counted(gateway, "streams")
    assert counts == {"error": 10, "ok": 2}


def test_streams_of_a_server_that_freezes_end_with_an_error_event(gateway: GatewayProcess) -> None:
    ask(gateway, "freezing", max_tokens=1)
    victim = psutil.Process(server_of(gateway, ready(gateway, "freezing")[0]))
    with Crowd(gateway, 3) as crowd:
        streams = crowd.streams(3, "freezing")
        victim.suspend()
        assert {s.result().error["code"] for s in streams} == {"upstream_timeout"}
    victim.kill()
    gone(gateway, "freezing")


@pytest.mark.slow
def test_server_that_stays_frozen_is_killed_and_replaced(gateway: GatewayProcess) -> None:
    """Its last check takes 30 s; other models are answered meanwhile."""
    ask(gateway, "frozen")
    victim = psutil.Process(server_of(gateway, ready(gateway, "frozen")[0]))
    victim.suspend()
    for _ in range(3):
        assert ask(gateway, "frozen").status_code == 504
    assert ask(gateway, "fine").status_code == 200
    begun_s = time.monotonic()
    eventually(lambda: not victim.is_running(), 45, "it is killed")
    assert time.monotonic() - begun_s > 20
    assert ask(gateway, "frozen").headers["x-lamplighter-instance"] == "frozen@2"


def test_server_that_hangs_is_found_out_and_replaced(gateway: GatewayProcess) -> None:
    ask(gateway, "stopped")
    victim = psutil.Process(server_of(gateway, ready(gateway, "stopped")[0]))
    victim.suspend()
    for _ in range(3):
        refused = ask(gateway, "stopped")
        assert (refused.status_code, error_of(refused)["code"]) == (504, "upstream_timeout")
    victim.resume()  # or the check would take its 30 s; what counts is that it was asked for
    eventually(lambda: ask(gateway, "stopped").status_code == 200, 20)


def test_killed_guard_takes_its_server_with_it(gateway: GatewayProcess) -> None:
    ask(gateway, "guarded")
    server = psutil.Process(server_of(gateway, ready(gateway, "guarded")[0]))
    family = [server, *server.children(recursive=True)]
    assert len(family) == 2
    guard = server.parent()
    assert guard is not None
    guard.kill()
    eventually(lambda: not any(p.is_running() for p in family), 5, "nothing is left")
    assert ask(gateway, "guarded").headers["x-lamplighter-instance"] == "guarded@2"


def test_log_of_an_instance_survives_it(gateway: GatewayProcess) -> None:
    eventually(lambda: launches(gateway, "crashing"))
    log = gateway.admin("GET", "/instances/crashing@1/log?lines=5")
    assert LAST_WORDS in log.text
