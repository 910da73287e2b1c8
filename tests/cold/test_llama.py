"""A real llama.cpp that is off: started for a question, right, and gone with its memory."""

from pathlib import Path

import psutil
from openai import OpenAI

from tests.cold.scenes import gone, yaml
from tests.engines.fixtures import ColdCommand
from tests.gateway import eventually, run_gateway

CAPITAL = "What is the capital of France?"


def test_model_is_started_answers_and_is_gone_with_its_memory(
    llama_command: ColdCommand, tmp_path: Path
) -> None:
    part = {"command": llama_command.command, "env": dict(llama_command.env), "idle": "500ms"}
    models = {"small": {"served_as": llama_command.served_as, "cold": part}}
    with (
        run_gateway(tmp_path, yaml(models)) as gateway,
        OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=60) as client,
    ):
        gateway_itself = psutil.Process(gateway.process.pid)
        for number in (1, 2):
            stream = client.chat.completions.create(
                model="small",
                messages=[{"role": "user", "content": CAPITAL}],
                max_tokens=12,
                temperature=0,
                stream=True,
            )
            text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
            assert text == "The capital of France is Paris."
            assert gateway.model("small")["instances"][0]["id"] == f"small@{number}"
            servers = gateway.children()
            assert sum(p.memory_info().rss for p in servers) > 100 * 2**20
            gone(gateway, "small")
            eventually(lambda s=servers: not any(p.is_running() for p in s), 5)
        assert not gateway.children()
        assert gateway_itself.memory_info().rss < 100 * 2**20
