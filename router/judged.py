"""Answers that a cascade looks at before they go out."""

from router.answer import PlainAnswer, Sink, StreamAnswer
from router.reply import events_without_logprobs
from router.sse import EventSplitter

JUDGED_LIMIT = 4 * 1024 * 1024  # of a plain answer: some 450 bytes of logprobs a token
JUDGED_EVENT_LIMIT = 512 * 1024  # of one event: logprobs are only taken out of whole ones


class JudgedPlain(PlainAnswer):
    """Read to its end, logprobs and all, so that it can be judged."""

    __slots__ = ()
    whole_limit = JUDGED_LIMIT


class JudgedStream(StreamAnswer):
    """What comes after `begin` is held back by `hold_more` until `release`.

    `hides`: the caller must not see the logprobs that only the gateway asked for.
    """

    __slots__ = ("_held", "hides")

    hides: bool
    _held: list[bytes]

    async def begin(self) -> None:
        self._held = []
        self._splitter = EventSplitter(JUDGED_EVENT_LIMIT)
        await super().begin()

    async def hold_more(self) -> bytes:
        """The next events; empty when the stream has ended. Raises ResponseLost."""
        events = b""
        while not self.complete and not events:
            events = self._events(await self._received())
            if self.complete:
                events += self._splitter.rest()
        self._held.append(events)
        return events

    def release(self) -> None:
        """Let it go out from its first event; the caller's first token is only now on its way."""
        events = b"".join([self.ahead, *self._held])
        self._held.clear()
        if self._record.first_token_s is not None:
            self._record.first_token_s = self._clock()
        self.ahead = events_without_logprobs(events) if self.hides else events
        self._last = self.ahead

    async def relay(self, sink: Sink) -> None:
        if not self.hides:
            await super().relay(sink)
            return
        await super().relay(lambda events: sink(events_without_logprobs(events)))
