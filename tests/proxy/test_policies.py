"""What policies do to requests on a real gateway; the rules themselves are tested in policies/."""

from collections import Counter, deque
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.conftest import StartGateway
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import End, chat, error
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, model, settles, yaml


@pytest.fixture(scope="module")
def gateway(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    one, two = fake_servers.urls[:1], fake_servers.urls[1:]
    # Both models are on the first server; `other` has the second to itself.
    models = {"a": model(one), "b": model(one), "other": model(two), "both": model([*one, *two])}
    models["broken"] = model([one[0].replace("/v1", "/broken/v1")])
    split = [{"model": "a", "weight": 3}, "b"]
    policies = {
        "split": {"first_match": [{"use": split}]},
        "sticky": {"affinity": "conversation", "first_match": [{"use": split}]},
        "servers": {"affinity": "header:x-session", "first_match": [{"use": "both"}]},
        "set": {
            "aliases": ["gpt-x"],
            "first_match": [
                {"when": {"model": "gpt-x"}, "use": "b"},
                {"use": "a", "set": {"temperature": 0.3, "max_tokens": 9, "stop": ["x", "y"]}},
            ],
        },
        "closed": {
            "first_match": [
                {"when": {"keyword": "refund"}, "deny": "Refunds are for people."},
                {"use": "a"},
            ]
        },
        "mirrored": {"mirror": {"to": "other", "share": 1.0}, "first_match": [{"use": "a"}]},
        "half": {"mirror": {"to": "other", "share": 0.5}, "first_match": [{"use": "a"}]},
        "failing": {"mirror": {"to": "broken", "share": 1.0}, "first_match": [{"use": "a"}]},
        "urgent": {"first_match": [{"use": "a", "priority": "high", "retries": 0}]},
    }
    return start_gateway(yaml(models, policies=policies))


def ask(gateway: GatewayProcess, policy: str, **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    body = {"model": policy, "messages": HELLO, **more}
    return gateway.http.post("/v1/chat/completions", json=body, headers=headers)


def test_policies_are_models_for_those_who_list_them(gateway: GatewayProcess) -> None:
    client = OpenAI(base_url=gateway.base_url, api_key="x")
    assert {"a", "split", "sticky", "set"} <= {each.id for each in client.models.list()}
    assert client.models.retrieve("split").to_dict()["models"] == ["a", "b"]
    assert client.models.retrieve("gpt-x").id == "gpt-x"
    with pytest.raises(openai.NotFoundError, match="did you mean 'split'"):
        client.models.retrieve("splitt")


def test_split_follows_its_weights(gateway: GatewayProcess, fakes: FakeServers) -> None:
    seen = Counter(ask(gateway, "split").headers["x-lamplighter-model"] for _ in range(200))
    assert 115 <= seen["a"] <= 180  # 150 expected; four standard deviations are 25


def test_conversation_stays_at_one_model(gateway: GatewayProcess, fakes: FakeServers) -> None:
    def turns(topic: str) -> set[str]:
        messages = [{"role": "user", "content": topic}]
        models = set()
        for turn in range(3):
            response = ask(gateway, "sticky", messages=messages)
            models.add(response.headers["x-lamplighter-model"])
            messages += [
                {"role": "assistant", "content": "so"},
                {"role": "user", "content": f"{turn}"},
            ]
        return models

    found = [turns(f"topic {n}") for n in range(30)]
    assert all(len(models) == 1 for models in found)
    assert set.union(*found) == {"a", "b"}


def test_session_stays_at_one_server(gateway: GatewayProcess, fakes: FakeServers) -> None:
    def servers(session: str) -> set[str]:
        asked = [ask(gateway, "servers", headers={"x-session": session}) for _ in range(4)]
        return {response.headers["x-lamplighter-instance"] for response in asked}

    found = [servers(f"session {n}") for n in range(20)]
    assert all(len(names) == 1 for names in found)
    assert len(set.union(*found)) == 2


def test_rule_sets_what_the_caller_left_out(gateway: GatewayProcess, fakes: FakeServers) -> None:
    ask(gateway, "set", max_completion_tokens=5)
    sent = fakes.last.json
    assert (sent["temperature"], sent["stop"], sent["model"]) == (0.3, ["x", "y"], "fake")
    assert "max_tokens" not in sent
    ask(gateway, "set", temperature=1)
    assert (fakes.last.json["temperature"], fakes.last.json["max_tokens"]) == (1, 9)
    response = ask(gateway, "gpt-x")
    assert "temperature" not in fakes.last.json
    assert (response.headers["x-lamplighter-rule"], response.headers["x-lamplighter-policy"]) == (
        "1",
        "set",
    )


def test_denial_tells_the_rule_and_sends_nothing(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    wish: Any = [{"role": "user", "content": "I want my REFUND."}]
    response = ask(gateway, "closed", messages=wish)
    error = response.json()["error"]
    assert (response.status_code, error["message"]) == (403, "Refunds are for people.")
    assert (error["type"], error["code"]) == ("permission_error", "denied_by_policy")
    assert response.headers["x-lamplighter-rule"] == "1"
    assert fakes.posts == []
    assert ask(gateway, "closed").status_code == 200


def test_mirror_is_asked_too_and_its_answer_goes_to_nobody(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    def mirrored() -> float:
        name = 'lamplighter_mirrored_requests_total{outcome="ok",policy="mirrored"} '
        lines = gateway.http.get("/metrics").text.splitlines()
        return sum(float(line[len(name) :]) for line in lines if line.startswith(name))

    before = mirrored()
    for stream in (False, True):
        response = ask(gateway, "mirrored", stream=stream)
        assert response.headers["x-lamplighter-model"] == "a"
        assert response.text.count("hello over there" if not stream else "hello") == 1
    eventually(lambda: mirrored() == before + 2, what="both mirrored requests")
    assert len(fakes.servers[1].posts) == 2
    assert fakes.servers[1].posts[0].body == fakes.servers[0].posts[0].body


def test_callers_do_not_choose_what_is_mirrored(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    for _ in range(40):
        ask(gateway, "half", headers={"x-request-id": "always-the-same"})
    eventually(lambda: len(fakes.posts) > 40, what="a mirrored request")
    settles(gateway, "other")
    assert len(fakes.posts) < 80


def test_mirrored_bodies_in_memory_are_bounded(
    start_gateway: StartGateway, fakes: FakeServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.servers[1], "queue", deque([[End.STALL]] * 9))
    models = {"a": model(fakes.urls[:1]), "silent": model(fakes.urls[1:])}
    rules = {"mirror": {"to": "silent", "share": 1.0}, "first_match": [{"use": "a"}]}
    gateway = start_gateway(yaml(models, policies={"chat": rules}))
    for _ in range(6):
        fakes.script(chat("hi"))
        assert ask(gateway, "chat", pad="x" * 15 * 2**20).status_code == 200
    dropped = 'lamplighter_shadows_dropped_total{policy="chat"} 2.0'
    eventually(lambda: dropped in gateway.http.get("/metrics").text, what="two have no room")
    fakes.drop_connections()


def test_mirror_that_fails_harms_nobody(gateway: GatewayProcess, fakes: FakeServers) -> None:
    body = {"model": "failing", "messages": HELLO}
    fakes.answer_path("/broken/v1/chat/completions", error(500))
    assert gateway.http.post("/v1/chat/completions", json=body).status_code == 200
    name = 'lamplighter_mirrored_requests_total{outcome="error",policy="failing"} 1.0'
    eventually(lambda: name in gateway.http.get("/metrics").text, what="the failure is counted")


def test_nothing_is_started_for_a_mirror_and_nobody_is_asked_twice(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    cold = {"command": fake_command(), "stop_within": "1s"}
    models = {"a": model(fakes.urls[:1]), "off": {"served_as": "fake", "cold": cold}}
    policies = {
        "chat": {"mirror": {"to": "off", "share": 1.0}, "first_match": [{"use": "a"}]},
        "self": {"mirror": {"to": "a", "share": 1.0}, "first_match": [{"use": "a"}]},
    }
    gateway = start_gateway(yaml(models, policies=policies))
    assert ask(gateway, "chat").status_code == 200
    assert (
        'lamplighter_shadows_dropped_total{policy="chat"} 1.0' in gateway.http.get("/metrics").text
    )
    assert gateway.model("off")["state"] == "off"
    assert ask(gateway, "self").status_code == 200
    assert len(fakes.posts) == 2


def test_priority_of_a_rule_wins(gateway: GatewayProcess, fakes: FakeServers) -> None:
    ask(gateway, "urgent", headers={"x-lamplighter-priority": "low"})
    page = gateway.http.get("/metrics").text
    assert 'lamplighter_arrivals_total{model="a",priority="high"} 1.0' in page


def test_requests_are_counted_by_rule(gateway: GatewayProcess, fakes: FakeServers) -> None:
    ask(gateway, "set")
    assert 'lamplighter_policy_requests_total{outcome="ok",policy="set",rule="2"}' in (
        gateway.http.get("/metrics").text
    )


def test_waiting_time_of_a_rule_holds(start_gateway: StartGateway, fakes: FakeServers) -> None:
    cold = {"command": fake_command("--start-after", "30"), "stop_within": "1s"}
    models = {"slow": {"served_as": "fake", "cold": cold}, "quick": model(fakes.urls[:1])}
    first = {"when": {"header": {"x-impatient": "*"}}, "use": "slow", "max_wait": "200ms"}
    hot = {"when": {"hot": "slow"}, "use": "slow"}
    policies = {"chat": {"first_match": [first, hot, {"use": "quick"}]}}
    gateway = start_gateway(yaml(models, policies=policies))
    assert ask(gateway, "chat").headers["x-lamplighter-model"] == "quick"
    response = ask(gateway, "chat", headers={"x-impatient": "yes"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_starting")


def test_overflow_of_a_rule_stands_before_the_models_own(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    cold = {"command": fake_command("--start-after", "30"), "start_time": "30s", "gpu_hour": 1.0}
    models = {
        "slow": {"served_as": "fake", "cold": cold, "overflow": ["one"], "max_wait": "1s"},
        "one": model(fakes.urls[:1]),
        "two": model(fakes.urls[1:]),
    }
    policies = {
        "own": {"first_match": [{"use": "slow"}]},
        "rule": {"first_match": [{"use": "slow", "overflow": ["two"]}]},
    }
    gateway = start_gateway(yaml(models, policies=policies))
    assert ask(gateway, "own").headers["x-lamplighter-model"] == "one"
    assert ask(gateway, "rule").headers["x-lamplighter-model"] == "two"


def test_reload_brings_new_rules_and_a_wrong_file_changes_nothing(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    models = {"a": model(fakes.urls[:1]), "b": model(fakes.urls[1:])}

    def file(use: str) -> str:
        return yaml(models, policies={"chat": {"first_match": [{"use": use}]}})

    gateway = start_gateway(file("a"))
    assert ask(gateway, "chat").headers["x-lamplighter-model"] == "a"
    gateway.write(file("b"))
    assert gateway.admin("POST", "/reload").status_code == 200
    assert ask(gateway, "chat").headers["x-lamplighter-model"] == "b"
    gateway.write(file("nobody"))
    assert "nobody" in gateway.admin("POST", "/reload").text
    assert ask(gateway, "chat").headers["x-lamplighter-model"] == "b"


def test_stored_response_goes_back_to_the_model_that_made_it(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    first = gateway.http.post("/v1/responses", json={"model": "split", "input": "hi"})
    maker = first.headers["x-lamplighter-model"]
    follow = {"model": "split", "input": "go on", "previous_response_id": first.json()["id"]}
    for _ in range(8):
        response = gateway.http.post("/v1/responses", json=follow)
        assert response.headers["x-lamplighter-model"] == maker
