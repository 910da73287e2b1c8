"""Any bytes from either side: an answer, a clear refusal or a cut, and never a lie.

The gateway is a process on a real socket. Examples are few and short, because what does not end
is ended by timeouts; `tests/backends/test_upstream_fuzz.py` tries more on the parser.
"""

import json
import socket
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.conftest import StartGateway
from tests.fakes.threaded import FakeServers
from tests.fakes.wire import DONE, End, Step, answer, chunk, comment, event, finish, head
from tests.gateway import GatewayProcess
from tests.proxy.scenes import chat, model, yaml
from tests.relay.callers import Answer, Caller, Cut, ask, chunks, request

FUZZ = settings(
    deadline=None,
    max_examples=150,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink what hangs takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
ERRORS = {400, 404, 405, 408, 411, 413, 414, 415, 417, 426, 431, 501, 505}


@pytest.fixture(scope="module")
def fuzzed(start_gateway: StartGateway, fake_servers: FakeServers) -> GatewayProcess:
    """`fake` for callers' rubbish, `upstream` for servers'."""
    patience = {"header_timeout": "200ms", "body_timeout": "200ms", "max_body": 100_000}
    one = fake_servers.urls[:1]
    timeouts = {"first_byte": "400ms", "idle": "400ms"}
    models = {
        "fake": model(one, timeouts={"first_byte": "1s"}),
        "upstream": model(one, timeouts=timeouts),
    }
    return start_gateway(yaml(models, server=patience))


def torn(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[a:b] for a, b in zip(places, places[1:], strict=False)]


# --- mutation ------------------------------------------------------------------------------------

Mutation = Callable[[bytes], bytes]
PLACE = st.integers(0, 2**16)
FRAGMENTS = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"%", b"\xff", b"\r\n\r\n", b"0"]
    + [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n"]
    + [b"Connection: close\r\n", b"Connection: keep-alive, upgrade\r\n", b"Upgrade: h2c\r\n"]
    + [b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n", b" folded\r\n", b"x" * 3000]
    + [
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"HTTP/1.1",
        b"HTTP/1.0 200 OK\r\n",
    ]
    + [b"HTTP/1.1 100 Continue\r\n\r\n", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b"data: x\n\n"]
)


def _insert(place: int, what: bytes) -> Mutation:
    return lambda raw: raw[: place % (len(raw) + 1)] + what + raw[place % (len(raw) + 1) :]


def _drop(place: int, count: int) -> Mutation:
    return lambda raw: raw[: place % (len(raw) + 1)] + raw[place % (len(raw) + 1) + count :]


def _change(place: int, bit: int) -> Mutation:
    def change(raw: bytes) -> bytes:
        at = place % max(len(raw), 1)
        return raw[:at] + bytes(b ^ (1 << bit) for b in raw[at : at + 1]) + raw[at + 1 :]

    return change


def _double(place: int, count: int) -> Mutation:
    def double(raw: bytes) -> bytes:
        at = place % (len(raw) + 1)
        return raw[: at + count] + raw[at:]

    return double


def _end(place: int) -> Mutation:
    return lambda raw: raw[: place % (len(raw) + 1)]


MUTATIONS = st.lists(
    st.builds(_insert, PLACE, FRAGMENTS | st.binary(max_size=4))
    | st.builds(_drop, PLACE, st.integers(1, 40))
    | st.builds(_change, PLACE, st.integers(0, 7))
    | st.builds(_double, PLACE, st.integers(1, 60))
    | st.builds(_end, PLACE),
    max_size=4,
)
CUTS = st.lists(PLACE, max_size=5)


def mutated(raw: bytes, mutations: list[Mutation]) -> bytes:
    for mutation in mutations:
        raw = mutation(raw)
    return raw


# --- callers -------------------------------------------------------------------------------------

BODY = json.dumps(chat("fake")).encode()
STREAM = json.dumps(chat("fake", stream=True)).encode()
REQUESTS = st.sampled_from(
    [
        request(BODY, "connection: close"),
        request(BODY) + request(BODY, "connection: close"),
        request(STREAM, "connection: close"),
        request(STREAM) + request(BODY, path="/v1/embeddings?x=%20y"),
        request(chunks(BODY[:9], BODY[9:]), "transfer-encoding: chunked", framed=False),
        request(chunks(BODY, trailers=b"x: y\r\n"), "transfer-encoding: chunked", framed=False),
        request(BODY, "expect: 100-continue", "x-request-id: a"),
        b"GET /v1/models/fake HTTP/1.1\r\nhost: x\r\n\r\n" + request(BODY),
        b"GET /v1/responses/resp_1?a=b HTTP/1.1\r\nhost: x\r\n\r\n",
    ]
)


def answers(caller: Caller) -> list[Answer]:
    """Everything until the gateway closes, or has nothing more to say."""
    found: list[Answer] = []
    while True:
        try:
            if found and not caller.buffered:
                caller.socket.settimeout(0.02)
                if not caller.peek():
                    return found
                caller.socket.settimeout(10)
            found.append(caller.answer("GET"))
        except TimeoutError:
            assert found, "neither an answer nor a close"
            return found
        except Cut as cut:
            if cut.got:
                raise
            return found


@FUZZ
@given(raw=REQUESTS, mutations=MUTATIONS, cuts=CUTS)
def test_any_request_is_answered_or_refused(
    fuzzed: GatewayProcess,
    fakes: FakeServers,
    raw: bytes,
    mutations: list[Mutation],
    cuts: list[int],
) -> None:
    fakes.reset()
    raw = mutated(raw, mutations)
    with Caller(fuzzed, 10) as caller:
        caller.try_send(*torn(raw, cuts))
        got = answers(caller)
    in_vain = any(not post.answered for post in fakes.posts)  # the fake broke on odd JSON
    for each in got:
        assert each.status in {200, *ERRORS} or (in_vain and each.status in (502, 504)), each
        if each.status in ERRORS and each.body:
            assert each.error["type"] == "invalid_request_error"
    for post in fakes.posts:
        names = [name.lower() for name, _ in post.headers]
        assert names.count("content-length") == names.count("host") == 1
        assert "transfer-encoding" not in names
        assert b'"fake"' in post.body
    assert fuzzed.process.poll() is None
    assert ask(fuzzed, request(BODY)).status == 200


@FUZZ
@given(raw=st.binary(max_size=300), cuts=CUTS)
def test_any_bytes_are_refused(fuzzed: GatewayProcess, raw: bytes, cuts: list[int]) -> None:
    with Caller(fuzzed, 10) as caller:
        caller.try_send(*torn(raw, cuts))
        got = answers(caller)
    assert all(each.status in ERRORS for each in got)
    assert ask(fuzzed, request(BODY)).status == 200


# --- servers -------------------------------------------------------------------------------------

PLAIN = json.dumps({"id": "x", "choices": [{"message": {"content": "é" * 40}}]}).encode()
EVENTS = comment("é") + chunk("a") + event('{"choices":[{"delta":{"content":"日🎉"}}]}') + finish()
SSE = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
JSON = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
LENGTH = [("content-type", "text/event-stream"), ("content-length", str(len(EVENTS + DONE)))]
WHOLE: list[tuple[bytes, bytes, bool]] = [
    (b"".join(s for s in answer(PLAIN) if isinstance(s, bytes)), PLAIN, False),
    (head(200, JSON) + chunks(PLAIN[:7], PLAIN[7:30], PLAIN[30:]), PLAIN, False),
    (head(200, SSE) + chunks(EVENTS[:9], EVENTS[9:100], EVENTS[100:], DONE), EVENTS + DONE, True),
    (head(200, LENGTH) + EVENTS + DONE, EVENTS + DONE, True),
]
ENDS = st.sampled_from([End.CLOSE, End.CLOSE, End.RESET])


def answered(
    gateway: GatewayProcess, fakes: FakeServers, pieces: list[bytes], end: End, *, stream: bool
) -> Answer | Cut:
    """What a caller gets of these bytes. Before and after it the server is well."""
    assert ask(gateway, request(chat("upstream"))).status == 200
    steps: list[Step] = []
    for piece in pieces:
        steps += [piece, 0.002]
    fakes.reset()
    # The first attempt may meet a kept connection that "died", and be repeated unseen.
    fakes.script([*steps, end], [*steps, end])
    try:
        return ask(gateway, request(chat("upstream", stream=stream)))
    except Cut as cut:
        return cut
    finally:
        fakes.reset()


def failed(got: Answer | Cut, *, stream: bool) -> bool:
    """Whether the caller was told, in one way or another, that the answer is not whole."""
    if isinstance(got, Cut):
        return True
    if got.status != 200:
        assert got.status in (502, 504)
        assert got.error["code"] in ("upstream_error", "upstream_timeout", "response_lost")
        return True
    last = got.body.rstrip(b"\n").rpartition(b"\n\n")[2]
    if stream and last.startswith(b'data: {"error":'):
        assert got.body.endswith(b"\n\n")
        json.loads(last.removeprefix(b"data: "))
        return True
    return False


@settings(FUZZ, max_examples=80)  # a silent server takes 0.4 s
@given(which=st.integers(0, 3), cuts=CUTS, lost=PLACE, end=ENDS | st.just(End.STALL))
@example(which=0, cuts=[], lost=1, end=End.CLOSE)
@example(which=1, cuts=[], lost=1, end=End.CLOSE)
@example(which=2, cuts=[], lost=1, end=End.CLOSE)
@example(which=2, cuts=[], lost=5, end=End.CLOSE)
@example(which=3, cuts=[], lost=1, end=End.CLOSE)
def test_answer_that_lacks_its_end_is_never_whole(
    fuzzed: GatewayProcess, fakes: FakeServers, which: int, cuts: list[int], lost: int, end: End
) -> None:
    raw, body, stream = WHOLE[which]
    raw = raw[: len(raw) - 1 - lost % len(raw)]
    got = answered(fuzzed, fakes, torn(raw, cuts), end, stream=stream)
    assert failed(got, stream=stream), got
    if isinstance(got, Answer) and got.status == 200:
        whole = got.body.rstrip(b"\n").rpartition(b"\n\n")[0]
        assert body.startswith(whole)
    assert ask(fuzzed, request(chat("upstream"))).status == 200


@FUZZ
@given(which=st.integers(0, 3), cuts=CUTS, end=ENDS)
def test_answer_that_has_its_end_is_whole(
    fuzzed: GatewayProcess, fakes: FakeServers, which: int, cuts: list[int], end: End
) -> None:
    """Also when the server then resets."""
    raw, body, stream = WHOLE[which]
    got = answered(fuzzed, fakes, torn(raw, cuts), end, stream=stream)
    assert isinstance(got, Answer)
    assert (got.status, got.body) == (200, body)


@FUZZ
@given(which=st.integers(0, 3), mutations=MUTATIONS, cuts=CUTS, end=ENDS)
def test_any_answer_is_passed_whole_or_as_a_failure(
    fuzzed: GatewayProcess,
    fakes: FakeServers,
    which: int,
    mutations: list[Mutation],
    cuts: list[int],
    end: End,
) -> None:
    """A body that is passed as whole stands in what the server wrote, under a head that says so."""
    raw, _, stream = WHOLE[which]
    raw = mutated(raw, mutations)
    got = answered(fuzzed, fakes, torn(raw, cuts), end, stream=stream)
    assert fuzzed.process.poll() is None
    if isinstance(got, Answer) and got.header("x-lamplighter-error-source") == "gateway":
        assert failed(got, stream=stream)
    elif isinstance(got, Answer) and not failed_stream(got):
        assert 200 <= got.status <= 599
        assert got.body in raw or any(got.body in body for body in chunked_bodies(raw))
        start = raw.lstrip(b"\r\n").partition(b"\r\n\r\n")[0].lower()
        announced = start.partition(b"\r\ncontent-length: ")[2].partition(b"\r")[0]
        if b"chunked" not in raw.lower() and announced.isdigit() and got.status == 200:
            assert len(got.body) == int(announced)
    assert ask(fuzzed, request(chat("upstream"))).status == 200


def failed_stream(got: Answer) -> bool:
    return b'data: {"error":' in got.body


def chunked_bodies(raw: bytes) -> list[bytes]:
    """What a body may be that begins behind any of the empty lines."""
    pieces = raw.split(b"\r\n\r\n")
    return [unchunked(b"\r\n\r\n".join(pieces[n:])) for n in range(1, len(pieces))]


def unchunked(rest: bytes) -> bytes:
    found = b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return found
        found += rest[:size]
        rest = rest[size + 2 :]
    return found


def test_caller_that_sends_and_never_reads_is_no_trouble(fuzzed: GatewayProcess) -> None:
    """Hundreds of rubbish connections that are left open."""
    callers = [Caller(fuzzed) for _ in range(200)]
    for number, caller in enumerate(callers):
        caller.try_send(request(BODY)[: number * 2], b"\0" * (number % 3))
    assert ask(fuzzed, request(BODY)).status == 200
    for caller in callers:
        caller.socket.shutdown(socket.SHUT_RDWR)
        caller.socket.close()
    assert ask(fuzzed, request(BODY)).status == 200
