"""Answers with logprobs, and gateways with a cascade over two scripted servers."""

import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from policies.calibration import STATED_DEFAULTS, Early, encode
from tests.fakes.wire import CREATED, DONE, Script, Step, answer, event, events
from tests.proxy.scenes import model

SURE, UNSURE = -0.001, -4.0  # logprobs of each token


def logprobs(words: list[str], logprob: float) -> dict[str, Any]:
    second = {"token": "other", "logprob": min(logprob, -1.0) - 1.0, "bytes": None}
    tokens = [{"token": word, "logprob": logprob, "bytes": None} for word in words]
    return {"content": [{**token, "top_logprobs": [token, second]} for token in tokens]}


def words_of(text: str) -> list[str]:
    return [word if n == 0 else f" {word}" for n, word in enumerate(text.split(" "))]


def whole(text: str, logprob: float | None = SURE, **more: Any) -> list[Step]:
    """A plain answer; `more` goes into its message."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **more},
        "finish_reason": "stop",
    }
    if logprob is not None:
        choice["logprobs"] = logprobs(words_of(text), logprob)
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return answer(
        {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": CREATED,
            "model": "fake",
            "choices": [choice],
            "usage": usage,
        }
    )


def pieces(text: str, logprob: float = SURE) -> list[Step]:
    """A token an event, without an end."""
    return [_chunk({"content": word}, logprobs([word], logprob)) for word in words_of(text)]


def streamed(*steps: Step) -> Script:
    return events(*steps, _chunk({}, None, "stop"), DONE)


def _chunk(delta: dict[str, Any], sure: Any, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": sure, "finish_reason": reason}
    kind = "chat.completion.chunk"
    return event(
        {"id": "c", "object": kind, "created": CREATED, "model": "fake", "choices": [choice]}
    )


def pair(urls: list[str]) -> dict[str, Any]:
    """`small` and `large`, each on a server of its own, and with prices that favour `small`."""
    cheap, dear = ({"input": usd, "output": usd} for usd in (1.0, 1000.0))
    return {
        "small": model(urls[:1], retries=0, price=cheap),
        "large": model(urls[1:], retries=0, price=dear),
    }


def policy(**accept: Any) -> dict[str, Any]:
    return {"first_match": [{"use": {"cascade": ["small", "large"], "accept": accept}}]}


def calibrated(folder: Path) -> str:
    """A file with early thresholds for streams: clear, or clearly bad, after three tokens."""
    path = folder / "calibration.json"
    early = Early(after_tokens=3, release=1.5, cut=-0.5)
    path.write_bytes(encode(replace(STATED_DEFAULTS, labels=500, escalated=0.3, early=early)))
    return str(path)


def text_of(stream: str) -> str:
    """What an event stream says."""
    data = [line[6:] for line in stream.splitlines() if line.startswith("data: {")]
    choices = [choice for line in data for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
