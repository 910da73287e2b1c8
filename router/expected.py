"""What a request asks its answer to be: JSON, of a schema, or calls of its tools."""

from typing import Never, TypeVar

import jsonschema_rs
import msgspec
from msgspec import Raw, Struct

from policies.signals import NOTHING_ASKED, Check, Expected
from router.body import JsonBody

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
Read = TypeVar("Read")
MOST_NODES = 2000  # maps and values of a schema whose references are written out
SCHEMA_LIMIT = 64 * 1024  # bytes; a longer one is not compiled, and JSON alone is asked for


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
        tools={f.name: _check(f.parameters) or _anything for f in functions} or None,
    )


def _read(body: JsonBody, key: str, kind: type[Read]) -> Read | None:
    value = body.fields.get(key)
    try:
        return msgspec.json.decode(value, type=kind) if value is not None else None
    except _UNREADABLE:
        return None


def _check(schema: Raw) -> Check | None:
    """A caller's schema must not make the gateway fetch anything, nor work for long."""
    if bytes(schema) == b"null" or len(bytes(schema)) > SCHEMA_LIMIT:
        return None
    try:
        read = msgspec.json.decode(schema)
        if _nodes(read, read, ()) > MOST_NODES:
            return None
        validator = jsonschema_rs.validator_for(
            read, retriever=_refuse, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, *_UNREADABLE, ValueError):
        return None
    return validator.is_valid


def _nodes(part: object, root: object, inside: tuple[str, ...]) -> int:
    """How large a schema is with its references written out; past the limit if one is circular.

    What references share is looked at once for each of them, so twenty lines can ask for a
    million looks at every value.
    """
    if isinstance(part, list):
        parts: list[object] = part
        count = 1
    elif isinstance(part, dict):
        parts, count = list(part.values()), 1
        reference = part.get("$ref", part.get("$dynamicRef"))
        if isinstance(reference, str):
            if reference in inside:
                return MOST_NODES + 1
            inside = (*inside, reference)
            parts.append(_at(root, reference))
    else:
        return 1
    for each in parts:
        count += _nodes(each, root, inside)
        if count > MOST_NODES:
            break
    return count


def _at(root: object, reference: str) -> object:
    """What a reference within the schema points at; None for any other."""
    here = root
    for step in reference.removeprefix("#").split("/")[1:]:
        here = (
            here.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(here, dict) else None
        )
    return here


def _refuse(uri: str) -> Never:
    raise ValueError("schemas elsewhere are not read")


def _anything(value: object) -> bool:
    return True
