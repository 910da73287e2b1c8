"""Events pass whole and unchanged, however the network tore them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sse import EventSplitter, event_data, has_content, last_boundary, split_events
from router.usage import StreamMeter, Usage, from_body

STREAM = (
    b": hello\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    + 'data: {"choices":[{"delta":{"content":"né\\u00e9 🎉"}}]}\r\n\r\n'.encode()
    + b"event: x\ndata: a\ndata: b\n\n"
    b"data: [DONE]\n\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_splitter_any_tearing_gives_whole_events_and_the_same_bytes(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    splitter = EventSplitter()
    out = [splitter.feed(chunk) for chunk in chunks if chunk]
    assert b"".join(out) + splitter.rest() == STREAM
    assert all(last_boundary(piece) == len(piece) for piece in out)
    assert not splitter.torn


@given(st.lists(st.binary(max_size=30)))
def test_splitter_any_bytes_come_out_unchanged(chunks):
    splitter = EventSplitter()
    out = b"".join(splitter.feed(c) for c in chunks) + splitter.rest()
    assert out == b"".join(chunks)


def test_splitter_giant_event_passes_in_pieces_and_says_so():
    splitter = EventSplitter(torn_limit=10)
    assert splitter.feed(b"data: 0123456789") == b"data: 0123456789"
    assert splitter.torn
    assert splitter.feed(b"01") == b"01"  # nothing of it is held back once it is in pieces
    assert splitter.feed(b"0\n\n") == b"0\n\n"
    assert not splitter.torn


def test_split_events_joins_back():
    assert b"".join(split_events(STREAM)) == STREAM
    assert [event_data(e) for e in split_events(STREAM)][-2:] == [b"a\nb", b"[DONE]"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n', False),
        (b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n', True),
        (b'data: {"choices":[{"delta":{"reasoning_content": "Hm"}}]}\n\n', True),
        (b'data: {"choices":[{"text":" a"}]}\n\n', True),
        (b'data: {"type":"response.output_text.delta","delta":"a"}\n\n', True),
        (b'data: {"delta":{"tool_calls":[{"function":{"arguments":"{"}}]}}\n\n', True),
    ],
)
def test_has_content_finds_the_first_token(event, expected):
    assert has_content(event) is expected


USAGE_CHUNK = (
    b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,'
    b'"prompt_tokens_details":{"cached_tokens":2}}}\n\n'
)


def test_meter_drops_only_the_usage_chunk_that_was_not_asked_for():
    meter = StreamMeter(drop=True)
    assert meter.see(b"data: 1\n\n" + USAGE_CHUNK + b"data: [DONE]\n\n") == (
        b"data: 1\n\ndata: [DONE]\n\n"
    )
    assert meter.usage == Usage(5, 7, 2)


def test_meter_keeps_the_usage_chunk_that_was_asked_for():
    meter = StreamMeter(drop=False)
    assert meter.see(USAGE_CHUNK) == USAGE_CHUNK
    assert meter.usage == Usage(5, 7, 2)


def test_meter_keeps_content_that_talks_of_usage_or_carries_null():
    chunk = (
        b'data: {"choices":[{"delta":{"content":"\\"usage\\""}}],"usage":null}\n\n'
        b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}\n\n'
        b'data: not json "usage"\n\n'
    )
    assert StreamMeter(drop=True).see(chunk) == chunk


def test_meter_reads_responses_and_messages():
    meter = StreamMeter(drop=False)
    meter.see(
        b"event: message_start\ndata: "
        b'{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
    )
    meter.see(b'event: message_delta\ndata: {"usage":{"output_tokens":4}}\n\n')
    assert meter.usage == Usage(9, 4, 0)
    meter = StreamMeter(drop=False)
    meter.see(
        b'data: {"type":"response.completed","response":{"usage":{"input_tokens":3,'
        b'"output_tokens":2,"input_tokens_details":{"cached_tokens":1}}}}\n\n'
    )
    assert meter.usage == Usage(3, 2, 1)


def test_from_body_reads_plain_and_gzipped_answers():
    import gzip

    body = b'{"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
    assert from_body(body, gzipped=False) == Usage(3, 2, 0)
    assert from_body(gzip.compress(body), gzipped=True) == Usage(3, 2, 0)
    assert from_body(b"not json", gzipped=False) is None
    assert from_body(b"not gzip", gzipped=True) is None
    assert from_body(b'{"usage":null}', gzipped=False) is None


@pytest.mark.parametrize("count", ["-1", "18446744073709551615", "9" * 400])
def test_counts_that_no_answer_has_are_not_believed(count):
    body = f'{{"usage":{{"prompt_tokens":{count},"completion_tokens":7}}}}'.encode()
    assert from_body(body, gzipped=False) == Usage(0, 7, 0)
