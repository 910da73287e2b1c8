"""A request's body: what routing reads of it, and the few bytes of it that may be changed.

Everything else is forwarded as it came: unknown fields, the order of keys, the spelling of
numbers. Reading costs one pass (msgspec keeps each top-level value as raw bytes).
"""

import re
from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import Raw

from router.errors import BadRequest

# msgspec checks UTF-8 only when a string is decoded, and then with an error of Python's own.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what reading JSON raises
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
PLACES_LOOKED_AT = 1000  # of a key in a body: an unbounded search would hold up everybody else
_ASK_USAGE = b'"stream_options":{"include_usage":true},'


class Body(Protocol):
    """A request body that names a model."""

    raw: bytes
    model: str
    stream: bool

    def rewritten(self, model: str, *, ask_usage: bool) -> bytes:
        """The bytes to send to a server that calls the model `model`."""


class JsonBody(msgspec.Struct):
    """A JSON object. `usage_asked` is the caller's `stream_options.include_usage`."""

    raw: bytes
    fields: dict[str, Raw]
    model: str
    stream: bool
    usage_asked: bool

    def text(self, key: str) -> str | None:
        """A top-level string field, None when it is absent or no string."""
        value = self.fields.get(key)
        if value is None:
            return None
        try:
            return msgspec.json.decode(value, type=str)
        except UNREADABLE:
            return None

    def changed(self, fields: Mapping[str, bytes]) -> "JsonBody":
        """The same body with top-level fields of these values, whether it has them or not."""
        known = {name: value for name, value in fields.items() if name in self.fields}
        raw = self.raw
        for name, value in known.items():
            raw = self._replace(raw, name, value)
        values = {name: Raw(value) for name, value in known.items()}
        body = msgspec.structs.replace(self, raw=raw, fields={**self.fields, **values})
        return body.adding({n: value for n, value in fields.items() if n not in known})

    def adding(self, fields: Mapping[str, bytes]) -> "JsonBody":
        """The same body with further top-level fields, given as JSON; none of them is in it."""
        if not fields:
            return self
        start = self.raw.index(b"{") + 1
        more = b"".join(msgspec.json.encode(k) + b":" + v + b"," for k, v in fields.items())
        raw = self.raw[:start] + more + self.raw[start:]
        added = {name: Raw(value) for name, value in fields.items()}
        return msgspec.structs.replace(self, raw=raw, fields={**added, **self.fields})

    def rewritten(self, model: str, *, ask_usage: bool) -> bytes:
        body = self.raw
        if model != self.model:
            body = self._replace(body, "model", msgspec.json.encode(model))
        if ask_usage and self.stream and not self.usage_asked:
            body = self._ask_usage(body)
        return body

    def _ask_usage(self, body: bytes) -> bytes:
        if "stream_options" in self.fields:
            options = _stream_options(self.fields["stream_options"])
            options["include_usage"] = Raw(b"true")
            return self._replace(body, "stream_options", msgspec.json.encode(options))
        start = body.index(b"{") + 1
        return body[:start] + _ASK_USAGE + body[start:]

    def _replace(self, body: bytes, key: str, value: bytes) -> bytes:
        """Put `value` in the place of a top-level value, touching no other byte if possible."""
        old = bytes(self.fields[key])
        spot = _spot_by_layout(self, key) if body is self.raw else None
        if spot is not None:
            return body[:spot] + value + body[spot + len(old) :]
        spot = _only_spot(body, b'"' + key.encode() + b'"', old)
        if spot is not None:
            changed = body[:spot] + value + body[spot + len(old) :]
            # It may stand in a map within, and the key that counts be spelled with escapes.
            if bytes(_FIELDS.decode(changed)[key]) == value:
                return changed
        # The text `"model": "x"` occurs in more than one place, so say which one by writing the
        # top level anew: values stay as they were, only the white space between them goes.
        fields = _FIELDS.decode(body)
        fields[key] = Raw(value)
        return msgspec.json.encode(fields)


def _spot_by_layout(whole: JsonBody, key: str) -> int | None:
    """Where the value of `key` begins, told from the fields alone.

    Works for an object that is written as every common client does, without white space at its
    top level or with one space behind each colon and comma; the search through a long prompt that
    it spares costs as much as relaying the prompt. Each field is compared with the body, so that
    no value can pass for the top level.
    """
    raw = whole.raw
    for space in (b"", b" "):
        at = spot = 0
        before = b"{"
        for name, value in whole.fields.items():
            start = before + msgspec.json.encode(name) + b":" + space
            old = bytes(value)
            if not (raw.startswith(start, at) and raw.startswith(old, at := at + len(start))):
                break
            if name == key:
                spot = at
            at += len(old)
            before = b"," + space
        else:
            if at + 1 == len(raw):  # what is left is the end of the object
                return spot
    return None


def _only_spot(body: bytes, key: bytes, value: bytes) -> int | None:
    """Where `value` stands behind `key`, when there is exactly one such place in the body."""
    spot = None
    at = body.find(key)
    for _ in range(PLACES_LOOKED_AT):
        if at < 0:
            return spot
        colon = _COLON.match(body, at + len(key))
        if colon is not None and body.startswith(value, colon.end()):
            if spot is not None:
                return None
            spot = colon.end()
        at = body.find(key, at + 1)
    return None


def parse_json(raw: bytes) -> JsonBody:
    """Read what routing needs. Raises BadRequest that says what is wrong with the body."""
    try:
        fields = _FIELDS.decode(raw)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the body must be a JSON object: {error}", code="invalid_type") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply", code="invalid_json") from error
    except UNREADABLE as error:
        raise BadRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error
    stream = fields.get("stream")
    options = _stream_options(fields.get("stream_options"))
    return JsonBody(
        raw,
        fields,
        _model_name(fields.get("model")),
        stream=stream is not None and _boolean(stream, "stream"),
        usage_asked=options.get("include_usage") == Raw(b"true"),
    )


def _model_name(value: Raw | None) -> str:
    if value is None:
        raise BadRequest(
            "the body has no 'model'; GET /v1/models lists the names",
            code="missing_required_parameter",
            param="model",
        )
    try:
        name = msgspec.json.decode(value, type=str)
    except UNREADABLE as error:
        raise BadRequest("'model' must be a string", code="invalid_type", param="model") from error
    if not name:
        raise BadRequest("'model' is empty", code="invalid_value", param="model")
    return name


def _boolean(value: Raw, name: str) -> bool:
    text = bytes(value)
    if text == b"null":
        return False
    if text not in (b"true", b"false"):
        raise BadRequest(f"'{name}' must be true or false", code="invalid_type", param=name)
    return text == b"true"


def _stream_options(value: Raw | None) -> dict[str, Raw]:
    if value is None or bytes(value) == b"null":
        return {}
    try:
        return _FIELDS.decode(value)
    except UNREADABLE as error:
        message = "'stream_options' must be an object"
        raise BadRequest(message, code="invalid_type", param="stream_options") from error
