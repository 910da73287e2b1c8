"""Answers that come in odd pieces, or not to their end: all of the bytes, or a clear failure."""

import gzip
import json
import random
import socket
from typing import Any

import psutil
import pytest

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import (
    DONE,
    End,
    Gate,
    Script,
    Step,
    answer,
    chunk,
    comment,
    crlf,
    event,
    events,
    finish,
    head,
    torn,
)
from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import HELLO, chat, counted, model, settles, yaml
from tests.relay.callers import Answer, Caller, Cut, ask, chunks, request
from tests.relay.servers import drain, raw_server, read_head

ODD = event('{"choices":[{"delta":{"content":"é日🎉"}}]}')
BODIES = {
    "lf": comment("é") + ODD + DONE,
    "crlf": crlf(comment("é") + ODD + DONE),
    "cr-in-data": b"data: a\\r\r\n: c\r\n\r\n" + ODD + b"\n\n" + DONE,
    "named": b"id: 1\nevent: m\nretry: 5\ndata: a\ndata:\xf0\x9f\x8e\x89\n\n: x\n\ndata\n\n",
    "open-tail": ODD + b"data: no end, \xe6\x97\xa5",
}
EVENT_STREAM = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
LARGE = 16 * 1024 * 1024
NO_WORDS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def streamed(gateway: GatewayProcess, model: str) -> Answer:
    return ask(gateway, request(chat(model, stream=True)))


# --- torn ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_stream_torn_at_each_byte_arrives_unchanged(
    gateway: GatewayProcess, fakes: FakeServers, body: bytes
) -> None:
    with Caller(gateway) as caller:
        for cut in range(1, len(body)):
            fakes.script(events(*torn(body, cut)))
            got = caller.send(request(chat("fake", stream=True))).answer()
            assert (got.status, got.body) == (200, body), cut


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_stream_of_single_bytes_arrives_unchanged(
    gateway: GatewayProcess, fakes: FakeServers, body: bytes
) -> None:
    fakes.script(events(*torn(body, *range(1, len(body)))))
    assert streamed(gateway, "fake").body == body


@pytest.mark.parametrize("stream", [False, True])
def test_framing_torn_at_each_byte_is_read(
    gateway: GatewayProcess, fakes: FakeServers, stream: bool
) -> None:
    """The head, sizes of chunks with an extension, line ends and a trailer."""
    body = b"data: \xe6\x97\xa5\n\n"
    kind = "text/event-stream" if stream else "application/json"
    start = head(200, [("content-type", kind), ("transfer-encoding", "chunked")])
    raw = start + b"8;x=y\r\n%b\r\n0003\r\n%b\r\n0\r\nx-t: 1\r\n\r\n" % (body[:8], body[8:])
    with Caller(gateway) as caller:
        for cut in range(1, len(raw)):
            fakes.script(torn(raw, cut))
            got = caller.send(request(chat("fake", stream=stream))).answer()
            assert (got.status, got.body) == (200, body), cut
            assert got.header("x-t") is None


def test_media_is_passed_on_from_its_first_byte(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    gates = [Gate(), Gate()]
    start = head(200, [("content-type", "audio/wav"), ("content-length", "3")])
    fakes.script([start + b"a", gates[0], b"b", gates[1], b"c"])
    with Caller(gateway) as caller:
        caller.send(request({"model": "fake", "input": "x"}, path="/v1/audio/speech"))
        caller.until(b"\r\n\r\na")
        fakes.open(gates[0])
        caller.until(b"b")
        fakes.open(gates[1])
        caller.until(b"c")


# --- large ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", "audio/wav", "text/event-stream"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_answer_of_16_mib_arrives_unchanged_in_bounded_memory(
    gateway: GatewayProcess, fakes: FakeServers, kind: str, framing: str
) -> None:
    chance = random.Random(7)
    body = chance.randbytes(LARGE).replace(b"\n", b"\0") + b"\n\n"
    pieces = []
    place = 0
    while place < len(body):
        size = chance.choice([1, 100, 5_000, 200_000, 1_000_000])
        pieces.append(body[place : place + size])
        place += size
    if framing == "length":
        start = head(200, [("content-type", kind), ("content-length", str(len(body)))])
        fakes.script([start, *pieces])
    else:
        start = head(200, [("content-type", kind), ("transfer-encoding", "chunked")])
        fakes.script([start, *(chunks(piece)[:-5] for piece in pieces), b"0\r\n\r\n"])
    process = psutil.Process(gateway.process.pid)
    before = process.memory_info().rss
    got = streamed(gateway, "fake")
    assert got.status == 200
    assert got.body == body
    assert process.memory_info().rss - before < 40_000_000


def test_gzip_is_passed_on_untouched(gateway: GatewayProcess, fakes: FakeServers) -> None:
    """Also a stream that nobody wanted compressed, and a coding that no one here can read."""
    packed = gzip.compress(json.dumps({"text": "é" * 5000}).encode()) + b"\n\n"
    for coding in ("gzip", "zstd"):
        for kind in ("application/json", "text/event-stream"):
            framing = [("content-type", kind), ("content-length", str(len(packed)))]
            start = head(200, [*framing, ("content-encoding", coding)])
            fakes.script([start, *torn(packed, *range(1, len(packed), 9))])
            got = ask(gateway, request(chat("fake"), "accept-encoding: gzip"))
            assert got.body == packed
            assert got.header("content-encoding") == coding


# --- the end -------------------------------------------------------------------------------------

ENDS: dict[str, Script] = {
    "chunked": events(ODD, finish()),
    "length": answer(ODD + finish(), content_type="text/event-stream"),
    "closed": [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + ODD + finish(),
        0.05,
        End.CLOSE,
    ],
    "trailers": [
        head(200, EVENT_STREAM) + chunks(ODD + finish(), trailers=b"content-length: 3\r\nx: y\r\n")
    ],
}


@pytest.mark.parametrize("script", ENDS.values(), ids=ENDS)
def test_stream_without_done_ends_as_it_is(
    gateway: GatewayProcess, fakes: FakeServers, one: str, script: Script
) -> None:
    fakes.script(script)
    got = streamed(gateway, one)
    assert got.body == ODD + finish()
    assert got.header("x") is None
    assert streamed(gateway, one).status == 200
    eventually(lambda: counted(gateway, one) == {"ok": 2.0})


STRAY = [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray", b"stray", b"0\r\n\r\n", b"\r\n"]


@pytest.mark.parametrize("stray", STRAY, ids=["answer", "text", "chunk", "line"])
def test_bytes_after_the_end_of_a_stream_are_nobodys(
    gateway: GatewayProcess, fakes: FakeServers, one: str, stray: bytes
) -> None:
    whole = chunk("a") + DONE
    fakes.script([head(200, EVENT_STREAM) + chunks(whole) + stray])
    got = streamed(gateway, one)
    assert (got.status, got.body) == (200, whole)
    following = ask(gateway, request(chat(one)))
    assert following.status == 200
    assert b"stray" not in following.body


@pytest.mark.parametrize("stray", STRAY, ids=["answer", "text", "chunk", "line"])
def test_bytes_on_a_kept_connection_are_nobodys(
    gateway: GatewayProcess, fakes: FakeServers, one: str, stray: bytes
) -> None:
    whole = chunk("a") + DONE
    fakes.script([head(200, EVENT_STREAM) + chunks(whole), 0.03, stray])
    got = streamed(gateway, one)
    assert (got.status, got.body) == (200, whole)
    strays_came(gateway, fakes)
    following = ask(gateway, request(chat(one)))
    assert following.status == 200
    assert b"stray" not in following.body


def strays_came(gateway: GatewayProcess, fakes: FakeServers) -> None:
    """All that the first server had to say is at the gateway, and was looked at."""
    eventually(lambda: fakes.servers[0].in_flight == 0)
    for _ in range(3):
        assert gateway.http.get("/health").status_code == 200


def test_events_after_done_are_passed_on(gateway: GatewayProcess, fakes: FakeServers) -> None:
    body = chunk("a") + DONE + comment("late") + chunk("b")
    for script in (events(body), events(chunk("a") + DONE, 0.02, comment("late") + chunk("b"))):
        fakes.script(script)
        assert streamed(gateway, "fake").body == body


def test_bytes_after_the_end_of_a_plain_answer_are_nobodys(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    """The answer, or an error that says that the server is out of step; never more bytes."""
    for stray in STRAY:
        [whole] = answer({"right": 1})
        assert isinstance(whole, bytes)
        fakes.script([whole + stray])
        got = ask(gateway, request(chat(one)))
        if got.status == 200:
            assert json.loads(got.body) == {"right": 1}
        else:
            assert got.status == 502
            assert got.error
        assert ask(gateway, request(chat(one))).status == 200


# --- early, and in steps -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reads-on", "half-closes", "closes"])
@pytest.mark.parametrize("status", [200, 413])
def test_answer_before_the_request_was_read_is_delivered(
    start_gateway: StartGateway, how: str, status: int
) -> None:
    """A server that closes with unread bytes sends a reset, which may overtake its answer."""
    said = {"error": {"message": "too long", "type": "x", "param": None, "code": None}}
    [early] = answer(said, status, headers=[("connection", "close")])
    assert isinstance(early, bytes)

    def serve(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(early)
        if how == "reads-on":
            drain(connection)
        elif how == "half-closes":
            connection.shutdown(socket.SHUT_WR)
            drain(connection)

    with raw_server(serve) as url:
        gateway = start_gateway(yaml({"early": model([url])}))
        for _ in range(3):
            got = ask(gateway, request(chat("early", pad="x" * 20_000_000)))
            if how == "closes" and got.status == 502:
                continue
            assert (got.status, json.loads(got.body)) == (status, said)
        settles(gateway, "early")


def test_interim_responses_are_not_the_answer(gateway: GatewayProcess, fakes: FakeServers) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    interim += b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\nx-interim: 1\r\n\r\n"
    [plain] = answer({"ok": 1})
    assert isinstance(plain, bytes)
    for stream, script in ((False, [plain]), (True, events(chunk("a"), DONE))):
        start = script[0]
        assert isinstance(start, bytes)
        for cut in (None, 3, 30, len(interim) - 1, len(interim), len(interim) + 5):
            pieces = [interim + start] if cut is None else torn(interim + start, cut)
            fakes.script([*pieces, *script[1:]])
            got = ask(gateway, request(chat("fake", stream=stream)))
            assert (got.status, got.interim) == (200, ())
            assert got.body == (chunk("a") + DONE if stream else b'{"ok": 1}')
            assert (got.header("x-interim"), got.header("link")) == (None, None)


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
    ],
)
def test_interim_response_that_means_something_else_is_502(
    gateway: GatewayProcess, fakes: FakeServers, one: str, interim: bytes
) -> None:
    fakes.script([interim, *answer({"ok": 1})])
    got = ask(gateway, request(chat(one)))
    assert (got.status, got.error["code"]) == (502, "upstream_error")


# --- kept connections ----------------------------------------------------------------------------


def warmed(gateway: GatewayProcess, fakes: FakeServers, name: str) -> None:
    """One connection to the model's server is kept."""
    assert ask(gateway, request(chat(name))).status == 200
    fakes.reset()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
def test_request_on_a_kept_connection_that_died_is_repeated_unseen(
    gateway: GatewayProcess, fakes: FakeServers, one: str, stream: bool, end: End
) -> None:
    warmed(gateway, fakes, one)
    fakes.script([end])
    got = ask(gateway, request(chat(one, stream=stream)))
    assert (got.status, got.header("x-lamplighter-attempts")) == (200, "1")
    first, second = fakes.posts
    assert first.connection != second.connection
    assert first.body == second.body
    assert counted(gateway, one) == {"ok": 2.0}
    assert all(endpoint["healthy"] for endpoint in gateway.model(one)["endpoints"])


def test_request_on_a_kept_connection_is_repeated_once(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    warmed(gateway, fakes, one)
    fakes.script([End.CLOSE], [End.CLOSE])
    got = ask(gateway, request(chat(one)))
    assert (got.status, got.error["code"]) == (502, "upstream_error")
    assert len(fakes.posts) == 2


@pytest.mark.parametrize("began", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_request_whose_answer_began_is_not_repeated(
    gateway: GatewayProcess, fakes: FakeServers, one: str, began: bytes
) -> None:
    warmed(gateway, fakes, one)
    fakes.script([began, 0.02, End.CLOSE])
    got = ask(gateway, request(chat(one)))
    assert (got.status, got.error["code"]) == (502, "upstream_error")
    assert len(fakes.posts) == 1


def test_request_on_a_fresh_connection_is_not_repeated(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    fakes.script([End.CLOSE])
    assert ask(gateway, request(chat(one))).status == 502
    assert len(fakes.posts) == 1


@pytest.mark.parametrize(
    "goodbye", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"]
)
def test_kept_connection_that_the_server_closes_is_not_used(
    gateway: GatewayProcess, fakes: FakeServers, one: str, goodbye: bytes
) -> None:
    """As vLLM does after 5 s; some servers say a last word."""
    for end in (End.CLOSE, End.RESET):
        fakes.reset()
        fakes.script([*answer({"ok": 1}), 0.02, goodbye, end])
        assert ask(gateway, request(chat(one))).status == 200
        strays_came(gateway, fakes)
        for _ in range(3):
            assert ask(gateway, request(chat(one))).status == 200
        assert len(fakes.posts) == 4


# --- cut off -------------------------------------------------------------------------------------

DIALECTS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "/chat/completions": (chunk("é"), {"messages": HELLO}),
    "/completions": (event({"choices": [{"text": "é"}]}), {"prompt": "x"}),
    "/responses": (event({"type": "response.created"}, "response.created"), {"input": "x"}),
    "/messages": (
        event({"type": "message_start"}, "message_start"),
        {"max_tokens": 9, "messages": HELLO},
    ),
}


@pytest.fixture(scope="module")
def impatient(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    """`fast-N`: silence of 300 ms ends an answer."""
    timeouts = {"idle": "300ms", "first_byte": "2s"}
    one = fake_servers.urls[:1]
    return start_gateway(yaml({f"fast-{n}": model(one, timeouts=timeouts) for n in range(40)}))


@pytest.fixture(scope="module")
def fast_names() -> list[str]:
    return [f"fast-{n}" for n in range(40)]


def told_in(path: str, after: bytes) -> dict[str, Any]:
    """The error of the one event that follows what was whole, in the dialect of the path."""
    assert after.endswith(b"\n\n")
    lines = after.removesuffix(b"\n\n").split(b"\n")
    named = path in ("/responses", "/messages")
    assert len(lines) == (2 if named else 1)
    if named:
        assert lines[0] == b"event: error"
    said = json.loads(lines[-1].removeprefix(b"data: "))
    if named:
        assert said["type"] == "error"
    error: dict[str, Any] = said if path == "/responses" else said["error"]
    assert error["message"]
    return error


@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("torn_event", [b"", b'data: {"torn', b"data: \xe6\x97"])
@pytest.mark.parametrize("end", [End.STALL, End.RESET, End.CLOSE])
def test_stream_that_breaks_off_ends_with_an_error_of_its_dialect(
    impatient: GatewayProcess,
    fakes: FakeServers,
    fast_names: list[str],
    path: str,
    torn_event: bytes,
    end: End,
) -> None:
    name = fast_names[0]
    first, body = DIALECTS[path]
    fakes.script(
        events(first, 0.02, torn_event, 0.02, end) if torn_event else events(first, 0.02, end)
    )
    got = ask(impatient, request({**body, "model": name, "stream": True}, path=f"/v1{path}"))
    assert (got.status, got.body[: len(first)]) == (200, first)
    error = told_in(path, got.body[len(first) :])
    assert error["code"] == ("upstream_timeout" if end is End.STALL else "response_lost")
    assert ask(impatient, request(chat(name))).status == 200  # and forgives: three would open


def test_stream_with_a_length_that_breaks_off_ends_with_an_error(
    gateway: GatewayProcess, fakes: FakeServers, one: str
) -> None:
    [whole] = answer(chunk("a") + chunk("b") + DONE, content_type="text/event-stream")
    assert isinstance(whole, bytes)
    fakes.script([whole[: -len(DONE)], 0.02, End.CLOSE])
    got = streamed(gateway, one)
    assert got.body.startswith(chunk("a") + chunk("b"))
    assert told_in("/chat/completions", got.body[len(chunk("a") + chunk("b")) :])


SHORT: dict[str, list[Step]] = {
    "length": [NO_WORDS + b'content-length: 99\r\n\r\n{"a":1}'],
    "length-by-one": [NO_WORDS + b'content-length: 8\r\n\r\n{"a":1}'],
    "no-last-chunk": [NO_WORDS + b'transfer-encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n'],
    "half-last-chunk": [NO_WORDS + b'transfer-encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n0\r\n'],
    "no-body-yet": [NO_WORDS + b"content-length: 7\r\n\r\n"],
}


@pytest.mark.parametrize("end", [End.STALL, End.RESET, End.CLOSE])
@pytest.mark.parametrize("path", DIALECTS)
def test_plain_answer_cut_short_is_an_error(
    impatient: GatewayProcess, fakes: FakeServers, fast_names: list[str], path: str, end: End
) -> None:
    name = fast_names[0]
    for script in SHORT.values():
        fakes.script([*script, 0.02, end])
        body = {**DIALECTS[path][1], "model": name}
        got = ask(impatient, request(body, path=f"/v1{path}"))
        status, code = (504, "upstream_timeout") if end is End.STALL else (502, "response_lost")
        assert got.status == status
        assert json.loads(got.body)["error"]["code"] == code
        assert ask(impatient, request(chat(name))).status == 200


@pytest.mark.parametrize("end", [End.STALL, End.RESET, End.CLOSE])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("kind", ["audio/wav", "application/json"])
def test_answer_that_was_passed_in_part_is_cut_where_the_server_stopped(
    impatient: GatewayProcess,
    fakes: FakeServers,
    fast_names: list[str],
    end: End,
    framing: str,
    kind: str,
) -> None:
    """Nothing can be said any more, so the caller's connection ends before the answer does."""
    name = fast_names[0]
    part = b"x" * (3 if kind == "audio/wav" else 3_000_000)
    if framing == "length":
        start = head(200, [("content-type", kind), ("content-length", str(len(part) + 1))])
        sent = start + part
    else:
        start = head(200, [("content-type", kind), ("transfer-encoding", "chunked")])
        sent = start + chunks(part)[:-5]
    gate = Gate()
    fakes.script([sent, gate, end])
    with Caller(impatient) as caller:
        caller.send(request({"model": name, "input": "x"}, path="/v1/audio/speech"))
        fakes.reached(gate)
        caller.socket.recv(1, socket.MSG_PEEK)
        fakes.open(gate)
        with pytest.raises(Cut) as cut:
            caller.answer()
    if end is not End.RESET:  # which throws away what is under way
        assert cut.value.got == part
    assert ask(impatient, request(chat(name))).status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", [End.RESET, End.CLOSE])
@pytest.mark.parametrize("began", [b"", b"HTTP/1.1 200 OK\r\ncontent-ty", b"HTTP/1.1 200 OK\r\n"])
def test_server_that_dies_before_the_head_is_502_or_another(
    gateway: GatewayProcess,
    fakes: FakeServers,
    one: str,
    two: str,
    stream: bool,
    end: End,
    began: bytes,
) -> None:
    script: list[Step] = [began, 0.02, end] if began else [end]
    fakes.script(script, script)
    got = ask(gateway, request(chat(one, stream=stream)))
    assert (got.status, got.error["code"]) == (502, "upstream_error")
    got = ask(gateway, request(chat(two, stream=stream)))
    assert (got.status, got.header("x-lamplighter-attempts")) == (200, "2")
