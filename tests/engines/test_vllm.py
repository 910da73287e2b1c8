"""A real vLLM on the CPU, started, used and stopped by the gateway like any other server."""

import json
from pathlib import Path

import pytest
from openai import OpenAI

from tests.engines.fixtures import ColdCommand
from tests.gateway import eventually, run_gateway

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
