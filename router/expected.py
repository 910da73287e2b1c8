"""What a request asks its answer to be: JSON, of a schema, or calls of its tools."""

from typing import Never, TypeVar

import jsonschema_rs
import msgspec
from msgspec import Raw, Struct

from policies.signals import NOTHING_ASKED, Check, Expected
from router.body import JsonBody

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
Read = TypeVar("Read")
SCHEMA_LIMIT = 256 * 1024  # bytes; a longer one is not compiled, and JSON alone is asked for


_NULL = Raw(b"null")


class _Schema(Struct):
    schema: Raw = _NULL


class _Format(Struct):
    type: str = "text"
    json_schema: _Schema | None = None


class _Function(Struct):
    name: str = ""
    parameters: Raw = _NULL


class _Tool(Struct):
    function: _Function | None = None


def expected(body: JsonBody) -> Expected:
    """Of a chat completion; what cannot be read is not asked for."""
    form = _read(body, "response_format", _Format)
    tools = _read(body, "tools", list[_Tool])
    if form is None and not tools:
        return NOTHING_ASKED
    functions = [tool.function for tool in tools or () if tool.function is not None]
    return Expected(
        json=form is not None and form.type in ("json_object", "json_schema"),
        schema=_check(form.json_schema.schema) if form and form.json_schema else None,
        tools={f.name: _check(f.parameters) or _anything for f in functions},
    )


def _read(body: JsonBody, key: str, kind: type[Read]) -> Read | None:
    value = body.fields.get(key)
    try:
        return msgspec.json.decode(value, type=kind) if value is not None else None
    except _UNREADABLE:
        return None


def _check(schema: Raw) -> Check | None:
    """A caller's schema must not make the gateway fetch anything, nor search for ever."""
    if bytes(schema) == b"null" or len(bytes(schema)) > SCHEMA_LIMIT:
        return None
    try:
        validator = jsonschema_rs.validator_for(
            msgspec.json.decode(schema),
            retriever=_refuse,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (jsonschema_rs.ValidationError, *_UNREADABLE, ValueError):
        return None
    return validator.is_valid


def _refuse(uri: str) -> Never:
    raise ValueError("schemas elsewhere are not read")


def _anything(value: object) -> bool:
    return True
