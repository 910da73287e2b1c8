"""Any bytes, torn anywhere: the transport ends in a whole body or in an UpstreamError."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.upstream import Response, UpstreamError
from backends.upstream_connection import Connection

pytestmark = pytest.mark.anyio

FUZZ = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Wire(asyncio.Transport):
    """A socket that takes everything and sends what a test feeds to the protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.reading = True

    def write(self, data: Any) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


class Owner:
    """Counts as an Origin does."""

    def __init__(self) -> None:
        self.open = 0
        self.kept = 0

    def joined(self, connection: Connection) -> None:
        self.open += 1

    def left(self, connection: Connection) -> None:
        self.open -= 1

    def keep(self, connection: Connection) -> float:
        self.kept += 1
        return 0.0


async def exchange(pieces: list[bytes], *, head: bool = False) -> tuple[int, bytes, Owner]:
    """Feed the pieces, then the end of the connection. Raises UpstreamError, nothing else."""
    owner, wire = Owner(), Wire()
    connection = Connection(owner, "peer:1")
    answer = connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", bodiless=head, first_byte_s=60)
    connection.connection_made(wire)
    for piece in pieces:
        if not wire.aborted:
            connection.data_received(piece)
    if not wire.aborted:
        connection.eof_received()
    assert answer.done()
    response = Response(connection, 60) if connection.status else None
    try:
        if response is None:
            assert connection.error is not None
            raise connection.error
        whole = bytearray()
        while piece := await response.read():
            whole += piece
        return response.status, bytes(whole), owner
    finally:
        if response is not None:
            response.close()
        connection.connection_lost(None)
        connection.connection_lost(None)
        assert owner.open == 0


def torn(raw: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[a:b] for a, b in zip(places, places[1:], strict=False)]


def chunked(body: bytes, sizes: list[int]) -> bytes:
    raw, at = b"", 0
    for size in [*sizes, len(body)]:
        piece = body[at : at + size]
        at += len(piece)
        raw += b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
    return raw + b"0\r\n\r\n"


CUTS = st.lists(st.integers(0, 2**16), max_size=12)
HEADS = [b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\n"]


@FUZZ
@given(
    body=st.binary(max_size=300),
    cuts=CUTS,
    head=st.sampled_from(HEADS),
    framing=st.sampled_from(["length", "chunked", "close"]),
    sizes=st.lists(st.integers(1, 50), max_size=5),
)
async def test_valid_response_torn_anywhere_arrives_whole(
    body: bytes, cuts: list[int], head: bytes, framing: str, sizes: list[int]
) -> None:
    tail = {
        "length": b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, sizes),
        "close": b"\r\n" + body,
    }[framing]
    status, whole, owner = await exchange(torn(head + tail, cuts))
    assert (status, whole) == (200, body)
    assert owner.kept == 0  # the peer closed at the end


@FUZZ
@given(body=st.binary(min_size=1, max_size=300), cuts=CUTS, lost=st.integers(1, 400))
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_response_that_lacks_its_end_is_an_error(
    framing: str, body: bytes, cuts: list[int], lost: int
) -> None:
    tail = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    if framing == "chunked":
        tail = b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, [7])
    raw = b"HTTP/1.1 200 OK\r\n" + tail
    with pytest.raises(UpstreamError):
        await exchange(torn(raw[: max(len(raw) - lost, 0)], cuts))


@FUZZ
@given(raw=st.binary(max_size=500), cuts=CUTS, head=st.booleans())
async def test_random_bytes_are_an_upstream_error(raw: bytes, cuts: list[int], head: bool) -> None:
    with pytest.raises(UpstreamError):
        await exchange(torn(raw, cuts), head=head)


PARTS = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 204 \r\n", b"HTTP/1.1 100 C\r\n", b"\r\n", b"\n", b"\r"]
    + [b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"]
    + [b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"\0"]
    + [b"Connection: upgrade\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b" folded\r\n"]
)


@settings(FUZZ, max_examples=1500)
@given(parts=st.lists(PARTS | st.binary(max_size=6), max_size=14), cuts=CUTS, head=st.booleans())
async def test_plausible_bytes_end_in_a_body_or_an_upstream_error(
    parts: list[bytes], cuts: list[int], head: bool
) -> None:
    raw = b"".join([b"HTTP/1.1 200 OK\r\n", *parts])
    try:
        status, whole, _ = await exchange(torn(raw, cuts), head=head)
    except UpstreamError:
        return
    assert 200 <= status <= 599
    assert whole in raw or b"hunked" in raw
    assert not (head and whole)
