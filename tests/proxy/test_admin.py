"""Without its key the admin API shows nothing and does nothing, and no path gets around it."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.admin_key import AdminKey
from proxy.control import control_app
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import answer
from tests.gateway import ADMIN_KEY, GatewayProcess, eventually
from tests.proxy.scenes import chat, raw

ROUTES = [
    ("GET", "/admin/models"),
    ("GET", "/admin/models/fake"),
    ("POST", "/admin/models/fake/start"),
    ("POST", "/admin/models/fake/stop"),
    ("GET", "/admin/demand/fake"),
    ("GET", "/admin/spend"),
    ("GET", "/admin/instances"),
    ("GET", "/admin/instances/x/log"),
    ("POST", "/admin/instances/x/stop"),
    ("GET", "/admin/config"),
    ("POST", "/admin/reload"),
    ("POST", "/admin/drain"),
]
WRONG = ["", "Bearer", f"Bearer {ADMIN_KEY}x", ADMIN_KEY, f"Basic {ADMIN_KEY}", "Bearer \xff"]


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
@pytest.mark.parametrize("authorization", [None, *WRONG])
def test_route_without_the_key_is_403(
    gateway: GatewayProcess, route: tuple[str, str], authorization: str | None
) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    got = gateway.http.request(*route, headers=headers)
    assert got.status_code == 403
    assert set(got.json()) == {"error"}
    assert got.json()["error"]["code"] == "admin_key_required"
    assert ADMIN_KEY not in got.text


def test_key_in_the_query_is_no_key(gateway: GatewayProcess) -> None:
    assert gateway.http.get(f"/admin/config?key={ADMIN_KEY}").status_code == 403


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_right_key_opens(gateway: GatewayProcess, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {ADMIN_KEY}"}
    assert gateway.http.get("/admin/config", headers=headers).status_code == 200


def test_key_is_nowhere_to_be_read(gateway: GatewayProcess) -> None:
    assert ADMIN_KEY not in gateway.admin("GET", "/config").text
    assert ADMIN_KEY not in gateway.log
    assert ADMIN_KEY not in gateway.http.get("/metrics").text


def test_admin_key_is_no_way_into_a_server(gateway: GatewayProcess, fakes: FakeServers) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    gateway.http.post("/v1/chat/completions", json=chat("fake"), headers=headers)
    assert ADMIN_KEY not in str(fakes.last.headers)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/models/nothing", 404),
        ("GET", "/demand/nothing", 404),
        ("POST", "/models/fake/start", 400),
        ("POST", "/models/fake/explode", 400),
        ("POST", "/instances/x/stop", 404),
        ("GET", "/instances/x/log", 404),
        ("GET", "/instances/x/log?lines=0", 400),
        ("GET", "/instances/x/log?lines=many", 400),
        ("DELETE", "/models", 405),
        ("GET", "/reload", 405),
        ("GET", "/config/", 404),
    ],
)
def test_wrong_call_is_told(gateway: GatewayProcess, method: str, path: str, status: int) -> None:
    got = gateway.admin(method, path)
    assert got.status_code == status
    assert set(got.json()["error"]) == {"message", "type", "param", "code"}


def test_model_state_tells_its_endpoints(gateway: GatewayProcess, fakes: FakeServers) -> None:
    state = gateway.model("two-0")
    assert [e["url"] for e in state["endpoints"]] == fakes.urls
    assert {e["max_concurrency"] for e in state["endpoints"]} == {None}
    assert (state["served_as"], state["placement"]) == ("fake", ["hot"])
    listed = gateway.admin("GET", "/models").json()["models"]
    assert state["model"] in [m["model"] for m in listed]


def test_failure_of_our_own_has_the_openai_shape() -> None:
    """An exception in a control route, which only a bug brings about."""
    app = control_app(cast(Any, SimpleNamespace()), AdminKey("k" * 8), None)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/ready",
        "headers": [],
        "query_string": b"",
        "state": {"request_id": "mine"},
    }
    with pytest.raises(AttributeError):  # uvicorn logs it
        asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["code"] == "internal_error"


# --- paths ---------------------------------------------------------------------------------------

TRICKS = [
    "/v1/../admin/config",
    "/v1/%2e%2e/admin/config",
    "/v1/%2E%2E%2Fadmin%2Fconfig",
    "/v1/./admin/config",
    "//admin/config",
    "/v1//admin/config",
    "/admin/../v1/embeddings",
    "/v1/models/../../admin/config",
    "/v1/..%5cadmin",
    "/v1/embeddings/",
    "/v1/embeddings//",
    "/v1//embeddings",
    "/v1/embeddings/..",
    "/v1/embeddings%00",
    "/v1/embeddings%0d%0ax: y",
    "/v1/embeddings%3fx=1",
    "/v1/embeddings%23",
    "/v1/%c3%a9",
    "/v1/.hidden",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/%6coad_lora_adapter",
    "/v1/load_lora_adapter?x=1",
    "/v1/x/../load_lora_adapter",
    "/v1/sleep",
    "/v1/sleep?level=2",
    "/v1/%73leep",
    "/v1/wake_up",
    "/v1/collective_rpc",
    "/sleep",
    "/wake_up",
    "/pause",
    "/collective_rpc",
    "/invocations",
    "/health/",
    "/metrics/x",
]


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_path_trick_reaches_nothing(
    gateway: GatewayProcess, fakes: FakeServers, method: str, path: str
) -> None:
    body = b'{"model":"fake"}'
    head = f"{method} {path.replace(' ', '%20')} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    more = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    got = raw(gateway, (head + more).encode() + body)
    assert int(got.split(b" ")[1]) in (404, 405)
    assert json.loads(got.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
    assert fakes.requests == []


def test_absolute_target_means_its_path(gateway: GatewayProcess, fakes: FakeServers) -> None:
    """A proxy's form of a request; the host in it is nobody's but ours."""
    body = b'{"model":"fake"}'
    head = b"POST http://elsewhere.example/v1/embeddings HTTP/1.1\r\nhost: elsewhere.example\r\n"
    more = b"content-type: application/json\r\nconnection: close\r\ncontent-length: 16\r\n\r\n"
    assert raw(gateway, head + more + body).startswith(b"HTTP/1.1 200 ")
    assert fakes.last.target == "/v1/embeddings"


def test_query_passes_as_it_is(gateway: GatewayProcess, fakes: FakeServers) -> None:
    fakes.script(answer({"ok": 1}))
    query = "?a=/../admin&b=%2e%2e&c=%00&d=1;e=http://x"
    gateway.http.post("/v1/embeddings" + query, json={"model": "fake"})
    assert fakes.last.target == "/v1/embeddings" + query


# --- what is never written down ------------------------------------------------------------------


def test_no_word_of_a_request_or_an_answer_is_logged(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    marker = "marker-7e57"
    headers = {
        "authorization": f"Bearer {marker}",
        "x-api-key": marker,
        "cookie": marker,
        "user-agent": marker,
    }
    fakes.script(
        None,
        answer({"error": {"message": marker}}, 400),
        answer({"error": {"message": marker}}, 500),
        answer({"text": marker}),
    )
    question = [{"role": "user", "content": marker}]
    for _ in range(4):
        body = {"model": one, "messages": question, "user": marker}
        gateway.http.post("/v1/chat/completions", json=body, headers=headers)
    for body in (
        b'{"model":"' + marker.encode() + b'"}',
        b'{"x":"' + marker.encode(),
        b'{"model":"fake","stream":"' + marker.encode() + b'"}',
    ):
        json_type = {"content-type": "application/json"}
        assert gateway.http.post("/v1/embeddings", content=body, headers=json_type).is_error
    gateway.http.post(f"/v1/{marker}?{marker}", json={"model": "fake"})
    gateway.http.get(f"/{marker}")
    raw(gateway, marker.encode() + b" / HTTP/1.1\r\n\r\n")
    eventually(lambda: gateway.log.count(f"model={one} ") == 4, what="the access log")
    eventually(lambda: gateway.log.count("lamplighter.access") >= 9)
    assert marker not in gateway.log
    assert marker not in gateway.http.get("/metrics").text
