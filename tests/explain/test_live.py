"""Explanations by a gateway that runs: the same as the command's, and nothing comes of them."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from proxy.cli import main
from tests.fakes.process import fake_command
from tests.fakes.threaded import FakeServers
from tests.gateway import ADMIN_KEY, GatewayProcess, run_gateway

PROMPT = "kangaroos juggle marmalade"  # words that stand nowhere else
EXPLAIN = {"x-lamplighter-explain": "true"}
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


def text_for(urls: list[str]) -> str:
    command = json.dumps(fake_command())
    return f"""\
models:
  small:
    served_as: fake
    hot: {{urls: [{{url: "{urls[0]}", key: key-of-small, gpu_hour: 0.36}}], check: {{every: 1h}}}}
  large:
    served_as: fake
    cold: {{command: {command}, gpu_hour: 3.6, start_time: 40s, idle: 1h, stop_within: 1s}}
  outside:
    served_as: fake
    api: {{url: "{urls[1]}", key: key-of-outside, price: {{input: 2, output: 8}}}}
    fallback: [small]
policies:
  chat:
    affinity: conversation
    first_match:
      - name: long
        when: {{input_tokens: {{above: 1000}}}}
        use: large
      - when: {{keyword: refund}}
        deny: ask the shop
      - when: {{header: {{x-team: red}}}}
        use: [{{model: small, weight: 3}}, {{model: outside, weight: 1}}]
      - when: {{key: sha256:{"5" * 64}}}
        use: outside
      - use: {{cascade: [small, large]}}
        set: {{temperature: 0.5}}
"""


@pytest.fixture(scope="module")
def gateway(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("explained")
    with run_gateway(folder, text_for(fake_servers.urls)) as running:
        yield running


def chat(model: str, text: str = PROMPT, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def by_command(gateway: GatewayProcess, body: bytes, at: str, **headers: str) -> Any:
    words = ["explain", str(gateway.file), "--request", "-", "--json", "--at", at]
    for name, value in headers.items():
        words += ["--header", f"{name}: {value}"]
    result = CliRunner().invoke(main, words, input=body)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


QUESTIONS = {
    "model": (chat("small", max_tokens=20), {}),
    "off": (chat("large"), {"x-lamplighter-max-wait": "5s"}),
    "outside": (chat("outside", stream=True), {}),
    "cascade": (chat("chat"), {}),
    "long": (chat("chat", "word " * 2000), {}),
    "denied": (chat("chat", "a Refund!"), {}),
    "split": (chat("chat"), {"x-team": "red"}),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_header_admin_and_command_give_the_same_object(gateway: GatewayProcess, name: str) -> None:
    body, headers = QUESTIONS[name]
    raw = json.dumps(body).encode()
    sent = {"content-type": "application/json", **headers}
    live = gateway.http.post("/v1/chat/completions", content=raw, headers={**sent, **EXPLAIN})
    assert (live.status_code, live.headers["content-type"]) == (200, "application/json")
    admin = gateway.http.post("/admin/explain", content=raw, headers={**sent, **ADMIN})
    assert admin.status_code == 200
    one, two = live.json(), admin.json()
    three = by_command(gateway, raw, one["at"], **headers)
    assert three == one
    assert {**two, "at": one["at"]} == one


def test_the_key_of_the_explained_request_has_a_header_of_its_own(gateway: GatewayProcess) -> None:
    body = chat("chat")
    live = gateway.http.post(
        "/v1/chat/completions", json=body, headers={"authorization": "Bearer sk-x", **EXPLAIN}
    ).json()
    admin = gateway.http.post(
        "/admin/explain",
        json=body,
        headers={**ADMIN, "x-authorization": "Bearer sk-x"},
    ).json()
    plain = gateway.admin("POST", "/explain", json=body).json()
    assert live["rules"] == admin["rules"]
    assert live["rules"][3]["why"].startswith("key is sha256:")
    assert plain["rules"][3]["why"] == "the caller sent no key"


@pytest.mark.parametrize(
    ("path", "body", "dialect"),
    [
        (None, {"messages": []}, "chat"),
        (None, {"prompt": "x"}, "completions"),
        (None, {"input": "x"}, "responses"),
        ("/v1/embeddings", {"input": "x"}, "other"),
        ("/v1/messages", {"messages": []}, "messages"),
    ],
)
def test_the_path_is_told_by_the_query_or_by_the_body(
    gateway: GatewayProcess, path: str | None, body: dict[str, Any], dialect: str
) -> None:
    query = {} if path is None else {"path": path}
    answer = gateway.admin("POST", "/explain", json={"model": "small", **body}, params=query)
    assert answer.json()["request"]["dialect"] == dialect


# --- nothing comes of it --------------------------------------------------------------------------


def test_nothing_is_started_asked_counted_or_logged(
    gateway: GatewayProcess, fake_servers: FakeServers
) -> None:
    fake_servers.reset()
    before = counted(gateway)
    for body, headers in QUESTIONS.values():
        for more in ({}, {"stream": True}):
            gateway.http.post(
                "/v1/chat/completions", json={**body, **more}, headers={**headers, **EXPLAIN}
            )
            gateway.http.post("/admin/explain", json={**body, **more}, headers={**headers, **ADMIN})
    state = gateway.model("large")
    assert (state["state"], state["instances"], state["waiting"]) == ("off", [], 0)
    assert [gateway.model(name)["in_flight"] for name in ("small", "outside")] == [0, 0]
    assert not fake_servers.posts
    assert counted(gateway) == before
    assert gateway.model("large")["demand"]["in_flight"] == 0
    assert "lamplighter.access" not in gateway.log


def counted(gateway: GatewayProcess) -> dict[str, float]:
    """Every counter of requests, arrivals and policies, by name and labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(gateway.http.get("/metrics").text):
        if family.type == "counter":
            for sample in family.samples:
                found[f"{sample.name} {sorted(sample.labels.items())}"] = sample.value
    return found


def test_no_word_of_the_prompt_and_no_key_is_in_it(gateway: GatewayProcess) -> None:
    for body, headers in QUESTIONS.values():
        sent = {"authorization": "Bearer sk-caller", **headers, **EXPLAIN}
        text = gateway.http.post("/v1/chat/completions", json=body, headers=sent).text
        for word in (*PROMPT.split(), "key-of", "sk-caller", "test-admin-key", "5" * 9):
            assert word not in text
    assert PROMPT not in gateway.log
    shown = gateway.admin("POST", "/explain", json=chat("chat")).json()["text"]
    assert f"sha256:{'5' * 8}..." in str(shown)


def test_false_is_as_good_as_no_header(gateway: GatewayProcess) -> None:
    no = {"x-lamplighter-explain": "false"}
    answer = gateway.http.post("/v1/chat/completions", json=chat("small"), headers=no)
    assert answer.headers["x-lamplighter-model"] == "small"


# --- mistakes -------------------------------------------------------------------------------------


def test_another_word_than_true_or_false_is_a_mistake(gateway: GatewayProcess) -> None:
    answer = gateway.http.post(
        "/v1/chat/completions", json=chat("small"), headers={"x-lamplighter-explain": "1"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "x-lamplighter-explain must be true or false"
    assert answer.json()["error"]["param"] == "x-lamplighter-explain"


def test_mistakes_of_the_request_are_told_as_ever(gateway: GatewayProcess) -> None:
    for post in (
        lambda **sent: gateway.http.post("/v1/chat/completions", headers=EXPLAIN, **sent),
        lambda **sent: gateway.admin("POST", "/explain", **sent),
    ):
        unknown = post(json=chat("lrage"))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        broken = post(content=b"{nonsense")
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")


def test_the_admin_route_wants_its_key_a_post_and_a_path_of_inference(
    gateway: GatewayProcess,
) -> None:
    assert gateway.http.post("/admin/explain", json=chat("small")).status_code == 403
    assert gateway.admin("GET", "/explain").status_code == 405
    for path in ("/v1/models", "/admin/models", "/health"):
        answer = gateway.admin("POST", "/explain", json=chat("small"), params={"path": path})
        assert answer.status_code == 400
        assert "is no inference" in answer.json()["error"]["message"]


def test_a_call_by_the_id_of_a_response_is_not_explained(gateway: GatewayProcess) -> None:
    answer = gateway.http.get("/v1/responses/resp_1", headers=EXPLAIN)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "only a call that names a model is explained"


def test_callers_get_none_where_it_is_switched_off_and_operators_do(
    fake_servers: FakeServers, tmp_path: Path
) -> None:
    with run_gateway(tmp_path, "server: {explain: false}\n" + text_for(fake_servers.urls)) as off:
        answer = off.http.post("/v1/chat/completions", json=chat("small"), headers=EXPLAIN)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (403, "permission_error")
        assert error["code"] == "explanations_off"
        assert answer.headers["x-lamplighter-reason"] == "explanations-off"
        assert "server.explain" in error["message"]
        assert "POST /admin/explain" in error["message"]
        assert off.admin("POST", "/explain", json=chat("small")).status_code == 200
        assert not off.model("small")["in_flight"]


# --- as things are --------------------------------------------------------------------------------


def test_a_running_gateway_tells_what_is_so_now(fake_servers: FakeServers, tmp_path: Path) -> None:
    with run_gateway(tmp_path, text_for(fake_servers.urls)) as gateway:
        body = chat("large")
        asked = gateway.admin("POST", "/explain", json=body).json()
        assert asked["candidates"][0]["state"] == "off"
        assert asked["choice"]["wait_s"] == 40.0
        assert gateway.http.post("/v1/chat/completions", json=body).status_code == 200
        asked = gateway.admin("POST", "/explain", json=body).json()
        assert asked["candidates"][0]["state"] == "ready"
        assert (asked["choice"]["wait_s"], asked["choice"]["start_usd"]) == (0.0, 0.0)


def test_what_is_explained_is_what_happens_then(fake_servers: FakeServers, tmp_path: Path) -> None:
    fake_servers.reset()
    with run_gateway(tmp_path, text_for(fake_servers.urls)) as gateway:
        for name, (body, headers) in QUESTIONS.items():
            asked = {**headers, "x-request-id": name}
            said = gateway.http.post(
                "/v1/chat/completions", json=body, headers={**asked, **EXPLAIN}
            ).json()
            answer = gateway.http.post("/v1/chat/completions", json=body, headers=asked)
            if said["refusal"] is not None:
                assert answer.status_code == said["refusal"]["status"]
                assert answer.json()["error"]["message"] == said["refusal"]["message"]
            elif said["choice"]["in_time"]:
                choice = said["choice"]
                assert answer.headers["x-lamplighter-model"] in said["decision"]["models"]
                if said["cascade"] is None:
                    assert answer.headers["x-lamplighter-model"] == choice["model"]
                    assert answer.headers["x-lamplighter-placement"] == choice["kind"]


def test_a_response_that_is_continued_leads_to_who_made_it(
    fake_servers: FakeServers, tmp_path: Path
) -> None:
    fake_servers.reset()
    with run_gateway(tmp_path, text_for(fake_servers.urls)) as gateway:
        body = {"model": "small", "input": "hello"}
        id = gateway.http.post("/v1/responses", json=body).json()["id"]
        said = gateway.admin("POST", "/explain", json={**body, "previous_response_id": id}).json()
        endpoint = fake_servers.urls[0].split("/")[2]
        why = f"{endpoint} made the response that this one continues"
        assert (said["choice"]["kind"], said["choice"]["why"]) == ("hot", why)
        assert said["places"][1]["why"] == "1 healthy always-on endpoint(s) with room"


def test_a_packed_body_is_unpacked(gateway: GatewayProcess) -> None:
    raw = json.dumps(chat("small")).encode()
    body = gzip.compress(raw)
    packed = {"content-encoding": "gzip", "content-type": "application/json"}
    live = gateway.http.post(
        "/v1/chat/completions", content=body, headers={**packed, **EXPLAIN}
    ).json()
    admin = gateway.http.post("/admin/explain", content=body, headers={**packed, **ADMIN}).json()
    assert live["request"] == admin["request"]
    assert live["request"]["bytes"] == len(raw)


def test_a_worker_asks_the_process_that_owns_the_instances(
    fake_servers: FakeServers, tmp_path: Path
) -> None:
    with run_gateway(tmp_path, text_for(fake_servers.urls), workers=2) as gateway:
        for body in (chat("small"), chat("large"), chat("chat")):
            live = gateway.http.post("/v1/chat/completions", json=body, headers=EXPLAIN).json()
            admin = gateway.admin("POST", "/explain", json=body).json()
            assert {**admin, "at": live["at"]} == live
        assert gateway.model("large")["instances"] == []
