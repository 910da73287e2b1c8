"""A real vLLM on the CPU, started, used and stopped by the gateway like any other server."""

import json
from pathlib import Path

import pytest
from openai import OpenAI

from tests.engines.fixtures import ColdCommand
from tests.gateway import GatewayProcess, eventually, run_gateway

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = pytest.mark.slow


def test_vllm_is_started_used_and_stopped(vllm_command: ColdCommand, tmp_path: Path) -> None:
    text = f"""
models:
  vllm:
    served_as: {vllm_command.served_as}
    cold:
      command: {json.dumps(vllm_command.command)}
      env: {json.dumps({**vllm_command.env, "VLLM_API_KEY": "{key}"})}
      start_within: 5m
      stop_within: 20s
      idle: 2s
"""
    with run_gateway(tmp_path, text) as gateway:
        client = OpenAI(base_url=gateway.base_url, api_key="none", timeout=300, max_retries=0)
        stream = client.chat.completions.create(
            model="vllm", messages=QUESTION, stream=True, max_tokens=16, temperature=0
        )
        chunks = list(stream)
        text_out = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert "Paris" in text_out
        assert all(chunk.usage is None for chunk in chunks)  # counted, but nobody asked for it
        raw = client.chat.completions.with_raw_response.create(
            model="vllm", messages=QUESTION, max_tokens=16, temperature=0, logprobs=True
        )
        answer = raw.parse()
        assert "Paris" in (answer.choices[0].message.content or "")
        assert answer.choices[0].logprobs is not None
        assert raw.headers["x-lamplighter-instance"] == "vllm@1"
        assert raw.headers["x-lamplighter-cold-start"] == "false"
        tokens = client.post("/tokenize", body={"model": "vllm", "prompt": "hi"}, cast_to=dict)
        assert tokens["count"] >= 1
        _no_way_around_the_gateway(gateway.model("vllm")["instances"][0]["url"])
        processes = gateway.children()
        assert len(processes) >= 3  # the guard, the API server, the engine core
        eventually(lambda: not gateway.model("vllm")["instances"], 60, "vLLM is gone")
        assert not any(p.is_running() for p in processes)
        metrics = gateway.http.get("/metrics").text
        assert 'lamplighter_tokens_total{model="vllm",type="output"}' in metrics


def _no_way_around_the_gateway(url: str) -> None:
    """vLLM was told to ask for a key that only the gateway has."""
    import httpx2

    assert httpx2.get(f"{url}/models", trust_env=False).status_code == 401


# Asleep a second after the last byte, and off only after minutes.
LEVELS = {
    "level_1": {"share": 0.1, "wake": "1s"},
    "level_2": {"share": 0.1, "wake": "1s"},
}
BOTH = {"level_1": {"share": 0.5, "wake": "1s"}, "level_2": {"share": 0.01, "wake": "3s"}}


def test_vllm_sleeps_at_both_levels_and_answers_right_when_it_is_woken(
    vllm_command: ColdCommand, tmp_path: Path
) -> None:
    """The protocol for real; on the CPU no memory is saved by it."""

    def text(levels: object) -> str:
        model = {
            "served_as": vllm_command.served_as,
            "delay_hour": 0,
            "cold": {
                "command": vllm_command.command,
                "env": {**vllm_command.env, "VLLM_API_KEY": "{key}"},
                "start_within": "5m",
                "stop_within": "20s",
                "idle": "ski_rental",
                "jitter": 0,
                "gpu_hour": 1,
                "sleep": levels,
            },
        }
        return f"models: {json.dumps({'vllm': model})}"

    with run_gateway(tmp_path, text({"level_1": LEVELS["level_1"]})) as gateway:
        client = OpenAI(base_url=gateway.base_url, api_key="none", timeout=300, max_retries=0)
        _ask_for_paris(client, cold_start="true")
        for level, rung in (("level_1", "sleep_1"), ("level_2", "sleep_2")):
            gateway.write(text({level: LEVELS[level]}))
            assert gateway.admin("POST", "/reload").status_code == 200
            _asleep(gateway, rung)
            _ask_for_paris(client, cold_start="true")
            assert len(gateway.model("vllm")["start"]["wakes_s"][rung]) == 1
        gateway.write(text(BOTH))
        assert gateway.admin("POST", "/reload").status_code == 200
        _asleep(gateway, "sleep_2")
        _ask_for_paris(client, cold_start="true")
        assert len(gateway.model("vllm")["start"]["wakes_s"]["sleep_1"]) == 2  # on the way down
        assert "cannot be" not in gateway.log
        _asleep(gateway, "sleep_2")
        processes = gateway.children()
        assert gateway.stop(within_s=60) == 0
        assert not any(p.is_running() for p in processes)


def _asleep(gateway: GatewayProcess, rung: str) -> None:
    def look() -> bool:
        found = gateway.model("vllm")["instances"]
        return [(i["id"], i["state"], i["rung"]) for i in found] == [("vllm@1", "sleeping", rung)]

    eventually(look, 30, f"vLLM is on {rung}")


def _ask_for_paris(client: OpenAI, *, cold_start: str) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="vllm", messages=QUESTION, max_tokens=16, temperature=0
    )
    assert "Paris" in (raw.parse().choices[0].message.content or "")
    assert raw.headers["x-lamplighter-cold-start"] == cold_start
