"""What routing reads of a body, and that it changes nothing else."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.body import parse_json
from router.errors import BadRequest


def test_rewritten_same_name_is_the_same_bytes():
    raw = b'  {"b": 1.50, "model" : "m",\n "stream":true, "zz": {"model": "x"}}'
    body = parse_json(raw)
    assert (body.model, body.stream, body.usage_asked) == ("m", True, False)
    assert body.rewritten("m", ask_usage=False) is raw


def test_rewritten_other_name_changes_only_the_name():
    raw = b'{ "n": 1.0e2,  "model" :  "m", "messages": [{"content": "say \\"model\\": \\"m\\""}]}'
    assert parse_json(raw).rewritten("served/é", ask_usage=False) == raw.replace(
        b'"model" :  "m"', '"model" :  "served/é"'.encode()
    )


def test_rewritten_when_the_same_text_is_nested_changes_the_top_level_only():
    raw = b'{"tools":[{"model":"m"}],"model":"m","t": 1.10}'
    out = parse_json(raw).rewritten("new", ask_usage=False)
    assert json.loads(out) == {"tools": [{"model": "m"}], "model": "new", "t": 1.1}
    assert b"1.10" in out


def test_rewritten_asks_for_usage_only_in_streams_that_did_not():
    asked = b'{"stream_options":{"include_usage":true},"model":"m","stream":true}'
    body = parse_json(b'{"model":"m","stream":true}')
    assert body.rewritten("m", ask_usage=True) == asked
    assert parse_json(asked).rewritten("m", ask_usage=True) is asked
    assert parse_json(b'{"model":"m"}').rewritten("m", ask_usage=True) == b'{"model":"m"}'


@pytest.mark.parametrize("given_options", [b"null", b"{}", b'{"include_usage":false,"x":1}'])
def test_rewritten_keeps_other_stream_options(given_options):
    raw = b'{"model":"m","stream":true,"stream_options":' + given_options + b"}"
    out = json.loads(parse_json(raw).rewritten("m", ask_usage=True))
    expected = {**(json.loads(given_options) or {}), "include_usage": True}
    assert out["stream_options"] == expected


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","mod\\u0065l":"m"}',
        b'{"x":{"model":"m"},"mod\\u0065l":"m"}',
        b'{"model":"m","model":"m"}',
        b'{"model":"x","model":"m"}',
        b'{"model": "m","mod\\u0065l":"m","a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1}'
        + b" " * 9,
        b'{"model":{"a":1,"x":2},"x":"m", "model":"m"}',
    ],
)
@pytest.mark.parametrize("spaces", range(0, 40, 3))
def test_rewritten_name_is_what_a_server_reads_however_it_is_spelled(raw: bytes, spaces: int):
    body = parse_json(raw + b" " * spaces)
    assert json.loads(body.rewritten("new", ask_usage=False))["model"] == "new"


LONG = '"model": "m" ' * 100_000


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,", " :")])
def test_rewritten_long_prompt_changes_only_the_name(separators):
    fields = {"messages": [LONG], "model": "m", "é\\": 1, "n": None}
    raw = json.dumps(fields, separators=separators).encode()
    out = parse_json(raw).rewritten("other", ask_usage=False)
    assert json.loads(out) == {**fields, "model": "other"}
    if separators != (" ,", " :"):
        assert out == json.dumps({**fields, "model": "other"}, separators=separators).encode()


def test_rewritten_name_given_twice_is_the_one_that_counts():
    raw = b'{"model":"a","model":"b"}'
    assert json.loads(parse_json(raw).rewritten("c", ask_usage=False))["model"] == "c"


def test_rewritten_twice_for_two_attempts_starts_from_the_original():
    body = parse_json(b'{"model":"a","stream":true}')
    body.rewritten("first", ask_usage=True)
    assert body.rewritten("second", ask_usage=False) == b'{"model":"second","stream":true}'


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model": "m"} x', "invalid_json", None),
        (b"[1]", "invalid_type", None),
        (b'{"a": 1}', "missing_required_parameter", "model"),
        (b'{"model": 5}', "invalid_type", "model"),
        (b'{"model": ""}', "invalid_value", "model"),
        (b'{"model": "m", "stream": "yes"}', "invalid_type", "stream"),
        (b'{"model": "m", "stream_options": 1}', "invalid_type", "stream_options"),
        (b'{"model": "\xff"}', "invalid_type", "model"),
    ],
)
def test_parse_json_bad_input_names_the_thing(raw, code, param):
    with pytest.raises(BadRequest) as caught:
        parse_json(raw)
    assert (caught.value.code, caught.value.param, caught.value.status) == (code, param, 400)


def test_parse_json_nesting_bomb_is_a_bad_request():
    with pytest.raises(BadRequest):
        parse_json(b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(
    st.dictionaries(st.text(), json_values),
    st.text(min_size=1).filter(str.isprintable),
    st.text(min_size=1).filter(str.isprintable),
)
def test_rewritten_any_body_changes_the_model_and_nothing_else(fields, name, served):
    fields = {**fields, "model": name}
    fields.pop("stream", None)
    fields.pop("stream_options", None)
    raw = json.dumps(fields).encode()
    assert json.loads(parse_json(raw).rewritten(served, ask_usage=True)) == {
        **fields,
        "model": served,
    }


@given(st.binary(max_size=200))
def test_parse_json_any_bytes_raise_nothing_but_bad_request(raw):
    try:
        body = parse_json(raw)
    except BadRequest:
        return
    assert msgspec.json.decode(raw)["model"] == body.model
