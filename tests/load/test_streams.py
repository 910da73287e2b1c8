"""What the stream driver counts, however the bytes are torn."""

from typing import Any

import pytest

from load_tests.rig.streams import Load, Stream
from load_tests.rig.upstream import CHUNKS, DONE, LAST, STREAM_HEAD

ANSWER = STREAM_HEAD + b"".join(CHUNKS) + LAST + DONE


class Transport:
    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def seen(answer: bytes, piece: int) -> tuple[Stream, Transport, Load]:
    load = Load(port=0, streams=1, pace_ms=20, chunks=16)
    stream = Stream(load)
    transport: Any = Transport()
    stream.connection_made(transport)
    for begin in range(0, len(answer), piece):
        stream.data_received(answer[begin : begin + piece])
    return stream, transport, load


@pytest.mark.parametrize("piece", [1, 2, 7, 100, 1000, 100_000])
def test_torn_answer_is_counted_whole(piece: int) -> None:
    stream, transport, load = seen(ANSWER, piece)
    assert stream.chunks == len(CHUNKS)
    assert stream.whole
    assert transport.closed
    assert load.running == 1


def test_cut_answer_is_not_whole() -> None:
    stream, transport, _ = seen(ANSWER[: -len(DONE)], 1000)
    assert stream.chunks == len(CHUNKS)
    assert not stream.whole
    assert not transport.closed
