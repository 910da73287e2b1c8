"""Callers' JSON Schemas, compiled within bounds: none may make the gateway fetch anything, or work
for long."""

from typing import Never
from urllib.parse import unquote

import jsonschema_rs
import msgspec
from msgspec import Raw

from policies.signals import Check
from router.body import UNREADABLE

MOST_NODES = 2000  # maps and values of a request's schemas, their references written out
SCHEMA_LIMIT = 64 * 1024  # bytes of them; what is beyond is not compiled, and JSON is enough
MOST_WORK = 5_000_000  # nodes of a schema times values of an answer: a tenth of a second
_POINTER_LIMIT = 500  # characters of a reference
_PATTERN_NODES = 20  # what a regular expression counts as: compiling it takes as long
_PATTERN_SIZE = 100_000  # bytes of a compiled one; a few characters can ask for megabytes
_CHARACTERS = 16  # of a text that count as one more value


class Room:
    """What is left for the schemas of one request."""

    def __init__(self) -> None:
        self.bytes = SCHEMA_LIMIT
        self.nodes = MOST_NODES


def compiled(schema: Raw, room: Room) -> Check | None:
    """None for one that is not checked: `null`, unreadable, too large, or leading elsewhere."""
    size = memoryview(schema).nbytes
    if bytes(schema) == b"null" or size > room.bytes:
        return None
    room.bytes -= size
    try:
        read = msgspec.json.decode(schema)
        nodes = _nodes(read, read, (), room.nodes)
        if nodes > room.nodes:
            room.nodes -= size // 8  # looking at it took its time too
            return None
        room.nodes -= nodes
        validator = jsonschema_rs.validator_for(
            read,
            retriever=_refuse,
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_PATTERN_SIZE),
        )
    except (jsonschema_rs.ValidationError, *UNREADABLE, ValueError):
        return None
    most = MOST_WORK // nodes
    return lambda value: _values(value, most) > most or validator.is_valid(value)


def _nodes(part: object, root: object, inside: tuple[str, ...], most: int) -> int:
    """How large a schema is with its references written out; past `most` if one is circular, or
    leads where this does not follow.

    What references share is looked at once for each of them, so twenty lines can ask for a
    million looks at every value.
    """
    if isinstance(part, list):
        parts: list[object] = part
        count = 1
    elif isinstance(part, dict):
        parts, count = list(part.values()), 1
        if "pattern" in part:
            count += _PATTERN_NODES
        patterns = part.get("patternProperties")
        count += _PATTERN_NODES * len(patterns) if isinstance(patterns, dict) else 0
        if _leads_away(part, part is root):
            return most + 1
        reference = part.get("$ref")
        if isinstance(reference, str):
            if reference in inside or not _is_pointer(reference):
                return most + 1
            inside = (*inside, reference)
            parts.append(_at(root, reference))
    else:
        return 1
    for each in parts:
        count += _nodes(each, root, inside, most)
        if count > most:
            break
    return count


def _leads_away(part: dict[str, object], is_root: bool) -> bool:
    """Whether references of other kinds may be in it, or other places than the root that they
    are told from."""
    names = ("$dynamicRef", "$recursiveRef", *(() if is_root else ("$id", "$schema")))
    if is_root and "draft-04" in str(part.get("$schema")):
        return True  # its `id` is everybody else's name of a property
    return any(isinstance(part.get(name), str) for name in names)


def _is_pointer(reference: str) -> bool:
    return reference.startswith("#/") and len(reference) <= _POINTER_LIMIT


def _at(root: object, reference: str) -> object:
    """What a JSON pointer within the schema leads to; None for nowhere."""
    here = root
    for step in unquote(reference).split("/")[1:]:
        if isinstance(here, dict):
            here = here.get(step.replace("~1", "/").replace("~0", "~"))
        elif isinstance(here, list):
            here = here[int(step)] if step.isdecimal() and int(step) < len(here) else None
        else:
            return None
    return here


def _values(value: object, most: int) -> int:
    """How large a value is; past `most` if it is larger."""
    count, left = 0, [value]
    while left and count <= most:
        here = left.pop()
        count += 1
        if isinstance(here, str):
            count += len(here) // _CHARACTERS
        elif isinstance(here, list):
            left += here
        elif isinstance(here, dict):
            left += here.values()
            count += sum(len(key) for key in here) // _CHARACTERS
    return count


def _refuse(uri: str) -> Never:
    raise ValueError("schemas elsewhere are not read")
