"""From the wire to a `Request`: paths, headers, and a body that is unpacked within its limit."""

import asyncio
import math
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import brotli

from config.durations import seconds
from config.settings import Priority
from proxy.head import Head
from router.body import Body, parse_json
from router.errors import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    UnsupportedMedia,
)
from router.multipart import parse_multipart
from router.request import Dialect, Request

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
_LORA = ("/load_lora_adapter", "/unload_lora_adapter")
# vLLM's stand at its root, which is below /v1 when base_path is "/"; its dev mode, which sleep
# needs, adds most of them, and /collective_rpc runs any method of the engine.
_VLLM_STEERING = (
    "/abort_requests",
    "/collective_rpc",
    "/fault_tolerance/apply",
    "/finish_weight_update",
    "/init_weight_transfer_engine",
    "/is_scaling_elastic_ep",
    "/pause",
    "/release_kv_cache_memory",
    "/reset_encoder_cache",
    "/reset_mm_cache",
    "/reset_prefix_cache",
    "/resume",
    "/scale_elastic_ep",
    "/shutdown_weight_transfer_engine",
    "/sleep",
    "/start_draft_weight_update",
    "/start_profile",
    "/start_weight_update",
    "/stop_profile",
    "/update_weight_version",
    "/update_weights",
    "/wake_up",
    "/weight_checker",
)
_NOT_FOR_CALLERS = frozenset((*_LORA, *_VLLM_STEERING))
MAX_WAIT = b"x-lamplighter-max-wait"
PRIORITY = b"x-lamplighter-priority"
EXPLAIN = b"x-lamplighter-explain"
_PRIORITIES: dict[bytes, Priority] = {b"low": "low", b"normal": "normal", b"high": "high"}
UNPACKED_AT_ONCE = 64 * 1024  # compressed bytes
_STORED_RESPONSE = re.compile(r"/responses/([A-Za-z0-9_-]{1,200})(/cancel|/input_items)?")


@dataclass(frozen=True)
class Route:
    """What a path asks for. `path` is below the base URL."""

    path: str
    dialect: Dialect
    at_root: bool = False
    response_id: str | None = None

    @cached_property
    def target(self) -> bytes:
        return self.path.encode()


def _fixed_routes() -> dict[str, Route]:
    routes = {f"/v1{path}": Route(path, dialect) for path, dialect in _DIALECTS.items()}
    for path in _AT_ROOT:
        routes[path] = routes[f"/v1{path}"] = Route(path, "other", at_root=True)
    return routes


_FIXED = _fixed_routes()


def route(head: Head) -> Route:
    """What this path means. Raises NotFound, MethodNotAllowed."""
    found = _FIXED.get(head.path)
    if found is None:
        return _other_route(head.method, head.path)
    if head.method != "POST":
        raise MethodNotAllowed(f"{head.path} takes POST, not {head.method}")
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


def request_id(head: Head) -> str:
    """The caller's x-request-id if it is a plain token, else a new one."""
    given = head.fields.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"req_{random.getrandbits(128):032x}"


def read_request(head: Head, found: Route, plain: bytes, id: str) -> Request:
    """Understand the whole request, its body unpacked. Raises GatewayError."""
    fields = head.fields
    body: Body | None = None
    if found.response_id is None:
        body = _parse(plain, fields.get(b"content-type", b""))
    return Request(
        id=id,
        method=head.method,
        target=found.target + (b"?" + head.query if head.query else b""),
        dialect=found.dialect,
        headers=head.headers,
        fields=fields,
        body=body,
        at_root=found.at_root,
        response_id=found.response_id,
        read_timeout_s=_read_timeout(fields),
        max_wait_s=_max_wait(fields.get(MAX_WAIT)),
        priority=_priority(fields.get(PRIORITY)),
    )


def _max_wait(value: bytes | None) -> float | None:
    """Seconds. Raises BadRequest: a caller who sets a limit relies on it."""
    if value is None:
        return None
    try:
        return seconds(value.decode("latin-1"))
    except ValueError as error:
        raise BadRequest(
            f"x-lamplighter-max-wait: {error}", param="x-lamplighter-max-wait"
        ) from None


def _priority(value: bytes | None) -> Priority | None:
    if value is None:
        return None
    priority = _PRIORITIES.get(value.strip().lower())
    if priority is None:
        shown = value[:40].decode("ascii", "replace")
        raise BadRequest(
            f"x-lamplighter-priority: '{shown}' is not one of low, normal, high",
            param="x-lamplighter-priority",
        )
    return priority


def asks_to_explain(head: Head) -> bool:
    """Whether an explanation is to stand in place of the answer. Raises BadRequest."""
    value = head.fields.get(EXPLAIN)
    if value is None:
        return False
    word = value.strip().lower()
    if word not in (b"true", b"false"):
        raise BadRequest(
            "x-lamplighter-explain must be true or false", param="x-lamplighter-explain"
        )
    return word == b"true"


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
    if content_type == b"application/json":
        return parse_json(raw)
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


async def unpacked(raw: bytes, encoding: bytes, max_body: int) -> bytes:
    """Undo a content-encoding without ever holding more than was allowed. Raises GatewayError."""
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return raw
    unpack = _UNPACK.get(encoding)
    if unpack is None:
        shown = encoding[:40].decode("ascii", "replace")
        raise UnsupportedMedia(
            f"content-encoding '{shown}' is not understood; send gzip, br or none"
        )
    try:
        if len(raw) > UNPACKED_AT_ONCE:  # which would hold up everybody else
            plain = await asyncio.to_thread(unpack, raw, max_body + 1)
        else:
            plain = unpack(raw, max_body + 1)
    except (zlib.error, brotli.error) as error:
        name = encoding.decode()
        raise BadRequest(f"the body is not valid {name}", code="invalid_encoding") from error
    if len(plain) > max_body:
        raise TooLarge.than(max_body)
    return plain


def _gunzip(raw: bytes, most: int) -> bytes:
    return _inflated(zlib.decompressobj(wbits=31), raw, most)


def _inflate(raw: bytes, most: int) -> bytes:
    return _inflated(zlib.decompressobj(wbits=15), raw, most)


def _inflated(inflater: "zlib._Decompress", raw: bytes, most: int) -> bytes:
    plain = inflater.decompress(raw, most)
    if len(plain) < most and not inflater.eof:
        raise zlib.error("it ends too early")
    return plain


def _unbrotli(raw: bytes, most: int) -> bytes:
    decoder = brotli.Decompressor()
    plain: bytes = decoder.process(raw, output_buffer_limit=most)
    while len(plain) < most and not decoder.can_accept_more_data():
        plain += decoder.process(b"", output_buffer_limit=most - len(plain))
    if len(plain) < most and not decoder.is_finished():
        raise brotli.error("it ends too early")
    return plain


_UNPACK: dict[bytes, Callable[[bytes, int], bytes]] = {  # the body, and the most bytes to give
    b"gzip": _gunzip,
    b"x-gzip": _gunzip,
    b"deflate": _inflate,
    b"br": _unbrotli,
}
