"""Asks a model's own server how many tokens a prompt has, if one is ready now.

vLLM's /tokenize takes messages and tells a count; llama.cpp's takes a text, so the messages are
made into one first; both count the prompts of Anthropic's dialect at their own path for it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from backends.fleet import ModelBackends
from backends.lease import Lease, Unavailable
from backends.upstream import Timeouts, UpstreamError
from router.body import UNREADABLE, JsonBody
from router.request import Headers, Request

WITHIN_S = 1.0
_TIMEOUTS = Timeouts(WITHIN_S, WITHIN_S, WITHIN_S)
_LONGEST_ANSWER = 16 * 2**20  # llama.cpp lists the tokens themselves
_DECODER = msgspec.json.Decoder(dict[str, Any])

Fields = Mapping[str, object]


async def tokens_at_server(backends: ModelBackends, request: Request) -> int | None:
    """None when no server is ready, or when it does not say. Takes no longer than its calls."""
    body = request.body
    lease = await _lease(backends) if isinstance(body, JsonBody) else None
    if lease is None or not isinstance(body, JsonBody):
        return None
    try:
        return await _told(_Server(lease), request.dialect, body.fields)
    except (UpstreamError, OSError):
        return None
    finally:
        lease.release()


async def _lease(backends: ModelBackends) -> Lease | None:
    """A place at a server of our own; never one that would be waited for."""
    lease = backends.hot.try_lease() if backends.hot is not None else None
    if lease is not None or backends.cold is None or backends.cold.view().free < 1:
        return lease
    try:
        return await backends.cold.lease(0, WITHIN_S)
    except Unavailable:
        return None


async def _told(server: "_Server", dialect: str, fields: Mapping[str, Raw]) -> int | None:
    if dialect == "messages":
        kept = {key: fields[key] for key in ("messages", "system", "tools") if key in fields}
        told = await server.ask(b"/v1/messages/count_tokens", {"model": server.model, **kept})
        return _whole(told.get("input_tokens"))
    prompt = _prompt(dialect, fields)
    if prompt is None:
        return None
    told = await server.ask(b"/tokenize", {"model": server.model, **prompt})
    if "count" in told:
        return _whole(told["count"])
    if "tokens" not in told:
        return None
    text: object = prompt.get("prompt")
    if "messages" in prompt:
        text = (await server.ask(b"/apply-template", prompt)).get("prompt")
    told = await server.ask(
        b"/tokenize", {"content": text, "add_special": True, "parse_special": True}
    )
    tokens = told.get("tokens")
    return len(tokens) if isinstance(tokens, list) and isinstance(text, str | Raw) else None


def _prompt(dialect: str, fields: Mapping[str, Raw]) -> dict[str, object] | None:
    match dialect:
        case "chat" if "messages" in fields:
            return {key: fields[key] for key in ("messages", "tools") if key in fields}
        case "completions" if bytes(fields.get("prompt", b"")).startswith(b'"'):
            return {"prompt": fields["prompt"]}
        case "responses" if "input" in fields:
            said = fields["input"]
            system = fields.get("instructions")
            if bytes(said).startswith(b'"'):
                asked = [{"role": "user", "content": said}]
                first = [{"role": "system", "content": system}] if system is not None else []
                return {"messages": [*first, *asked]}
    return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


class _Server:
    """The calls beside an inference, at the server of a lease."""

    def __init__(self, lease: Lease) -> None:
        self._endpoint = lease.endpoint
        self.model = self._endpoint.served_as
        self._root = self._endpoint.origin.target_prefix.removesuffix(b"/v1")

    async def ask(self, path: bytes, fields: Fields) -> dict[str, Any]:
        """The object that it answers; empty when it refuses or answers something else."""
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"accept-encoding", b"identity"),
        ]
        if self._endpoint.key is not None:
            headers.append((b"authorization", b"Bearer " + self._endpoint.key.encode()))
        response = await self._endpoint.origin.open(
            "POST", self._root + path, headers, msgspec.json.encode(fields), _TIMEOUTS
        )
        try:
            answer = b""
            while part := await response.read():
                answer += part
                if len(answer) > _LONGEST_ANSWER:
                    return {}
            return _DECODER.decode(answer) if response.status == 200 else {}
        except UNREADABLE:
            return {}
        finally:
            response.close()
