"""How many tokens a prompt has: counted by its model's vocabulary or server, else estimated.

The estimate is by bytes. How many of them make a token is learned for each model from the usage
that its servers report; nothing is ever downloaded.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import msgspec

from policies.facts import Count
from router.body import UNREADABLE, JsonBody
from router.planner import BYTES_PER_TOKEN
from router.request import Dialect, Request

COUNTED_AT_ONCE = 16 * 1024  # bytes of a body: above, counting would hold up other requests
LEAST_TOKENS = 16  # of a prompt that tells a ratio; of a shorter one most bytes are no text
PLAUSIBLE = (0.7, 12.0)  # bytes in a token; beyond, the body held more than text, or less than all
FARTHEST = 0.3  # that one prompt may lie off, as a logarithm: so a few odd ones move little
LAST_WEIGHT = 0.02  # of a prompt, once many were seen
OF_A_MESSAGE = 4  # tokens that a chat template adds to each, about
OF_A_PICTURE = 1000  # tokens, about: from 85 to 1600 by its size and the model

_ASKED = ("messages", "prompt", "input", "system", "instructions", "tools", "functions", "suffix")
MOST_WALKED = 100_000  # values among which pictures are looked for; the rest counts as text
_WITHOUT_DATA = 4096  # bytes of a body that is not looked through: a picture in it weighs little
_LARGE = 1024  # bytes of a text in base64, at least, that is a picture or a sound
_DATA = frozenset({"url", "data", "image_url", "file_data"})
_DECODER = msgspec.json.Decoder()
# Names under which OpenAI's vocabularies go, after the last slash.
_VOCABULARIES = (
    (re.compile(r"(ft:)?(chatgpt-4o|gpt-4o|gpt-4\.[15]|gpt-5|gpt-oss|o[134](-|$))"), "o200k_base"),
    (re.compile(r"(ft:)?(gpt-4|gpt-3\.5|gpt-35|text-embedding-)"), "cl100k_base"),
)

Counting = Callable[[str], int]
Asking = Callable[[Request, str], Awaitable[int | None]]  # a server, for one model


class Ratios:
    """Bytes of a body for each token of its prompt, by model."""

    def __init__(self) -> None:
        self._logs: dict[str, tuple[float, int]] = {}  # the logarithm, and from how many prompts

    def learned(self, model: str, bytes: int, tokens: int) -> None:
        """A server counted the tokens of a body. What cannot be a text's ratio is not learned."""
        if tokens < LEAST_TOKENS or not PLAUSIBLE[0] <= bytes / tokens <= PLAUSIBLE[1]:
            return
        log, seen = self._logs.get(model, (math.log(BYTES_PER_TOKEN), 0))
        off = max(-FARTHEST, min(math.log(bytes / tokens) - log, FARTHEST))
        self._logs[model] = (log + off * max(1 / (seen + 2), LAST_WEIGHT), seen + 1)

    def bytes_per_token(self, model: str) -> float:
        known = self._logs.get(model)
        return math.exp(known[0]) if known is not None else BYTES_PER_TOKEN


class Tokens:
    """Counts prompts. `called` says what a model's servers call it, `ask` asks one of them."""

    def __init__(
        self, ratios: Ratios, called: Callable[[str], str], ask: Asking | None = None
    ) -> None:
        self._ratios = ratios
        self._called = called
        self._ask = ask

    def count(self, request: Request, model: str) -> Count:
        """At once: by the vocabulary if it is here and the prompt is short, else estimated."""
        counting = vocabulary(self._called(model)) if model else None
        if counting is not None and request.size <= COUNTED_AT_ONCE:
            return Count(_counted(request, counting), "tokenizer")
        return self._estimate(request, model)

    async def exact(self, request: Request, model: str) -> Count:
        """By the vocabulary, or by a server that is ready now; estimated without either."""
        counting = vocabulary(self._called(model)) if model else None
        if counting is not None:
            counted = await asyncio.to_thread(_counted, request, counting)
            return Count(counted, "tokenizer")
        tokens = await self._ask(request, model) if self._ask is not None and model else None
        return Count(tokens, "server") if tokens is not None else self._estimate(request, model)

    def _estimate(self, request: Request, model: str) -> Count:
        bytes, data = text_bytes(request)
        tokens = round(bytes / self._ratios.bytes_per_token(model)) + data * OF_A_PICTURE
        return Count(tokens, "estimate")


@lru_cache(maxsize=256)
def vocabulary(called: str) -> Counting | None:
    """How to count by the vocabulary of a model; None where it is not OpenAI's, or not here."""
    name = called.rpartition("/")[2].lower()
    found = next((base for names, base in _VOCABULARIES if names.match(name)), None)
    bindings = _bindings() if found is not None else None
    if bindings is None:
        return None
    counting: Counting = bindings.tokenizer_for_encoding(found).count
    return counting


@cache
def _bindings() -> Any:
    """The compiled part of bpe-openai alone: the package around it reads all vocabularies once
    more, into 140 MB. None without the extra `tokens`."""
    package = find_spec("bpe_openai")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        for file in sorted(Path(folder).glob("_bindings*.so")):
            spec = spec_from_file_location("bpe_openai._bindings", file)
            if spec is not None and spec.loader is not None:
                module = module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    return None


def text_bytes(request: Request) -> tuple[int, int]:
    """Bytes of a body without the pictures and sounds in it, and how many of those there are."""
    size = request.size
    if size < _WITHOUT_DATA or not isinstance(request.body, JsonBody):
        return size, 0
    fields = request.body.fields
    asked = [fields[key] for key in ("messages", "input") if key in fields]
    if not any(_may_hold_data(bytes(raw), request.dialect) for raw in asked):
        return size, 0
    large = [data for raw in asked for data in _walk(_decoded(raw), data=True, most=MOST_WALKED)]
    return max(size - sum(map(len, large)), 0), len(large)


def _may_hold_data(raw: bytes, dialect: Dialect) -> bool:
    """Parts stand in lists inside messages, only those of Responses beside them too. To look for a
    letter takes a tenth of the time that looking for a word takes."""
    if dialect != "responses" and raw.find(b"[", 1) < 0:
        return False
    return b"base64," in raw or b'"data"' in raw


def _counted(request: Request, counting: Counting) -> int:
    body = request.body
    if not isinstance(body, JsonBody):
        return 0
    tokens = 0
    for key in _ASKED:
        if key in body.fields:
            value = _decoded(body.fields[key])
            texts = list(_walk(value, data=False))
            tokens += counting("\n".join(texts).encode("utf-8", "replace").decode())
            tokens += OF_A_MESSAGE * len(value) if isinstance(value, list) else 0
            tokens += OF_A_PICTURE * len(list(_walk(value, data=True)))
    return tokens


def _decoded(raw: msgspec.Raw) -> Any:
    try:
        return _DECODER.decode(raw)
    except UNREADABLE:
        return None


def _walk(value: Any, *, data: bool, most: float = math.inf) -> list[str]:
    """All texts in a value, or all in base64; of one with more than `most` values, some."""
    found: list[str] = []
    left = [(value, "")]
    walked = 0
    while left and walked < most:
        here, key = left.pop()
        walked += 1
        if isinstance(here, str):
            if (len(here) >= _LARGE and key in _DATA and " " not in here[:_LARGE]) is data:
                found.append(here)
        elif isinstance(here, list):
            left += [(each, key) for each in here]
        elif isinstance(here, Mapping):
            left += [(each, name) for name, each in here.items()]
    return found
