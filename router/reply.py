"""Chat and text completions read as a `Reply`, whole or chunk by chunk."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

from policies.reply import Reply, Token
from router.body import UNREADABLE
from router.sse import event_data, split_events

MOST_TOP = 20  # logprobs of other tokens in the place of one: no server gives more
LONGEST_REASON = 100  # characters of a finish reason; it is kept with what is learned
HIDDEN = b"null"  # what OpenAI and vLLM answer to those who did not ask for logprobs


class _Top(Struct):
    logprob: float = 0.0


class _Sure(Struct):
    token: str = ""
    logprob: float = 0.0
    top_logprobs: list[_Top] | None = None


class _Logprobs(Struct):
    """`content` is the chat's, the lists are those of text completions."""

    content: list[_Sure] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None

    def read(self) -> list[Token]:
        if self.content is not None:
            return [Token(t.token, t.logprob, _descending(t.top_logprobs)) for t in self.content]
        tops = self.top_logprobs or [None] * len(self.tokens or ())
        known = zip(self.tokens or (), self.token_logprobs or (), tops, strict=False)
        return [
            Token(text, logprob, tuple(sorted((top or {}).values(), reverse=True)[:MOST_TOP]))
            for text, logprob, top in known
            if logprob is not None
        ]


def _descending(tops: Sequence[_Top] | None) -> tuple[float, ...]:
    return tuple(sorted((top.logprob for top in tops or ()), reverse=True)[:MOST_TOP])


class _Function(Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct):
    index: int = 0
    function: _Function = _Function()


class _Message(Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct):
    index: int = 0
    text: str | None = None
    message: _Message | None = None
    delta: _Message | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Completion(Struct):
    choices: list[_Choice] | None = None


_COMPLETION = msgspec.json.Decoder(_Completion)


class ReplyReader:
    """Puts the first choice together. What cannot be read is left out, and `readable` says so."""

    def __init__(self) -> None:
        self.readable = True
        self._text: list[str] = []
        self._tokens: list[Token] = []
        self._calls: dict[int, list[str]] = {}
        self._finish_reason: str | None = None

    def whole(self, body: bytes) -> None:
        """A plain answer."""
        try:
            answer = _COMPLETION.decode(body)
        except UNREADABLE:
            self.readable = False
            return
        for choice in answer.choices or ():
            if choice.message is not None and choice.message.tool_calls:
                for number, call in enumerate(choice.message.tool_calls):
                    call.index = number  # only the chunks of a stream number them
            self._add(choice)

    def events(self, events: bytes) -> None:
        """Events of a stream, as they come."""
        for event in split_events(events):
            data = event_data(event)
            if not data.startswith(b"{"):
                continue
            try:
                chunk = _COMPLETION.decode(data)
            except UNREADABLE:
                self.readable = False
                continue
            for choice in chunk.choices or ():
                self._add(choice)

    @property
    def count(self) -> int:
        """Tokens with a logprob so far."""
        return len(self._tokens)

    def reply(self) -> Reply:
        calls = tuple((name, arguments) for name, arguments in self._calls.values())
        return Reply("".join(self._text), tuple(self._tokens), self._finish_reason, calls)

    def _add(self, choice: _Choice) -> None:
        if choice.index:
            return
        said = choice.message or choice.delta
        if said is not None:
            self._text += [part for part in (said.content, said.refusal) if part]
            for call in said.tool_calls or ():
                self._add_call(call)
        if choice.text:
            self._text.append(choice.text)
        if choice.logprobs is not None:
            self._tokens += choice.logprobs.read()
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason[:LONGEST_REASON]

    def _add_call(self, call: _ToolCall) -> None:
        known = self._calls.setdefault(call.index, ["", ""])
        known[0] += call.function.name or ""
        known[1] += call.function.arguments or ""


# --- hiding what only the gateway asked for -----------------------------------------------------

_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_CHOICES = msgspec.json.Decoder(list[dict[str, Raw]])


def without_logprobs(body: bytes) -> bytes:
    """A completion, or a chunk of one, with null for its logprobs; as it is if it has none."""
    if b'"logprobs"' not in body:
        return body
    try:
        fields = _FIELDS.decode(body)
        choices = _CHOICES.decode(fields["choices"])
    except (*UNREADABLE, KeyError):
        return body
    hidden = [{**c, "logprobs": Raw(HIDDEN)} if "logprobs" in c else c for c in choices]
    fields["choices"] = Raw(msgspec.json.encode(hidden))
    return msgspec.json.encode(fields)


def events_without_logprobs(events: bytes) -> bytes:
    if b'"logprobs"' not in events:
        return events
    return b"".join(_hide(event) for event in split_events(events))


def _hide(event: bytes) -> bytes:
    data = event_data(event).lstrip()
    if not data.startswith(b"{") or b'"logprobs"' not in data:
        return event
    return b"data: " + without_logprobs(data) + b"\n\n"
