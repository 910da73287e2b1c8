"""Policies where several processes serve: the owner decides about all of their requests."""

from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.cascades.scenes import UNSURE, pair, pieces, policy, streamed, whole
from tests.fakes.threaded import FakeServers
from tests.gateway import run_gateway
from tests.proxy.scenes import HELLO, counted, yaml


def test_policy_is_answered_whichever_worker_is_asked(fakes: FakeServers, tmp_path: Path) -> None:
    policies: dict[str, Any] = {"chat": policy()}
    text = yaml(pair(fakes.urls), policies=policies)
    with run_gateway(tmp_path, text, workers=2) as gateway:
        for _ in range(4):  # each on a connection of its own
            client = OpenAI(base_url=gateway.base_url, api_key="x", max_retries=0)
            fakes.script(whole("Rome perhaps", UNSURE), whole("Paris", None))
            raw = client.chat.completions.with_raw_response.create(model="chat", messages=HELLO)
            assert raw.parse().choices[0].message.content == "Paris"
            assert raw.headers["x-lamplighter-cascade"] == "escalated"
            fakes.script(streamed(*pieces("Paris it is")))
            parts = client.chat.completions.create(model="chat", messages=HELLO, stream=True)
            said = "".join(part.choices[0].delta.content or "" for part in parts)
            assert said == "Paris it is"
            client.close()
        assert counted(gateway, "small") == {"ok": 8.0}
        assert counted(gateway, "large") == {"ok": 4.0}
        assert "chat" in {model["id"] for model in gateway.http.get("/v1/models").json()["data"]}
