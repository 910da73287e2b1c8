"""A budget that is spent, as callers meet it."""

from pathlib import Path
from typing import Any

from tests.cold.scenes import ask, cold, error_of, gone, ready, yaml
from tests.cold.test_overflow import AlwaysOn
from tests.gateway import eventually, run_gateway

A_CENT_A_TOKEN = {"input": 10_000, "output": 10_000}


def test_a_spent_budget_is_told_and_outlasts_a_kill(tmp_path: Path) -> None:
    model = {**cold(gpu_hour=3600), "budget": {"usd_per_day": 1}}
    text = yaml({"dear": model}, store={"path": str(tmp_path / "store.sqlite")})
    with run_gateway(tmp_path, text) as gateway:
        assert ask(gateway, "dear").status_code == 200
        gone(gateway, "dear")  # its idle server is stopped, which would stay for an hour
        refused = ask(gateway, "dear")
        assert (refused.status_code, error_of(refused)["code"]) == (429, "budget_exceeded")
        assert refused.headers["x-should-retry"] == "false"
        assert refused.headers["retry-after"] == "60"  # not a second, until midnight
        gateway.process.kill()
        gateway.process.wait()
    with run_gateway(tmp_path, text) as gateway:
        eventually(lambda: ask(gateway, "dear").status_code == 429, 5, "what was spent is known")


def test_requests_of_other_models_do_not_pass_by_a_spent_budget(tmp_path: Path) -> None:
    server = AlwaysOn()
    try:
        api = {"url": server.url, "model": "fake", "price": A_CENT_A_TOKEN}
        other: dict[str, Any] = {"api": api, "budget": {"usd_per_day": 0.001}}
        slow = {**cold("--listen-after", "2", max_wait="100ms"), "overflow": ["other"]}
        text = yaml({"slow": slow, "other": other})
        with run_gateway(tmp_path, text) as gateway:
            eventually(server.answers, 10, "the API answers")
            assert ask(gateway, "slow").headers["x-lamplighter-model"] == "other"
            spent = lambda: ask(gateway, "other").status_code == 429  # noqa: E731
            eventually(spent, 10, "its budget is spent")
            refused = ask(gateway, "slow")
            assert error_of(refused)["code"] == "model_starting"
            ready(gateway, "slow")
            assert ask(gateway, "slow").headers["x-lamplighter-model"] == "slow"
    finally:
        server.kill()
