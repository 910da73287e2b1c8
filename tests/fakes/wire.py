"""The bytes of an OpenAI model server's answers, and the steps in which a fake one writes them.

An answer is a list of steps: bytes to write, a Gate to wait at, seconds to pause, or an End.
Stdlib only, because the fake server also runs as a process of its own.
"""

import asyncio
import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Headers = Sequence[tuple[str, str]]
CREATED = 1_700_000_000
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}


class Gate:
    """Where a script stops until the test opens it; `reached` says that it stands there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()

    def open(self) -> None:
        self._opened.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._opened.wait()


class End(enum.Enum):
    """How an answer stops other than by having been written."""

    CLOSE = "close"  # FIN after what was written
    RESET = "reset"  # RST
    STALL = "stall"  # silence until the client goes
    CRASH = "crash"  # the whole process, exit code 3


Step = bytes | Gate | float | End
Script = Sequence[Step]


# Whole answers ---------------------------------------------------------------------------------


def answer(
    body: bytes | Mapping[str, Any],
    status: int = 200,
    headers: Headers = (),
    content_type: str = "application/json",
) -> list[Step]:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    framing = [("content-type", content_type), ("content-length", str(len(payload)))]
    return [head(status, [*framing, *headers]) + payload]


def error(
    status: int,
    message: str = "scripted failure",
    *,
    type: str = "server_error",
    code: str | int | None = None,
    headers: Headers = (),
) -> list[Step]:
    """For example error(429, headers=[("Retry-After", "7")])."""
    return answer(_error_body(message, type, code), status, headers)


def chat(text: str = "Hello.", model: str = "fake", usage: tuple[int, int] = (1, 1)) -> list[Step]:
    return answer(chat_body(text, model, usage))


def events(*steps: Step, headers: Headers = (), status: int = 200) -> list[Step]:
    """An event stream in chunked coding; each `bytes` is one HTTP chunk. An End leaves it open."""
    framing = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
    framed: list[Step] = [head(status, [*framing, *headers])]
    framed += [_chunked(step) if isinstance(step, bytes) else step for step in steps]
    if not any(isinstance(step, End) for step in steps):
        framed.append(b"0\r\n\r\n")
    return framed


def head(status: int, headers: Headers) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Scripted')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


# Events of a stream ----------------------------------------------------------------------------


def event(data: Mapping[str, Any] | str, name: str | None = None) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chunk(text: str, model: str = "fake", **extra: Any) -> bytes:
    return event(_chunk_body(model, {"content": text}, None, **extra))


def finish(reason: str = "stop", model: str = "fake") -> bytes:
    return event(_chunk_body(model, {}, reason))


def usage_chunk(prompt: int = 1, completion: int = 1, model: str = "fake") -> bytes:
    body = {**_chunk_body(model, {}, None), "choices": [], "usage": _usage(prompt, completion)}
    return event(body)


def error_event(
    message: str = "scripted failure",
    type: str = "server_error",
    code: str | int | None = None,
) -> bytes:
    return event(_error_body(message, type, code))


def comment(text: str = "keepalive") -> bytes:
    return f": {text}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def torn(data: bytes, *offsets: int, gates: Iterable[Gate] = ()) -> list[Step]:
    """`data` cut at byte offsets, also within a character; a gate per cut keeps the parts apart."""
    cuts = [0, *offsets, len(data)]
    steps: list[Step] = []
    waiting = iter(gates)
    for begin, end in zip(cuts, cuts[1:], strict=False):
        if begin:
            steps.append(next(waiting, 0.001))
        steps.append(data[begin:end])
    return steps


def chat_body(text: str, model: str, usage: tuple[int, int]) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(*usage),
    }


def _chunk_body(
    model: str, delta: Mapping[str, Any], reason: str | None, **extra: Any
) -> dict[str, Any]:
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **extra,
    }


def _usage(prompt: int, completion: int) -> dict[str, int]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _error_body(message: str, type_: str, code: str | int | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}
