"""Questions that the gateway asks a model by itself, beside those of its callers.

They are counted as requests to the model, with a record of their own.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from backends.fleet import Snapshot
from policies.reply import Reply
from router.answer import Answer
from router.body import UNREADABLE, JsonBody, parse_json
from router.errors import GatewayError, UpstreamTimeout
from router.journey import Journey, Leg
from router.record import Record
from router.reply import ReplyReader
from router.request import Request

Read = TypeVar("Read")
Begin = Callable[[Snapshot, Request, Record, Leg], Journey]

WITHIN_S = 300.0  # a caller may be waiting, and a place is taken
_NOT_FOR_ONE_ANSWER = ("stream", "stream_options", "n")
_YES_OR_NO = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 5}
_SHOWN = 20_000  # characters of a text inside a question


class Asking:
    """`begin` starts a journey to one model; `ended` hears of each question that is over."""

    def __init__(
        self, begin: Begin, clock: Callable[[], float], ended: Callable[[Record], None]
    ) -> None:
        self._begin = begin
        self._clock = clock
        self._ended = ended

    async def reply(self, snapshot: Snapshot, leg: Leg, request: Request) -> Reply | None:
        """A whole answer; None when there is none."""
        body = await self._answer(snapshot, leg, request)
        reader = ReplyReader()
        if body is not None:
            reader.whole(body)
        return reader.reply() if body is not None and reader.readable else None

    async def yes(self, snapshot: Snapshot, leg: Leg, like: Request, question: str) -> float | None:
        """log P(yes) of a question that is answered by yes or no; None when it was not."""
        messages = [{"role": "user", "content": question}]
        return await self._yes(snapshot, leg, like, messages)

    async def is_right(
        self, snapshot: Snapshot, leg: Leg, request: Request, reply: Reply
    ) -> float | None:
        """The model's own log P(yes) that its answer to a request is right."""
        body = request.body
        if not isinstance(body, JsonBody) or request.dialect != "chat":
            return None
        said = {"role": "assistant", "content": reply.text[:_SHOWN]}
        doubt = {"role": "user", "content": "Is your answer right? Say only Yes or No."}
        try:
            messages = msgspec.json.decode(body.fields["messages"], type=list[Raw])
        except (*UNREADABLE, KeyError):
            return None
        return await self._yes(snapshot, leg, request, [*messages, said, doubt])

    def record(self, request: Request) -> Record:
        """That of a question which is asked now."""
        return Record(request.id, request.dialect, self._clock(), bytes_in=request.size)

    async def ask(
        self,
        snapshot: Snapshot,
        leg: Leg,
        request: Request,
        record: Record,
        read: Callable[[Answer], Awaitable[Read | None]],
    ) -> Read | None:
        """What is read of the answer; None when there is none within WITHIN_S."""
        try:
            async with asyncio.timeout(min(leg.settings.timeouts.total, WITHIN_S)):
                answer = await self._begin(snapshot, request, record, leg).run()
                try:
                    return await read(answer)
                finally:
                    answer.close()
        except TimeoutError:
            record.error_code = UpstreamTimeout.code
            return None
        except GatewayError as error:
            record.error_code = error.code
            return None
        finally:
            record.ended_s = self._clock()
            self._ended(record)

    async def _yes(
        self, snapshot: Snapshot, leg: Leg, like: Request, messages: Sequence[object]
    ) -> float | None:
        fields = {"model": leg.model, "messages": messages, **_YES_OR_NO}
        question = asked(like, msgspec.json.encode(fields), b"/chat/completions")
        body = await self._answer(snapshot, leg, question)
        return _log_yes(body) if body is not None else None

    async def _answer(self, snapshot: Snapshot, leg: Leg, request: Request) -> bytes | None:
        return await self.ask(snapshot, leg, request, self.record(request), _whole)


async def _whole(answer: Answer) -> bytes | None:
    return answer.ahead if answer.status == 200 and answer.whole else None


def asked(like: Request, body: bytes, target: bytes) -> Request:
    """A question of the gateway's own, for the sake of a request."""
    return msgspec.structs.replace(
        like,
        id=f"{like.id}-asked",
        target=target,
        dialect="chat",
        headers=[(b"content-type", b"application/json")],
        fields={b"content-type": b"application/json"},
        body=parse_json(body),
    )


def once_more(request: Request, changed: Mapping[str, object]) -> Request | None:
    """The same request, to be answered whole, with other fields; without those that are None.

    None if it is no JSON.
    """
    body = request.body
    if not isinstance(body, JsonBody):
        return None
    fields: dict[str, object] = {
        name: value for name, value in body.fields.items() if name not in _NOT_FOR_ONE_ANSWER
    }
    fields = {k: value for k, value in {**fields, **changed}.items() if value is not None}
    raw = msgspec.json.encode(fields)
    again = asked(request, raw, request.target)
    return msgspec.structs.replace(again, dialect=request.dialect)


class _Top(Struct):
    token: str = ""
    logprob: float = 0.0


class _Sure(Struct):
    top_logprobs: list[_Top] = []


class _Logprobs(Struct):
    content: list[_Sure] = []


class _Choice(Struct):
    logprobs: _Logprobs | None = None


class _Completion(Struct):
    choices: list[_Choice] = []


def _log_yes(body: bytes) -> float | None:
    """Of what the first token says to yes and to no; None when it says neither."""
    try:
        first = msgspec.json.decode(body, type=_Completion).choices[0].logprobs
        tops = first.content[0].top_logprobs if first is not None else []
    except (*UNREADABLE, IndexError):
        return None
    yes, no = _share(tops, ("y", "yes")), _share(tops, ("n", "no"))
    if yes + no <= 0:
        return None
    return math.log(max(yes / (yes + no), 1e-9))


def _share(tops: list[_Top], words: tuple[str, ...]) -> float:
    return sum(math.exp(min(t.logprob, 0.0)) for t in tops if t.token.strip().casefold() in words)
