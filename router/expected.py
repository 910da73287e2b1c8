"""What a request asks its answer to be: JSON, of a schema, or calls of its tools."""

from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from policies.signals import NOTHING_ASKED, Expected
from router.body import UNREADABLE, JsonBody
from router.schemas import Room, compiled

Read = TypeVar("Read")
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
    room = Room()
    return Expected(
        json=form is not None and form.type in ("json_object", "json_schema"),
        schema=compiled(form.json_schema.schema, room) if form and form.json_schema else None,
        tools={f.name: compiled(f.parameters, room) or _anything for f in functions} or None,
    )


def _read(body: JsonBody, key: str, kind: type[Read]) -> Read | None:
    value = body.fields.get(key)
    try:
        return msgspec.json.decode(value, type=kind) if value is not None else None
    except UNREADABLE:
        return None


def _anything(value: object) -> bool:
    return True
