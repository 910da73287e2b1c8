"""Tokens as the backend counted them, read from the tail of its answer in any dialect."""

import zlib

import msgspec

from router.sse import event_data, split_events

PARSED_LIMIT = 8 * 1024 * 1024  # a longer plain answer goes uncounted
MOST_TOKENS = 10**9  # a count beyond it, or below 0, is none: prices and SQLite cannot hold it


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Tokens(msgspec.Struct):
    """The union of what Chat, Completions, Responses, Embeddings and Messages call usage."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Holder(msgspec.Struct):
    usage: Tokens | None = None


class _Answer(_Holder):
    choices: list[msgspec.Raw] | None = None
    response: _Holder | None = None  # Responses: response.completed
    message: _Holder | None = None  # Messages: message_start


_ANSWER = msgspec.json.Decoder(_Answer)


class Usage(msgspec.Struct):
    """Tokens of one request. `cached` are those of `input` that the server had already."""

    input: int = 0
    output: int = 0
    cached: int = 0

    def add(self, tokens: Tokens) -> None:
        """Take over counts; a later report replaces an earlier one field by field."""
        counted = tokens.input_tokens
        if counted is not None:  # Messages counts cached tokens beside the input, others within
            counted += tokens.cache_read_input_tokens or 0
            counted += tokens.cache_creation_input_tokens or 0
        self.input = _either(tokens.prompt_tokens, counted, self.input)
        self.output = _either(tokens.completion_tokens, tokens.output_tokens, self.output)
        details = tokens.prompt_tokens_details or tokens.input_tokens_details
        cached = details.cached_tokens if details else None
        self.cached = _either(cached, tokens.cache_read_input_tokens, self.cached)


def _either(one: int | None, other: int | None, known: int) -> int:
    told = one if one is not None else other
    return told if told is not None and 0 <= told <= MOST_TOKENS else known


def from_body(body: bytes, gzipped: bool) -> Usage | None:
    """The usage of a plain answer; None when it tells none."""
    try:
        if gzipped:
            body = zlib.decompressobj(wbits=31).decompress(body, PARSED_LIMIT)
        tokens = _ANSWER.decode(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError, zlib.error):
        return None
    if tokens is None:
        return None
    usage = Usage()
    usage.add(tokens)
    return usage


class StreamMeter:
    """Reads usage from passing events; takes out the usage chunk nobody asked for."""

    __slots__ = ("_drop", "usage")

    def __init__(self, *, drop: bool) -> None:
        self._drop = drop
        self.usage: Usage | None = None

    def see(self, events: bytes) -> bytes:
        """The events to pass on. Costs one search in those that tell no usage."""
        if b'"usage":{' not in events and b'"usage": {' not in events:
            return events
        kept = [event for event in split_events(events) if not self._is_extra(event)]
        return b"".join(kept)

    def _is_extra(self, event: bytes) -> bool:
        if b'"usage"' not in event:
            return False
        try:
            answer = _ANSWER.decode(event_data(event))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        for holder in (answer, answer.response, answer.message):
            if holder is not None and holder.usage is not None:
                self.usage = self.usage or Usage()
                self.usage.add(holder.usage)
        return self._drop and answer.usage is not None and answer.choices == []
