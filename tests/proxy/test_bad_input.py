"""What cannot be understood gets a clear 4xx in the OpenAI shape and disturbs nobody else."""

import contextlib
import gzip
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import openai
import psutil
import pytest
from openai import OpenAI

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess
from tests.proxy.scenes import HELLO, chat, model, raw, yaml

JSON = {"content-type": "application/json"}
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def strict(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    """Small limits and short patience."""
    limits = {
        "max_body": LIMIT,
        "max_header_bytes": 16_384,
        "header_timeout": "500ms",
        "body_timeout": "500ms",
    }
    return start_gateway(yaml({"fake": model(fake_servers.urls[:1])}, server=limits))


@pytest.fixture
def undisturbed(strict: GatewayProcess) -> Iterator[None]:
    """Another caller's requests go through while the test sends rubbish."""
    stop, failures = threading.Event(), []

    def ask() -> None:
        with OpenAI(base_url=strict.base_url, api_key="k", max_retries=0) as client:
            while not stop.is_set():
                try:
                    client.chat.completions.create(model="fake", messages=HELLO)
                except openai.OpenAIError as error:
                    failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    stop.set()
    thread.join(10)
    assert failures == []


def refused(got: Any, status: int, code: str) -> dict[str, Any]:
    """The error object of a refusal that the gateway made itself."""
    assert got.status_code == status, got.text
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"]
    assert got.headers["x-should-retry"] == ("true" if status == 408 else "false")
    body = got.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert body["error"]["type"] == "invalid_request_error"
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"model": "fake",}', "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b'{"model": "fake", "x": "\xff"', "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
        (b"[" * 100_000, "invalid_type"),
        (b"[]", "invalid_type"),
        (b'"text"', "invalid_type"),
        (b"null", "invalid_type"),
        (b"{}", "missing_required_parameter"),
        (b'{"model": null}', "invalid_type"),
        (b'{"model": 5}', "invalid_type"),
        (b'{"model": ["fake"]}', "invalid_type"),
        (b'{"model": ""}', "invalid_value"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b'{"model": "fake", "stream": "yes"}', "invalid_type"),
        (b'{"model": "fake", "stream": 1}', "invalid_type"),
        (b'{"model": "fake", "stream": true, "stream_options": []}', "invalid_type"),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else value,
)
def test_body_that_is_no_request_is_400(
    gateway: GatewayProcess, fakes: FakeServers, body: bytes, code: str
) -> None:
    got = gateway.http.post("/v1/chat/completions", content=body, headers=JSON)
    refused(got, 400, code)
    assert fakes.posts == []


def test_missing_model_names_the_parameter(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body={"messages": HELLO}, cast_to=object)
    assert caught.value.param == "model"
    assert "/v1/models" in caught.value.message


def test_unknown_model_is_404_with_near_names(client: OpenAI, fakes: FakeServers) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="fakee", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "'fake'" in caught.value.message
    assert fakes.posts == []


@pytest.mark.parametrize("name", ["x" * 100_000, "a\nb", "日本", "../admin", "fake\x00"])
def test_strange_model_name_is_404_and_no_more(gateway: GatewayProcess, name: str) -> None:
    got = gateway.http.post("/v1/chat/completions", json=chat(name))
    told = refused(got, 404, "model_not_found")
    assert len(told["message"]) < 400


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "nope"]
)
def test_content_type_that_is_no_json_is_415(gateway: GatewayProcess, kind: str) -> None:
    got = gateway.http.post(
        "/v1/chat/completions", content=json.dumps(chat("fake")), headers={"content-type": kind}
    )
    assert "application/json" in refused(got, 415, "unsupported_media_type")["message"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", None])
def test_content_type_of_json_in_any_spelling_is_taken(
    gateway: GatewayProcess, kind: str | None
) -> None:
    headers = {"content-type": kind} if kind else {}
    got = gateway.http.post(
        "/v1/chat/completions", content=json.dumps(chat("fake")).encode(), headers=headers
    )
    assert got.status_code == 200


# --- too much ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undisturbed")
def test_body_over_the_limit_is_413_before_it_is_read(strict: GatewayProcess) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", strict.port), 10) as connection:
        connection.sendall(head + b"content-length: 99999999999\r\n\r\n{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_refused_body_may_be_sent_on_only_for_a_while(strict: GatewayProcess) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    answer = raw(strict, head + b"content-length: 99999999999\r\n\r\n{")
    assert told(answer)[0] == 413  # and the connection ended, though the client kept it open


def test_chunked_body_over_the_limit_is_413_while_it_is_read(strict: GatewayProcess) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"model":"fake","x":"'
        for _ in range(30):
            yield b"y" * 50_000

    got = strict.http.post("/v1/chat/completions", content=endless(), headers=JSON)
    assert str(LIMIT) in refused(got, 413, "request_too_large")["message"]


def test_body_over_the_limit_raises_in_the_client(strict: GatewayProcess) -> None:
    with OpenAI(base_url=strict.base_url, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.embeddings.create(model="fake", input="x" * LIMIT)
        assert caught.value.status_code == 413
        assert client.embeddings.create(model="fake", input="x" * (LIMIT - 200)).data


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("br", brotli.compress), ("deflate", zlib.compress)],
)
@pytest.mark.usefixtures("undisturbed")
def test_decompression_bomb_is_413_in_bounded_memory(
    strict: GatewayProcess, encoding: str, pack: Any
) -> None:
    bomb = pack(b'{"model":"fake","x":"' + b"y" * 60_000_000)
    assert len(bomb) < LIMIT
    process = psutil.Process(strict.process.pid)
    before = process.memory_info().rss
    headers = {**JSON, "content-encoding": encoding}
    got = strict.http.post("/v1/chat/completions", content=bomb, headers=headers)
    refused(got, 413, "request_too_large")
    assert process.memory_info().rss - before < 20_000_000


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
def test_body_that_is_not_in_its_encoding_is_400(gateway: GatewayProcess, encoding: str) -> None:
    got = gateway.http.post(
        "/v1/chat/completions",
        content=json.dumps(chat("fake")),
        headers={**JSON, "content-encoding": encoding},
    )
    refused(got, 400, "invalid_encoding")


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("br", brotli.compress), ("deflate", zlib.compress)],
)
def test_body_that_ends_within_its_encoding_is_400(
    gateway: GatewayProcess, encoding: str, pack: Any
) -> None:
    got = gateway.http.post(
        "/v1/chat/completions",
        content=pack(json.dumps(chat("fake")).encode())[:-12],
        headers={**JSON, "content-encoding": encoding},
    )
    assert got.status_code == 400


def test_unknown_encoding_is_415(gateway: GatewayProcess) -> None:
    got = gateway.http.post(
        "/v1/chat/completions", content=b"x", headers={**JSON, "content-encoding": "zstd"}
    )
    assert "gzip" in refused(got, 415, "unsupported_media_type")["message"]


# --- too slow, too long, not HTTP ----------------------------------------------------------------


def told(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    error: dict[str, Any] = json.loads(body)["error"]
    return int(head.split(b" ")[1]), error


@pytest.mark.parametrize("start", [b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nhost: x"])
@pytest.mark.usefixtures("undisturbed")
def test_head_that_does_not_come_is_408(strict: GatewayProcess, start: bytes) -> None:
    status, error = told(raw(strict, start))
    assert (status, error["code"]) == (408, "request_timeout")
    assert "header_timeout" in error["message"]


def test_head_that_drips_is_408(strict: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", strict.port), 10) as connection:
        connection.settimeout(0.05)
        answer = b""
        for byte in b"GET /health HTTP/1.1\r\nx: " + b"y" * 1000:
            connection.sendall(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
            if answer:
                break
    assert told(answer)[0] == 408


@pytest.mark.usefixtures("undisturbed")
def test_body_that_does_not_come_is_408(strict: GatewayProcess) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    answer = raw(strict, head + b"connection: close\r\ncontent-length: 50\r\n\r\n{")
    status, error = told(answer)
    assert (status, error["code"]) == (408, "request_timeout")
    assert b"x-request-id: req_" in answer


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET /health HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", id="one"),
        pytest.param(b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 5_000 + b"\r\n", id="many"),
        pytest.param(b"GET /" + b"h" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", id="target"),
        pytest.param(b"GET /health HTTP/1.1\r\nx: " + b"y" * 20_000, id="no-end"),
    ],
)
@pytest.mark.usefixtures("undisturbed")
def test_giant_head_is_431(strict: GatewayProcess, head: bytes) -> None:
    status, error = told(raw(strict, head))
    assert (status, error["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,  # a TLS hello
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET \x00 HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda rubbish: repr(rubbish[:40]),
)
@pytest.mark.usefixtures("undisturbed")
def test_what_is_not_http_is_400(strict: GatewayProcess, rubbish: bytes) -> None:
    status, error = told(raw(strict, rubbish))
    assert (status, error["code"]) == (400, "invalid_http")


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/completions", "/embeddings", "/responses", "/messages"]
)
def test_path_without_v1_says_so(gateway: GatewayProcess, path: str) -> None:
    got = gateway.http.post(path, json=chat("fake"))
    assert f"did you mean /v1{path}?" in refused(got, 404, "not_found")["message"]


@pytest.mark.parametrize("path", ["/models", "/models/fake"])
def test_list_of_models_without_v1_says_so(gateway: GatewayProcess, path: str) -> None:
    got = gateway.http.get(path)
    assert f"did you mean /v1{path}?" in refused(got, 404, "not_found")["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("GET", "/favicon.ico", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/embeddings", 404),
        ("PUT", "/v1/messages", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/fake", 405),
        ("POST", "/health", 405),
        ("POST", "/metrics", 405),
        ("PATCH", "/v1/responses/resp_1", 405),
        ("GET", "/v1/responses/resp_1/cancel", 405),
    ],
)
def test_wrong_path_or_method_is_told(
    gateway: GatewayProcess, method: str, path: str, status: int
) -> None:
    code = "not_found" if status == 404 else "method_not_allowed"
    got = gateway.http.request(method, path, headers={"x-request-id": "mine"})
    refused(got, status, code)
    assert got.headers["x-request-id"] == "mine"


@pytest.mark.usefixtures("undisturbed")
def test_form_that_is_hard_to_read_holds_up_nobody(strict: GatewayProcess) -> None:
    """A form of a million empty parts with its only blank line at the end."""
    body = b"--x" + b"\r\n--x" * 190_000 + b'\r\nx: name="model"\r\n\r\nfake\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    got = strict.http.post("/v1/audio/transcriptions", content=body, headers=headers, timeout=5)
    assert refused(got, 400, "invalid_form")["message"].startswith("the body is not a valid form")


def test_json_that_is_hard_to_rewrite_holds_up_nobody(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """`"model"` in a million places, the right one last."""
    places = b'"model",' * 1_000_000
    body = b'{"x":[%s1],"model":"%s"}' % (places, one.encode())
    got = gateway.http.post("/v1/embeddings", content=body, headers=JSON, timeout=5)
    assert got.status_code == 200
    assert fakes.last.body == b'{"x":[%s1],"model":"fake"}' % places


def test_connection_is_of_use_after_a_refusal(gateway: GatewayProcess) -> None:
    """A refused request must not leave its body to be read as the next one."""
    bad = b'{"model": "fake", "x": '
    lines = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    good = json.dumps(chat("fake")).encode()
    first = lines + b"content-length: %d\r\n\r\n" % len(bad) + bad
    second = lines + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(good) + good
    answers = raw(gateway, first + second)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 200 ") == 1
