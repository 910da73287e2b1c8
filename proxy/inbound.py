"""From the wire to a `Request`: paths, headers, and a body that is counted as it is read."""

import asyncio
import math
import re
import secrets
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import brotli

from router.body import Body, parse_json
from router.errors import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
    TooLarge,
    UnsupportedMedia,
)
from router.multipart import parse_multipart
from router.request import Dialect, Request

Receive = Callable[[], Awaitable[Any]]
Scope = Any

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_SAFE_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+")
_DIALECTS: dict[str, Dialect] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/responses": "responses",
    "/messages": "messages",
    "/messages/count_tokens": "messages",
}
_AT_ROOT = frozenset({"/tokenize", "/detokenize"})
# Paths under /v1 that steer a model server instead of asking it.
_NOT_FOR_CALLERS = frozenset({"/load_lora_adapter", "/unload_lora_adapter"})
_STORED_RESPONSE = re.compile(r"/responses/([A-Za-z0-9_-]{1,200})(/cancel|/input_items)?")


class Disconnected(Exception):
    """The caller left before its request was complete."""


@dataclass(frozen=True)
class Limits:
    """Bytes of a body (compressed or not), and seconds of silence while it is read."""

    max_body: int
    body_timeout_s: float


@dataclass(frozen=True)
class Route:
    """What a path asks for. `path` is below the base URL."""

    path: str
    dialect: Dialect
    at_root: bool = False
    response_id: str | None = None


def route(method: str, path: str) -> Route:
    """What this path means. Raises NotFound, MethodNotAllowed."""
    if path in _AT_ROOT:
        found = Route(path, "other", at_root=True)
    elif path.startswith("/v1/") and path[3:] in _AT_ROOT:
        found = Route(path[3:], "other", at_root=True)
    elif path.startswith("/v1/") and path[3:] in _DIALECTS:
        found = Route(path[3:], _DIALECTS[path[3:]])
    else:
        return _other_route(method, path)
    if method != "POST":
        raise MethodNotAllowed(f"{path} takes POST, not {method}")
    return found


def _other_route(method: str, path: str) -> Route:
    below = path.removeprefix("/v1")
    stored = _STORED_RESPONSE.fullmatch(below)
    if stored is not None and below != "/responses/input_tokens":
        wanted = ("POST",) if stored.group(2) == "/cancel" else ("GET", "DELETE")
        if method not in wanted:
            raise MethodNotAllowed(f"{path} takes {' or '.join(wanted)}, not {method}")
        return Route(below, "responses", response_id=stored.group(1))
    if not path.startswith("/v1/") or not _SAFE_PATH.fullmatch(below):
        raise NotFound(_no_such_path(path))
    if below in _NOT_FOR_CALLERS:
        raise NotFound(f"{path} steers a model server; callers cannot reach it")
    if method != "POST":
        raise NotFound(f"there is no {method} {path}; what models do is asked with POST")
    return Route(below, "other")


def _no_such_path(path: str) -> str:
    shown = path[:100]
    known = path.rstrip("/") in _DIALECTS or path.startswith("/models") or path == "/embeddings"
    hint = f"did you mean /v1{shown}? " if known else ""
    return f"there is no {shown}; {hint}The base URL ends in /v1"


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The caller's x-request-id if it is a plain token, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"req_{secrets.token_hex(16)}"


async def read_request(
    scope: Scope, receive: Receive, found: Route, id: str, limits: Limits
) -> Request:
    """Read and understand the whole request. Raises GatewayError, Disconnected."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    body: Body | None = None
    if found.response_id is None:
        raw = await _read_body(receive, headers, limits)
        body = _parse(raw, headers.get(b"content-type", b""))
    query = scope["query_string"]
    return Request(
        id=id,
        method=scope["method"],
        target=found.path.encode() + (b"?" + query if query else b""),
        dialect=found.dialect,
        headers=scope["headers"],
        body=body,
        at_root=found.at_root,
        response_id=found.response_id,
        read_timeout_s=_read_timeout(headers),
    )


def _read_timeout(headers: dict[bytes, bytes]) -> float | None:
    """openai-python tells its read timeout, openai-node its whole one; both in seconds."""
    for name in (b"x-stainless-read-timeout", b"x-stainless-timeout"):
        try:
            seconds = float(headers[name])
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds) and seconds > 0:
            return seconds
    return None


def _parse(raw: bytes, content_type: bytes) -> Body:
    media = content_type.split(b";", 1)[0].strip().lower()
    if media == b"multipart/form-data":
        return parse_multipart(raw, content_type)
    if media == b"application/json" or media.endswith(b"+json") or not media:
        return parse_json(raw)
    shown = media[:80].decode("ascii", "replace")
    raise UnsupportedMedia(
        f"content-type '{shown}' is not understood; send 'Content-Type: application/json' "
        "(or multipart/form-data where the API takes a file)",
    )


async def _read_body(receive: Receive, headers: dict[bytes, bytes], limits: Limits) -> bytes:
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limits.max_body:
        raise _too_large(limits)
    unpack = _unpacker(headers.get(b"content-encoding", b"").strip().lower(), limits)
    parts: list[bytes] = []
    received = unpacked = 0
    more = True
    while more:
        message = await _next_message(receive, limits.body_timeout_s)
        more = message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > limits.max_body:
            raise _too_large(limits)
        part = unpack(message.get("body", b""), limits.max_body + 1 - unpacked)
        unpacked += len(part)
        if unpacked > limits.max_body:
            raise _too_large(limits)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _next_message(receive: Receive, timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            message = await receive()
    except TimeoutError:
        raise RequestTimeout(f"no byte of the body came for {timeout_s:g} s") from None
    if message["type"] == "http.disconnect":
        raise Disconnected
    return message


def _too_large(limits: Limits) -> TooLarge:
    return TooLarge(
        f"the body is over the limit of {limits.max_body} bytes (server.max_body in the "
        "configuration)"
    )


Unpack = Callable[[bytes, int], bytes]  # data, most bytes to give; over that it stops early


def _unpacker(encoding: bytes, limits: Limits) -> Unpack:
    """Undo a content-encoding without ever holding more than was allowed."""
    if encoding in (b"", b"identity"):
        return lambda data, most: data
    if encoding in (b"gzip", b"x-gzip", b"deflate"):
        inflater = zlib.decompressobj(wbits=15 if encoding == b"deflate" else 31)
        return lambda data, most: _checked(lambda: inflater.decompress(data, most), "gzip")
    if encoding == b"br":
        decoder = brotli.Decompressor()
        return lambda data, most: _checked(
            lambda: decoder.process(data, output_buffer_limit=most), "br"
        )
    shown = encoding[:40].decode("ascii", "replace")
    raise UnsupportedMedia(f"content-encoding '{shown}' is not understood; send gzip, br or none")


def _checked(work: Callable[[], bytes], name: str) -> bytes:
    try:
        return work()
    except (zlib.error, brotli.error) as error:
        raise BadRequest(f"the body is not valid {name}", code="invalid_encoding") from error
