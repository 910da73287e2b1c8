"""Bytes that two parsers could read differently: refused, or read in the one right way.

After each attack the servers have seen exactly what they should, and the gateway serves the next.
"""

import json
import time
from typing import Any

import psutil
import pytest

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Gate, Step, answer, chunk, events
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import chat, model, settles, yaml
from tests.relay.callers import Answer, Caller, Cut, ask, chunks, request

BODY = json.dumps(chat("fake")).encode()
STREAM = json.dumps(chat("fake", stream=True)).encode()
SIZE = len(BODY)
HIDDEN = request(b'{"model":"fake","smuggled":1}', path="/v1/embeddings")
CLOSE = "connection: close"
CHUNKED = "transfer-encoding: chunked"
LIMIT = 1_000_000


def headed(*headers: str, body: bytes = BODY) -> bytes:
    """A request that is framed by these headers alone."""
    return request(body, CLOSE, *headers, framed=False)


def served_after(gateway: GatewayProcess, fakes: FakeServers, *before: bytes) -> None:
    """The gateway serves the next caller; the servers saw these bodies, then that one's."""
    assert ask(gateway, request(BODY)).status == 200
    assert [post.body for post in fakes.posts] == [*before, BODY]


def refusal(got: Answer, status: int, code: str) -> None:
    assert (got.status, got.error["code"]) == (status, code)
    assert got.error["type"] == "invalid_request_error"


# --- two ways to frame a body --------------------------------------------------------------------

AMBIGUOUS = {
    "cl-te": headed(f"content-length: {SIZE}", CHUNKED, body=chunks(BODY) + HIDDEN),
    "te-cl": headed(CHUNKED, "content-length: 4", body=chunks(BODY) + HIDDEN),
    "two-equal-lengths": request(BODY, f"content-length: {SIZE}"),
    "two-lengths": request(BODY, "content-length: 4"),
    "list-of-lengths": headed(f"content-length: {SIZE}, {SIZE}"),
    "no-length": headed("content-length:"),
    "negative": headed(f"content-length: -{SIZE}"),
    "signed": headed(f"content-length: +{SIZE}"),
    "hex": headed(f"content-length: 0x{SIZE:x}"),
    "spaced": headed(f"content-length: {SIZE} 0"),
    "underscored": headed(f"content-length: {SIZE // 10}_{SIZE % 10}"),
    "overflowing": headed(f"content-length: {2**64 + SIZE}"),
    "chunked-identity": headed("transfer-encoding: chunked, identity", body=chunks(BODY)),
    "chunked-chunked": headed("transfer-encoding: chunked, chunked", body=chunks(BODY)),
    "chunked-twice": headed(CHUNKED, CHUNKED, body=chunks(BODY)),
    "chunked-then-identity": headed(CHUNKED, "transfer-encoding: identity", body=chunks(BODY)),
    "xchunked": headed("transfer-encoding: xchunked", body=chunks(BODY)),
    "quoted": headed('transfer-encoding: "chunked"', body=chunks(BODY)),
    "vertical-tab": headed("transfer-encoding: \x0bchunked", body=chunks(BODY)),
    "folded-coding": headed("transfer-encoding:\r\n chunked", body=chunks(BODY)),
    "space-before-colon": headed("transfer-encoding : chunked", body=chunks(BODY)),
    "space-before-length": headed(f"content-length : {SIZE}"),
}


@pytest.mark.parametrize(
    "attack",
    [
        *(pytest.param(raw, id=name) for name, raw in AMBIGUOUS.items()),
        pytest.param(
            headed("transfer-encoding: gzip, chunked", body=chunks(BODY)),
            id="gzip-chunked",
        ),
        pytest.param(
            headed("transfer-encoding: identity, chunked", body=chunks(BODY)),
            id="identity-chunked",
        ),
    ],
)
def test_framing_that_can_be_read_in_two_ways_is_refused(
    gateway: GatewayProcess, fakes: FakeServers, attack: bytes
) -> None:
    with Caller(gateway) as caller:
        got = caller.send(attack).answer()
        assert got.status in (400, 501)
        assert got.error["type"] == "invalid_request_error"
        assert caller.rest() == b""  # and closed: what follows is no request
    served_after(gateway, fakes)


@pytest.mark.parametrize(
    "raw",
    [
        headed("Transfer-Encoding:\tCHUNKED", body=chunks(BODY[:9], BODY[9:])),
        headed(f"content-length: {SIZE:020}"),
        headed(CHUNKED, body=chunks(*(BODY[n : n + 1] for n in range(SIZE)))),
        headed(CHUNKED, body=b'%x;a=b;c="d"\r\n%b\r\n0;z\r\n\r\n' % (SIZE, BODY)),
        headed(CHUNKED, body=b"000000%X\r\n%b\r\n000\r\n\r\n" % (SIZE, BODY)),
    ],
    ids=["tabs-and-case", "leading-zeros", "byte-by-byte", "extensions", "chunk-zeros"],
)
def test_unusual_but_right_framing_is_read(
    gateway: GatewayProcess, fakes: FakeServers, raw: bytes
) -> None:
    assert ask(gateway, raw).status == 200
    assert fakes.last.header("transfer-encoding") is None
    assert fakes.last.header("content-length") == str(SIZE)
    served_after(gateway, fakes, BODY)


BROKEN_CHUNKS = {
    "giant": b"fffffffffffffffff\r\n" + BODY,
    "negative": b"-1\r\n" + BODY,
    "prefixed": b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
    "spaced": b"%x \r\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
    "too-short": b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE - 1, BODY),
    "too-long": b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE + 1, BODY),
    "no-line-end": b"%x\r\n%b0\r\n\r\n" % (SIZE, BODY),
    "bare-lf": chunks(BODY).replace(b"\r\n", b"\n"),
    "lf-in-extension": b"%x;a\n%b\r\n0\r\n\r\n" % (SIZE, BODY),
    "open-quote": b'%x;a="b\r\n%b\r\n0\r\n\r\n' % (SIZE, BODY),
}


@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_broken_chunk_is_refused(gateway: GatewayProcess, fakes: FakeServers, body: bytes) -> None:
    """Sent after the head, so that the refusal finds a request that already began."""
    with Caller(gateway) as caller:
        caller.send(headed(CHUNKED, body=b""))
        refusal(caller.send(body).answer(), 400, "invalid_http")
        assert caller.rest() == b""
    served_after(gateway, fakes)


# --- the end of a body ---------------------------------------------------------------------------


def test_body_shorter_than_said_is_never_sent_on(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    for head, body in (
        (f"content-length: {SIZE + 1}", BODY),
        (CHUNKED, b"%x\r\n%b" % (SIZE, BODY)),
        (CHUNKED, b"%x\r\n%b\r\n" % (SIZE, BODY)),
    ):
        with Caller(gateway) as caller:
            caller.send(headed(head, body=body))
    served_after(gateway, fakes)
    settles(gateway, "fake")


@pytest.mark.parametrize("head", [f"content-length: {SIZE}", CHUNKED])
def test_body_longer_than_said_is_not_sent_on(
    gateway: GatewayProcess, fakes: FakeServers, head: str
) -> None:
    """The rest is the start of another request, and is none."""
    body = chunks(BODY) if head == CHUNKED else BODY
    ask(gateway, request(body + b"XXXX\r\n\r\n", head, framed=False))
    settles(gateway, "fake")
    assert ask(gateway, request(BODY)).status == 200
    assert {post.body for post in fakes.posts} == {BODY}


def test_request_before_rubbish_has_its_own_answer(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    with Caller(gateway) as caller:
        caller.send(request(BODY) + b"XXXX\r\n\r\n")
        assert caller.answer().status == 200
        refusal(caller.answer(), 400, "invalid_http")
        assert caller.rest() == b""
    served_after(gateway, fakes, BODY)


# --- trailers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    "trailer",
    [
        pytest.param(b"x-smuggled: 1\r\n", id="unknown"),
        pytest.param(b"content-type: text/plain\r\n", id="content-type"),
        pytest.param(b"authorization: Bearer x\r\n", id="authorization"),
        pytest.param(b"content-length: 4\r\n", id="content-length"),
        pytest.param(b"transfer-encoding: identity\r\n", id="transfer-encoding"),
        pytest.param(b"host: elsewhere\r\n", id="host"),
    ],
)
def test_trailer_is_no_header(
    gateway: GatewayProcess, fakes: FakeServers, trailer: bytes, split: bool
) -> None:
    raw = headed(CHUNKED, "trailer: x-smuggled", body=chunks(BODY, trailers=trailer))
    place = raw.index(trailer)
    with Caller(gateway) as caller:
        caller.send(raw[:place])
        if split:
            time.sleep(0.05)
        got = caller.send(raw[place:]).answer()
    if got.status == 400:  # also right
        served_after(gateway, fakes)
        return
    assert got.status == 200
    name, _, value = trailer.decode().strip().partition(": ")
    assert (name, value) not in [(n.lower(), v) for n, v in fakes.last.headers]
    served_after(gateway, fakes, BODY)


# --- heads ---------------------------------------------------------------------------------------

BAD_HEADERS = {
    "folded": "x-a: 1\r\n folded",
    "folded-tab": "x-a: 1\r\n\tfolded",
    "space-before-colon": "x-a : 1",
    "bare-lf": "x-a: 1\nx-b: 2",
    "bare-cr": "x-a: 1\rx-b: 2",
    "cr-cr-lf": "x-a: 1\r",
    "nul-in-value": "x-a: 1\x002",
    "control-in-value": "x-a: 1\x012",
    "delete-in-value": "x-a: 1\x7f2",
    "control-in-name": "x\x01a: 1",
    "nul-in-name": "x\x00a: 1",
    "high-in-name": "x\xe9a: 1",
    "separator-in-name": "x(a): 1",
    "no-name": ": 1",
    "no-colon": "x-a",
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_bad_header_is_refused(gateway: GatewayProcess, fakes: FakeServers, header: str) -> None:
    refusal(ask(gateway, request(BODY, header)), 400, "invalid_http")
    served_after(gateway, fakes)


BAD_STARTS = {
    "bare-lf": request(BODY).replace(b"\r\n", b"\n"),
    "space-before-the-first-header": request(BODY).replace(b"\r\nhost", b"\r\n host"),
    "tab-after-the-method": request(BODY).replace(b"POST ", b"POST\t"),
    "lower-case-method": request(BODY).replace(b"POST", b"post"),
    "unknown-method": request(BODY).replace(b"POST", b"BREW"),
    "space-after-the-version": request(BODY).replace(b"HTTP/1.1\r", b"HTTP/1.1 \r"),
    "space-in-the-target": request(BODY, path="/v1/chat/completions /v1/models"),
    "version-1.2": request(BODY).replace(b"HTTP/1.1", b"HTTP/1.2"),
    "control-in-the-target": request(BODY, path="/v1/chat/completions?a=\x01"),
    "high-byte-in-the-target": request(BODY, path="/v1/chat/completions?a=\xe9"),
    "authority": request(BODY, path="gateway:443"),
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    "connect": b"CONNECT gateway:443 HTTP/1.1\r\nhost: gateway:443\r\n\r\n",
}


@pytest.mark.parametrize(
    "raw",
    [
        *(pytest.param(raw, id=name) for name, raw in BAD_STARTS.items()),
        pytest.param(
            request(BODY, CLOSE).replace(b"HTTP/1.1", b"HTTP/2.0"),
            id="version-2.0",
        ),
        pytest.param(
            request(BODY, CLOSE).replace(b"host: gateway\r\n", b""),
            id="no-host",
        ),
        pytest.param(
            request(BODY, CLOSE, "host: other"),
            id="two-hosts",
        ),
    ],
)
def test_bad_start_is_refused(gateway: GatewayProcess, fakes: FakeServers, raw: bytes) -> None:
    with Caller(gateway) as caller:
        refusal(caller.send(raw).answer(), 400, "invalid_http")
        assert caller.rest() == b""
    served_after(gateway, fakes)


@pytest.mark.parametrize("start", [b"\r\n", b"\r\n\r\n"])
def test_empty_lines_before_a_request_are_passed_over(
    gateway: GatewayProcess, fakes: FakeServers, start: bytes
) -> None:
    assert ask(gateway, start + request(BODY)).status == 200
    served_after(gateway, fakes, BODY)


# --- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "//v1/chat/completions",
        "//gateway/v1/chat/completions",
        "/v1//chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1/x/%2e%2e/embeddings",
        "/v1/./embeddings",
        "/v1/%2e/embeddings",
        "/v1/embeddings/..%2fembeddings",
        "/v1/embeddings%00",
        "/v1/embeddings%20",
        "/v1/x%0d%0ax-smuggled:%201/y",
        "/v1/x%ff",
        "/v1/x%zz",
        "/v1/embeddings;x=1",
        "/v1/embeddings/",
        "/v1\\embeddings",
        "*",
    ],
)
def test_target_that_is_no_plain_path_is_404(
    gateway: GatewayProcess, fakes: FakeServers, target: str
) -> None:
    got = ask(gateway, request(BODY, path=target))
    refusal(got, 404, "not_found")
    served_after(gateway, fakes)


@pytest.mark.parametrize(
    ("target", "sent_on"),
    [
        ("http://elsewhere/v1/chat/completions", "/v1/chat/completions"),
        ("https://u:p@elsewhere:9/v1/chat/completions?x=1", "/v1/chat/completions?x=1"),
        ("/v1/%63hat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions#fragment", "/v1/chat/completions"),
        ("/v1/chat/completions?a=%0d%0ax-smuggled:1", "/v1/chat/completions?a=%0d%0ax-smuggled:1"),
        ("/v1/chat/completions?a=//../%2e", "/v1/chat/completions?a=//../%2e"),
    ],
)
def test_target_is_sent_on_as_the_path_that_it_means(
    gateway: GatewayProcess, fakes: FakeServers, target: str, sent_on: str
) -> None:
    assert ask(gateway, request(BODY, path=target)).status == 200
    assert fakes.last.target == sent_on
    assert fakes.last.header("host") == fakes.urls[0].split("/")[2]
    served_after(gateway, fakes, BODY)


# --- injection into headers ----------------------------------------------------------------------

INJECTED = 'fake\r\nx-smuggled: 1\r\n\r\n{"a":1}'


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_model_name_cannot_add_a_header(
    gateway: GatewayProcess, fakes: FakeServers, path: str
) -> None:
    got = ask(gateway, request(chat(INJECTED, stream=True), path=path))
    assert got.status == 404
    assert got.header("x-smuggled") is None
    served_after(gateway, fakes)


@pytest.mark.parametrize("name", ["a b", "日本", "é/x", 'q"; x=1'])
def test_model_name_of_any_letters_comes_back_in_one_header(
    start_gateway: StartGateway, fakes: FakeServers, name: str
) -> None:
    gateway = start_gateway(yaml({name: model(fakes.urls[:1])}))
    got = ask(gateway, request(chat(name)))
    assert got.status == 200
    assert got.header("x-lamplighter-model")


@pytest.mark.parametrize("id", ["a%0d%0ax-smuggled: 1", "a\tb", "a;b", "\xe9", " "])
def test_request_id_cannot_add_a_header(
    gateway: GatewayProcess, fakes: FakeServers, id: str
) -> None:
    got = ask(gateway, request(BODY, f"x-request-id: {id}"))
    assert got.status == 200
    assert (got.header("x-request-id") or "").startswith("req_")
    assert fakes.last.header("x-request-id") == got.header("x-request-id")
    assert got.header("x-smuggled") is None


def test_server_cannot_add_a_header(gateway: GatewayProcess, fakes: FakeServers, two: str) -> None:
    """A lone CR or LF in a server's header is no answer: the other server is asked."""
    for bad in ("a\rx-smuggled: 1", "a\nx-smuggled: 1", "a\x00b"):
        fakes.reset()
        fakes.script(answer({"ok": 1}, headers=[("x-a", bad)]))
        got = ask(gateway, request(chat(two)))
        assert got.header("x-smuggled") is None
        assert b"smuggled" not in got.body
        assert (got.status, len(fakes.posts)) == (200, 2)


# --- pipelining ----------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    """A plain one, a stream and a refused one; the first is the slowest."""
    gate = Gate()
    fakes.script([gate, *answer({"first": 1})], events(chunk("second"), DONE), None)
    with Caller(gateway) as caller:
        caller.send(request(BODY) + request(STREAM) + request(b"{}") + request(BODY))
        fakes.reached(gate)
        assert len(fakes.posts) == 1
        fakes.open(gate)
        assert caller.answer().body == b'{"first": 1}'
        assert caller.answer().body == chunk("second") + DONE
        refusal(caller.answer(), 400, "missing_required_parameter")
        assert caller.answer().status == 200
    assert [post.json.get("stream") for post in fakes.posts] == [None, True, None]
    settles(gateway, "fake")


def test_pipelined_requests_torn_anywhere_are_answered_in_order(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    raw = request(BODY, "x-n: 1") + headed(CHUNKED, "x-n: 2", body=chunks(BODY))
    raw = raw.replace(CLOSE.encode(), b"x-k: v")
    for cut in range(7, len(raw), 29):
        with Caller(gateway) as caller:
            caller.send(raw[:cut])
            caller.send(raw[cut:])
            assert [caller.answer().status, caller.answer().status] == [200, 200]
    assert {post.body for post in fakes.posts} == {BODY}


def test_nothing_is_read_behind_the_last_request(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    """`Connection: close` says which one that is."""
    with Caller(gateway) as caller:
        caller.send(request(BODY, CLOSE) + HIDDEN)
        assert caller.answer().status == 200
        assert caller.rest() == b""
    served_after(gateway, fakes, BODY)


def test_many_pipelined_requests_wait_outside(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """While the first is served the gateway reads no more than a little of the others."""
    gate = Gate()
    fakes.script([gate, *answer({"first": 1})])
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    with Caller(gateway) as caller:
        caller.send(request(chat(one)))
        fakes.reached(gate)
        caller.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            caller.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 2_000_000)
        assert process.memory_info().rss - before < 50_000_000
    fakes.open(gate)


LATER: dict[str, tuple[bytes, bool]] = {
    "rubbish": (b"XXXX\r\n\r\n", False),
    "half-a-head": (b"GET /hea", True),
    "giant-head": (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, False),
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("stream", [False, True])
def test_refusal_of_the_next_request_waits_for_the_answer_before_it(
    strict: GatewayProcess, fakes: FakeServers, later: str, stream: bool
) -> None:
    gate = Gate()
    whole = chunk("a") + chunk("b") + DONE
    if stream:
        fakes.script(events(chunk("a"), gate, chunk("b"), DONE))
    else:
        fakes.script([gate, *answer(whole)])
    raw, slow = LATER[later]
    with Caller(strict) as caller:
        caller.send(request(STREAM if stream else BODY))
        fakes.reached(gate)
        if stream:
            caller.socket.recv(1, 2)  # the head is out
        caller.send(raw)
        time.sleep(1.0 if slow else 0.2)  # past header_timeout
        fakes.open(gate)
        got = caller.answer()
        assert (got.status, got.body) == (200, whole)


def test_body_of_a_pipelined_request_has_the_time_of_any_body(
    start_gateway: StartGateway, fakes: FakeServers
) -> None:
    patience = {"header_timeout": "300ms", "body_timeout": "20s"}
    gateway = start_gateway(yaml({"fake": model(fakes.urls[:1])}, server=patience))
    with Caller(gateway) as caller:
        caller.send(request(BODY) + request(BODY)[:-9])
        assert caller.answer().status == 200
        time.sleep(1.0)
        assert caller.try_send(BODY[-9:]).answer().status == 200


# --- Expect --------------------------------------------------------------------------------------


def test_body_is_asked_for_once(gateway: GatewayProcess, fakes: FakeServers) -> None:
    with Caller(gateway) as caller:
        caller.send(request(b"", "Expect: 100-Continue", f"content-length: {SIZE}", framed=False))
        assert caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for place in range(0, SIZE, 20):
            caller.send(BODY[place : place + 20])
        got = caller.answer()
        assert (got.status, got.interim) == (200, ())
        assert caller.send(request(BODY)).answer().interim == ()
    assert fakes.posts[0].header("expect") is None
    served_after(gateway, fakes, BODY, BODY)


@pytest.mark.parametrize(
    ("path", "statuses"),
    [("/v1/chat/completions", [413]), ("/v1/nowhere/", [404]), ("/v1/models", [405, 413])],
)
def test_body_that_will_be_refused_is_not_asked_for(
    strict: GatewayProcess, fakes: FakeServers, path: str, statuses: list[int]
) -> None:
    headers = ("expect: 100-continue", "content-length: 99999999")
    with Caller(strict) as caller:
        got = caller.send(request(b"", *headers, path=path, framed=False)).answer()
        assert got.status in statuses
        assert got.interim == ()
        caller.try_send(HIDDEN)  # it would be part of that body
    served_after(strict, fakes)


def test_body_of_a_pipelined_request_is_asked_for_in_its_turn(
    strict: GatewayProcess, fakes: FakeServers
) -> None:
    """Its caller may wait for the word before it sends a byte."""
    gate = Gate()
    fakes.script([gate, *answer({"first": 1})])
    with Caller(strict) as caller:
        caller.send(request(BODY))
        fakes.reached(gate)
        caller.send(request(b"", "expect: 100-continue", f"content-length: {SIZE}", framed=False))
        time.sleep(0.05)
        fakes.open(gate)
        assert caller.answer().body == b'{"first": 1}'
        assert caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert caller.send(BODY).answer().status == 200


def test_old_client_is_never_asked_for_its_body(gateway: GatewayProcess) -> None:
    raw = request(BODY, "expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert ask(gateway, raw).interim == ()


# --- other protocols -----------------------------------------------------------------------------


def test_old_client_gets_an_answer_and_the_end(gateway: GatewayProcess, fakes: FakeServers) -> None:
    with Caller(gateway) as caller:
        got = caller.send(request(BODY).replace(b"HTTP/1.1", b"HTTP/1.0")).answer()
        assert (got.status, got.header("content-length")) == (200, str(len(got.body)))
        assert caller.rest() == b""
    served_after(gateway, fakes, BODY)


def test_old_client_gets_a_stream_without_chunks(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    with Caller(gateway) as caller:
        caller.send(request(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = caller.rest().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body.startswith(b"data: ")
    assert body.endswith(DONE)


def test_chunks_of_an_old_client_end_its_connection(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    """Refused or read, but nothing behind them is a request (RFC 9112, 6.1)."""
    raw = request(chunks(BODY) + HIDDEN, CHUNKED, "connection: keep-alive", framed=False)
    with Caller(gateway, 3) as caller:
        got = caller.send(raw.replace(b"HTTP/1.1", b"HTTP/1.0", 1)).answer()
        assert got.status in (200, 400)
        assert caller.rest() == b""
    assert all(post.body == BODY for post in fakes.posts)


UPGRADES = {
    "websocket": ["upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: YWJj"],
    "h2c": ["upgrade: h2c", "http2-settings: AAMAAABkAARAAAAAAAIAAAAA"],
}


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_offer_to_upgrade_is_passed_over(
    gateway: GatewayProcess, fakes: FakeServers, upgrade: str, framing: str
) -> None:
    """Java's HTTP client and `curl --http2` offer h2c with every request."""
    headers = ["connection: Upgrade, HTTP2-Settings", *UPGRADES[upgrade]]
    if framing == "chunked":
        raw = request(chunks(BODY), *headers, CHUNKED, framed=False)
    else:
        raw = request(BODY, *headers)
    with Caller(gateway) as caller:
        assert caller.send(raw).answer().status == 200
        assert caller.send(request(BODY)).answer().status == 200
    assert fakes.posts[0].header("upgrade") is None
    served_after(gateway, fakes, BODY, BODY)


def test_websocket_is_an_ordinary_refusal(gateway: GatewayProcess, fakes: FakeServers) -> None:
    headers = "\r\n".join(["connection: Upgrade", *UPGRADES["websocket"]])
    start = f"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n"
    refusal(ask(gateway, start.encode(), method="GET"), 405, "method_not_allowed")
    served_after(gateway, fakes)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/v1/models", 200),
        ("HEAD", "/v1/chat/completions", 405),
        ("HEAD", "/nowhere", 404),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("OPTIONS", "*", 404),
        ("TRACE", "/v1/chat/completions", 405),
        ("PROPFIND", "/v1/chat/completions", 405),
        ("CONNECT", "/v1/chat/completions", 400),
    ],
)
def test_other_method_is_answered_once(
    gateway: GatewayProcess, fakes: FakeServers, method: str, path: str, status: int
) -> None:
    """And the connection holds nothing that is taken for the next answer."""
    start = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncookie: secret\r\n\r\n".encode()
    with Caller(gateway) as caller:
        got = caller.send(start).answer(method)
        assert got.status == status
        assert b"secret" not in got.body
        if method != "CONNECT":
            assert caller.send(request(BODY)).answer().status == 200
    assert [post.body for post in fakes.posts] == ([] if method == "CONNECT" else [BODY])


def test_body_of_a_get_is_no_request(gateway: GatewayProcess, fakes: FakeServers) -> None:
    ready = b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n"
    length = b"content-length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN)
    for framing in (length, CHUNKED.encode() + b"\r\n\r\n" + chunks(HIDDEN)):
        with Caller(gateway) as caller:
            caller.send(b"GET /health HTTP/1.1\r\nhost: x\r\n" + framing + ready)
            assert caller.answer("GET").body == b"OK"
            assert b"ready" in caller.answer("GET").body
    served_after(gateway, fakes)


# --- too much, too slowly ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    """Small limits and short patience."""
    limits = {"max_body": LIMIT, "header_timeout": "500ms", "body_timeout": "500ms"}
    return start_gateway(
        yaml({"fake": model(fake_servers.urls[:1], served_as=None)}, server=limits)
    )


def flood(gateway: GatewayProcess, start: bytes, piece: bytes, total: int) -> tuple[int, bytes]:
    """Bytes by which memory grew at most, and what the gateway said, while pieces pour in."""
    process = psutil.Process(gateway.process.pid)
    before = most = process.memory_info().rss
    with Caller(gateway) as caller:
        caller.send(start)
        sent = 0
        try:
            while sent < total:
                caller.send(piece)
                sent += len(piece)
                most = max(most, process.memory_info().rss)
            caller.socket.settimeout(2)
            said = caller.rest()
        except (ConnectionError, TimeoutError):
            said = b""
    return most - before, said


def test_trailers_without_end_are_refused(gateway: GatewayProcess, fakes: FakeServers) -> None:
    head = request(b"2\r\n{}\r\n0\r\n", CHUNKED, framed=False)
    grown, said = flood(gateway, head, b"x-t: " + b"y" * 60_000 + b"\r\n", 80_000_000)
    assert grown < 20_000_000
    assert b"200 OK" not in said
    served_after(gateway, fakes)


def test_one_trailer_without_end_is_refused(gateway: GatewayProcess, fakes: FakeServers) -> None:
    head = request(b"2\r\n{}\r\n0\r\nx-t: ", CHUNKED, framed=False)
    grown, said = flood(gateway, head, b"y" * 60_000, 40_000_000)
    assert grown < 20_000_000
    assert b"200 OK" not in said
    served_after(gateway, fakes)


def test_chunk_extensions_without_end_fill_no_memory(
    strict: GatewayProcess, fakes: FakeServers
) -> None:
    grown, said = flood(strict, request(b"2;", CHUNKED, framed=False), b"y" * 60_000, 40_000_000)
    assert grown < 20_000_000
    assert b"200 OK" not in said
    served_after(strict, fakes)


def test_chunk_that_says_it_is_giant_fills_no_memory(
    strict: GatewayProcess, fakes: FakeServers
) -> None:
    for size in (b"7fffffffffffffff", b"ffffffffffffffff", b"40000000"):
        grown, said = flood(
            strict, request(size + b"\r\n", CHUNKED, framed=False), b"y" * 60_000, 10_000_000
        )
        assert grown < 20_000_000
        assert b"200 OK" not in said
    served_after(strict, fakes)


@pytest.mark.parametrize("start", ["GET /v1/models HTTP/1.1\r\nx: ", "POST /v1/emb"])
def test_heads_that_drip_are_ended_and_delay_nobody(
    strict: GatewayProcess, fakes: FakeServers, start: str
) -> None:
    callers = [Caller(strict) for _ in range(50)]
    try:
        for caller in callers:
            caller.send(start.encode())
        ended: set[Caller] = set()

        def drip() -> bool:
            for caller in set(callers) - ended:
                try:
                    caller.send(b"y")
                    caller.socket.setblocking(False)
                    if caller.socket.recv(1, 2):
                        ended.add(caller)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    ended.add(caller)
                finally:
                    caller.socket.settimeout(20)
            assert ask(strict, request(BODY)).status == 200
            return len(ended) == len(callers)

        eventually(drip, 5, "every head is refused")
        told = [caller.rest() for caller in callers]
    finally:
        for caller in callers:
            caller.socket.close()
    assert all(said.startswith(b"HTTP/1.1 408 ") for said in told if said)
    assert any(told)


def test_body_that_drips_is_read_and_delays_nobody(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    raw = request(BODY)
    with Caller(gateway) as caller:
        caller.send(raw[:-SIZE])
        for place in range(SIZE):
            caller.send(BODY[place : place + 1])
            if place % 20 == 0:
                assert ask(gateway, request(b'{"model":"fake"}', path="/v1/rerank")).status == 200
        assert caller.answer().status == 200
    assert fakes.last.body == BODY


# --- the other side ------------------------------------------------------------------------------


def test_second_answer_of_a_server_is_never_the_next_callers(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """A response behind the response, and one that is written when nothing was asked."""
    [stray] = answer({"stray": 1})
    assert isinstance(stray, bytes)
    [right] = answer({"right": 1})
    assert isinstance(right, bytes)
    scripts: list[list[Step]] = [[right + stray], [right, 0.05, stray]]
    for script in scripts:
        fakes.script(script, answer({"next": 1}))
        seen: list[Any] = []
        for _ in range(2):
            got = ask(gateway, request(chat(one)))
            seen.append(json.loads(got.body) if got.status == 200 else got.error["code"])
            time.sleep(0.1)
        assert seen[0] in ({"right": 1}, "response_lost", "upstream_error")
        assert seen[1] == {"next": 1}


def test_event_stream_with_a_framed_answer_inside_is_data(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    """Bytes that look like HTTP within a body are its bytes."""
    inside = b"data: HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n0\r\n\r\n"
    fakes.script(events(chunk("a"), inside, DONE), answer(inside))
    with Caller(gateway) as caller:
        assert caller.send(request(STREAM)).answer().body == chunk("a") + inside + DONE
        assert caller.send(request(BODY)).answer().body == inside


def test_cut_answer_is_not_followed_by_another_on_its_connection(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """What was pipelined behind it is never answered: the caller knows that nothing is whole."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ncontent-length: 9\r\n\r\nabc"
    gate = Gate()
    fakes.script([head, gate, End.RESET])
    with Caller(gateway) as caller:
        caller.send(request(chat(one)) + request(BODY))
        fakes.reached(gate)
        caller.socket.recv(1, 2)
        fakes.open(gate)
        with pytest.raises(Cut) as cut:
            caller.answer()
    assert cut.value.got == b"abc"
