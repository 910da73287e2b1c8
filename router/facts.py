"""What rules ask of a request, each read from its body once, and only if a rule asks.

Nothing here raises, whatever the body holds: what is of the wrong type is as good as not there,
and the model server will tell its caller. What must be waited for is fetched by `fetch`.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b, sha256
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Raw

from config.policy import Similar
from config.settings import Priority
from policies.facts import Count, Pending, Wordings
from router.body import UNREADABLE, JsonBody
from router.request import Request

LONGEST_TEXT = 16 * 1024  # characters of the last user text, its end, that rules look at
FETCHED_WITHIN_S = 1.0
MOST_UNREADABLE = 100  # messages; each costs as much as ten others
_SHORT = 64  # bytes of a list that may be empty


class _Turn(msgspec.Struct):
    """A message, as far as rules look at it."""

    role: Any = None
    content: Any = None
    type: Any = None


_ITEMS = msgspec.json.Decoder(list[Raw])
_TURNS = msgspec.json.Decoder(list[_Turn])
_TURN = msgspec.json.Decoder(_Turn)
_ANY = msgspec.json.Decoder()
_CONVERSATION = {"chat": "messages", "messages": "messages", "responses": "input"}
_LANGUAGE = Pending("language")
_IMAGES = frozenset({"image_url", "input_image", "image"})
_AUDIO = frozenset({"input_audio", "audio", "audio_url"})
_MOST_OUTPUT = ("max_completion_tokens", "max_tokens", "max_output_tokens")
# Without any of these fields there is nothing to read for three of the facts.
_TELLING = frozenset({*_MOST_OUTPUT, "tools", "functions", "response_format", "text"})
_NOT_TOLD = {"output_tokens": None, "tools": False, "json_schema": False}
_NO_PARTS = {"image": False, "audio": False}


class World(Protocol):
    """What is known beyond the request. None of it raises."""

    def hot(self, model: str) -> bool: ...

    def budget_left(self, model: str | None) -> float | None: ...

    def count(self, request: Request, model: str) -> Count:
        """Tokens of a prompt, without waiting."""

    async def exact(self, request: Request, model: str) -> Count: ...

    async def language(self, text: str) -> str | None: ...

    async def similarity(self, text: str, to: Similar) -> float | None: ...


_Fact = TypeVar("_Fact")


class _once(Generic[_Fact]):
    """What is read at most once, when it is asked for: `cached_property` without its lock, which
    costs more than most of what is read here (Python 3.11)."""

    __slots__ = ("_name", "_read")

    def __init__(self, read: Callable[[Any], _Fact]) -> None:
        self._read = read
        self._name = read.__name__

    def __get__(self, facts: Any, owner: type) -> _Fact:
        fact = facts.__dict__[self._name] = self._read(facts)
        return fact


class RequestFacts:
    """One request and the world around it. `epoch_s` is when it came."""

    def __init__(self, request: Request, world: World, epoch_s: float) -> None:
        self.epoch_s = epoch_s
        self._request = request
        self._world = world
        body = request.body
        self.model = body.model if body is not None else ""
        self._fields = body.fields if isinstance(body, JsonBody) else {}
        self.priority: Priority = request.priority or "normal"
        if _TELLING.isdisjoint(self._fields):
            self.__dict__.update(_NOT_TOLD)
        self._found: dict[Wordings, frozenset[int]] = {}
        self._counts: dict[str, Count] = {}
        self._fetched: dict[Pending, Any] = {}
        self._examples: dict[Pending, Similar] = {}

    def header(self, name: str) -> str | None:
        value = self._request.fields.get(name.encode())
        return value.decode("latin-1") if value is not None else None

    @_once
    def key(self) -> str | None:
        fields = self._request.fields
        given = fields.get(b"authorization", b"")
        if given[:7].lower() == b"bearer ":
            token = given[7:].strip()
        else:
            token = (fields.get(b"x-api-key") or fields.get(b"api-key") or b"").strip()
        return f"sha256:{sha256(token).hexdigest()}" if token else None

    # --- the body ---------------------------------------------------------------------------------

    @_once
    def output_tokens(self) -> int | None:
        for key in _MOST_OUTPUT:
            if key in self._fields:
                value = self._value(key)
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
        return None

    @_once
    def tools(self) -> bool:
        return any(self._has_some(key) for key in ("tools", "functions"))

    def _has_some(self, key: str) -> bool:
        """Whether a list holds anything; a long one is not read for it."""
        raw = self._fields.get(key)
        return raw is not None and (memoryview(raw).nbytes > _SHORT or bool(self._value(key)))

    @_once
    def json_schema(self) -> bool:
        wanted: object = None
        if "response_format" in self._fields:
            wanted = self._value("response_format")
        elif "text" in self._fields and self._request.dialect == "responses":
            text = self._value("text")
            wanted = text.get("format") if isinstance(text, dict) else None
        return isinstance(wanted, dict) and wanted.get("type") in ("json_schema", "json_object")

    @_once
    def image(self) -> bool:
        return self._has(b"image", _IMAGES)

    @_once
    def audio(self) -> bool:
        return self._has(b"audio", _AUDIO)

    def _has(self, sign: bytes, kinds: frozenset[str]) -> bool:
        """Whether a part is one of these kinds, the names of which all hold `sign`."""
        raw = self._conversation
        # Without a list inside no message has parts; the input of Responses has some beside them.
        if raw.find(b"[", 1) < 0 and self._request.dialect != "responses":
            self.__dict__.update(_NO_PARTS)
            return False
        if sign not in raw and b"\\u00" not in raw:  # JSON may spell letters as escapes
            return False
        return any(isinstance(each, str) and each in kinds for each in self._types())

    def _types(self) -> Iterator[object]:
        """Of all parts, and of what stands beside messages in the input of Responses."""
        for turn in self._turns:
            yield turn.type
            yield from _part_types(turn.content)

    @_once
    def text(self) -> str:
        return self._last_text()[-LONGEST_TEXT:]

    def _last_text(self) -> str:
        if self._request.dialect == "completions":
            prompt = self._value("prompt")
            return prompt if isinstance(prompt, str) else _last_of(prompt)
        if self._request.dialect == "responses" and isinstance(self._value("input"), str):
            return str(self._value("input"))
        for turn in reversed(self._turns):
            if turn.role == "user":
                content = turn.content
                text = content if isinstance(content, str) else _text(content)
                if text:
                    return text
        return ""

    @_once
    def _conversation(self) -> bytes:
        value = self._fields.get(_CONVERSATION.get(self._request.dialect, ""))
        return bytes(value) if value is not None else b""

    @_once
    def _turns(self) -> list[_Turn]:
        raw = self._conversation
        if not raw:
            return []
        try:
            return _TURNS.decode(raw)
        except UNREADABLE:
            return _readable_turns(raw)

    def _value(self, key: str) -> Any:
        raw = self._fields.get(key)
        if raw is None:
            return None
        try:
            return _ANY.decode(raw)
        except UNREADABLE:
            return None

    def found(self, wordings: Wordings) -> frozenset[int]:
        found = self._found.get(wordings)
        if found is None:
            found = self._found[wordings] = wordings.found_in(self.text)
        return found

    # --- the world --------------------------------------------------------------------------------

    def hot(self, model: str) -> bool:
        return self._world.hot(model)

    def budget_left(self, model: str | None) -> float | None:
        return self._world.budget_left(model)

    def input_tokens(self, model: str = "") -> Count:
        count = self._counts.get(model)
        if count is None:
            count = self._counts[model] = self._world.count(self._request, model)
        return count

    # --- what is waited for -----------------------------------------------------------------------

    def exact_tokens(self, model: str) -> Count | Pending:
        pending = Pending("exact_tokens", model)
        counted: Count | Pending = self._fetched.get(pending, pending)
        return counted

    def language(self) -> str | None | Pending:
        language: str | None | Pending = self._fetched.get(_LANGUAGE, _LANGUAGE)
        return language if self.text else None

    def similarity(self, to: Similar) -> float | None | Pending:
        if not self.text:
            return None
        pending = Pending("similarity", str(id(to)))
        self._examples[pending] = to
        cosine: float | None | Pending = self._fetched.get(pending, pending)
        return cosine

    async def fetch(self, pending: Pending) -> None:
        """Wait for a fact, a second at most; what did not come by then counts as not known."""
        try:
            async with asyncio.timeout(FETCHED_WITHIN_S):
                self._fetched[pending] = await self._fetch(pending)
        except TimeoutError:
            not_known = self.input_tokens(pending.of) if pending.kind == "exact_tokens" else None
            self._fetched[pending] = not_known

    async def _fetch(self, pending: Pending) -> Count | str | float | None:
        match pending.kind:
            case "language":
                return await self._world.language(self.text)
            case "exact_tokens":
                return await self._world.exact(self._request, pending.of)
            case "similarity":
                return await self._world.similarity(self.text, self._examples[pending])

    @property
    def counts(self) -> tuple[Count, ...]:
        """The counts of tokens that rules have asked for."""
        fetched = (found for found in self._fetched.values() if isinstance(found, Count))
        return (*self._counts.values(), *fetched)

    # --- where it belongs -------------------------------------------------------------------------

    def affinity_key(self, affinity: str | None) -> str | None:
        """What is the same for requests that belong together; None when nothing says so."""
        if affinity is None:
            return None
        if affinity == "conversation":
            return self._conversation_key
        if affinity == "prompt_cache_key":
            value = self._value("prompt_cache_key")
            return value if isinstance(value, str) and value else None
        return self.header(affinity.removeprefix("header:").lower())

    @_once
    def _conversation_key(self) -> str | None:
        """From the system prompt and the first user message: the same in each of its turns."""
        opening = self._opening()
        return blake2b(opening, digest_size=16).hexdigest() if opening else None

    def _opening(self) -> bytes:
        if self._request.dialect == "completions":
            return b""
        begin = [
            bytes(self._fields[key]) for key in ("system", "instructions") if key in self._fields
        ]
        if not self._turns:  # the input of Responses as one text
            return b"\0".join([*begin, self._conversation])
        for turn in self._turns:
            if turn.role == "user" or turn.role in ("system", "developer"):
                begin.append(msgspec.json.encode(turn.content))
            if turn.role == "user":
                return b"\0".join(begin)
        return b""


def _readable_turns(raw: bytes) -> list[_Turn]:
    """Those of a list in which some are no messages; up to where too many are unreadable."""
    turns: list[_Turn] = []
    left = MOST_UNREADABLE
    try:
        for item in _ITEMS.decode(raw):
            if bytes(memoryview(item)[:1]) != b"{":
                continue
            try:
                turns.append(_TURN.decode(item))
            except UNREADABLE:
                left -= 1
                if not left:
                    break
    except UNREADABLE:
        pass  # not even a list
    return turns


def _text(content: object) -> str:
    """The text of a message's content, of its parts in order."""
    if isinstance(content, str):
        return content
    parts: Sequence[object] = content if isinstance(content, list) else ()
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))


def _part_types(content: object, *, inside: bool = False) -> Iterator[object]:
    """Of the parts of a message, and of those in the results of tools. vLLM takes parts without a
    type too, and goes by the field that they have."""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            kind = part.get("type")
            yield from part if kind is None else (kind,)
            if kind == "tool_result" and not inside:
                yield from _part_types(part.get("content"), inside=True)


def _last_of(prompt: object) -> str:
    texts = [each for each in prompt if isinstance(each, str)] if isinstance(prompt, list) else []
    return texts[-1] if texts else ""
