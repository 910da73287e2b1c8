"""Forms: the model's name is found and changed, every other byte stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest
from router.multipart import MAX_PARTS, parse_multipart

FORM = (
    b'--xYz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n\x00\x01--xYmodel\r\n\xff\r\n"
    b'--xYz\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b"--xYz--\r\n"
)


def test_multipart_model_is_found_and_replaced_in_place():
    body = parse_multipart(FORM, b'multipart/form-data; boundary="xYz"')
    assert (body.model, body.stream) == ("whisper", False)
    assert body.rewritten("whisper", ask_usage=True) is FORM
    assert body.rewritten("w-large", ask_usage=True) == FORM.replace(b"whisper", b"w-large")


@pytest.mark.parametrize(
    ("raw", "content_type"),
    [
        (FORM, b"multipart/form-data"),
        (FORM.replace(b'"model"', b'"other"'), b"multipart/form-data; boundary=xYz"),
        (b"", b"multipart/form-data; boundary=xYz"),
        (FORM[:60], b"multipart/form-data; boundary=xYz"),
    ],
)
def test_multipart_without_a_model_is_a_bad_request(raw, content_type):
    with pytest.raises(BadRequest):
        parse_multipart(raw, content_type)


@given(st.binary(max_size=300))
def test_multipart_any_bytes_raise_nothing_but_bad_request(raw):
    with pytest.raises(BadRequest):
        parse_multipart(raw, b"multipart/form-data; boundary=xYz")


def test_multipart_with_a_file_full_of_near_boundaries_is_read_right():
    noise = b"\r\n--xY" * 100_000
    raw = FORM.replace(b"--xYmodel", noise)
    assert parse_multipart(raw, b"multipart/form-data; boundary=xYz").model == "whisper"


def test_multipart_of_too_many_parts_is_refused():
    part = b'--xYz\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    with pytest.raises(BadRequest, match="more than 1000 parts"):
        parse_multipart(part * (MAX_PARTS + 1) + b"--xYz--", b"multipart/form-data; boundary=xYz")


def test_multipart_with_two_models_is_refused():
    second = b'--xYz\r\nContent-Disposition: form-data; name="model"\r\n\r\nother\r\n--xYz--'
    raw = FORM.replace(b"--xYz--", second)
    assert raw != FORM
    with pytest.raises(BadRequest, match="more than one field 'model'"):
        parse_multipart(raw, b"multipart/form-data; boundary=xYz")
