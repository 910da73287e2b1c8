"""One request over two models: the small one answers, and the large one where the judge says so.

The caller sees one answer. The record of the request is that of the model asked last; what was
asked before is split off it, and counted for its own model.
"""

from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from policies import cascade
from policies.calibration import Calibration
from policies.cascade import Terms, Verdict
from policies.reply import Reply
from policies.signals import NOTHING_ASKED, Signals, first_tokens, signals
from router.answer import Answer, KeptAnswer
from router.body import JsonBody
from router.errors import GatewayError, ResponseLost
from router.expected import expected
from router.journey import Journey
from router.judged import JudgedStream
from router.record import Record
from router.reply import ReplyReader, without_logprobs
from router.request import Request
from router.route import Route

Outcome = Literal["kept", "escalated", "direct", "small_failed", "large_failed"]

TOP_LOGPROBS = 5  # as many as every OpenAI-compatible server gives
HELD_LIMIT = 1024 * 1024  # bytes of a stream that are held back for the judge
_LOGPROBS = {
    "chat": {"logprobs": b"true", "top_logprobs": b"%d" % TOP_LOGPROBS},
    "completions": {"logprobs": b"%d" % TOP_LOGPROBS},
}
_NOT_ASKED = (b"false", b"null", b"0")


class Foreseen(Struct, frozen=True):
    """Shares of labelled requests like the one in question, 0 to 1."""

    small_right: float
    escalated: float


class Course(Protocol):
    """What a cascade needs of the gateway that it runs in."""

    calibration: Calibration

    @property
    def prompt(self) -> str:
        """The last user text."""

    @property
    def explores(self) -> bool:
        """Whether the small model is asked although it would be skipped: else nobody would ever
        learn that it has become better, or quicker."""

    def p_escalate(self, foreseen: Foreseen | None) -> float | None:
        """How likely the large model is asked after all; None: not known."""

    @property
    def whole_only(self) -> bool:
        """Whether what the judge wants to know needs the whole answer."""

    def journey(self, request: Request, record: Record, model: str, held_back: bool) -> Journey:
        """A way to one of the two models, counted as a request to it."""

    def part(self, record: Record) -> None:
        """What was asked so far is over, but not the caller's request."""

    def terms(self, record: Record, output_tokens: int | None) -> Terms:
        """Prices and times of this moment; tokens of the answer, None before there is one."""

    async def foreseen(self) -> Foreseen | None:
        """What became of requests like this one; None: not known."""

    async def asked_again(
        self, request: Request, reply: Reply
    ) -> tuple[float | None, float | None]:
        """The small model's log P(yes) that it is right, and how many samples say the same."""

    def note(self, record: Record, found: Signals, verdict: Verdict, reply: Reply) -> None:
        """An answer of the small model was judged, or as much of it as there was."""


class Cascade:
    """One request on its way; `run` is called once. The surface is that of a `Journey`."""

    __slots__ = (
        "_asked_for",
        "_course",
        "_foreseen",
        "_journey",
        "_large",
        "_record",
        "_request",
        "_small",
        "settings",
    )

    def __init__(self, course: Course, route: Route, record: Record) -> None:
        assert route.use.cascade is not None
        self._small, self._large = route.use.cascade
        self._course = course
        self._request = route.request
        self._record = record
        self._asked_for = NOTHING_ASKED
        self._foreseen: Foreseen | None = None
        self.settings = route.prepared.settings[self._small]
        self._journey: Journey | None = None

    def status(self) -> str:
        """What the request is waiting for, in words for a person who reads the stream."""
        return self._journey.status() if self._journey is not None else "deciding"

    async def run(self) -> Answer:
        """The beginning of the answer; whoever takes it closes it. Raises GatewayError."""
        answer = await self._run()
        del self._request, self._course  # nobody is asked again, and a stream may be long
        return answer

    async def _run(self) -> Answer:
        body, course = self._request.body, self._course
        unjudged = why_unjudged(self._request)
        if unjudged is not None or not isinstance(body, JsonBody):
            return await self._ask(self._large, "direct", f"at once: {unjudged}")
        self._asked_for = expected(body)
        self._foreseen = foreseen = await course.foreseen()
        p_escalate = course.p_escalate(foreseen)
        first = cascade.begin(p_escalate, course.calibration, course.terms(self._record, None))
        if first.model == "small" or course.explores:
            return await self._small_first(body)
        try:
            answer = await self._ask(self._large, "direct", first.reason)
            if answer.refused != 429 and answer.refused < 500:
                return answer
            answer.close()
            why = f"large answered {answer.refused}"
        except GatewayError as error:
            why = f"large failed ({error.code})"
        course.part(self._record)
        return await self._ask(self._small, "large_failed", f"{why}, and nobody judges small")

    # --- the small model ------------------------------------------------------------------------

    async def _small_first(self, body: JsonBody) -> Answer:
        hides = not _asks_for_logprobs(body)
        request = _judged(self._request, body) if hides else self._request
        try:
            answer = await self._begin(request, self._small, held_back=True)
        except GatewayError as error:
            self._course.part(self._record)
            return await self._ask(self._large, "small_failed", f"small failed ({error.code})")
        if answer.refused or answer.status != 200:
            return await self._escalate(answer, "small_failed", f"small answered {answer.status}")
        try:
            verdict = await self._look_at(answer, hides)
        except GatewayError as error:  # it broke off, and the caller has not seen a byte of it
            return await self._escalate(answer, "small_failed", f"small failed ({error.code})")
        except BaseException:
            answer.close()
            raise
        if verdict.keep:
            return self._say(answer, "kept", verdict.reason)
        return await self._escalate(answer, "escalated", verdict.reason)

    async def _look_at(self, answer: Answer, hides: bool) -> Verdict:
        """The verdict; afterwards the answer can go out. Raises ResponseLost."""
        if isinstance(answer, JudgedStream):
            answer.hides = hides
            verdict = await self._watch(answer)
            answer.release()
            return verdict
        if not answer.complete:  # nor could its logprobs be taken out
            raise ResponseLost("the answer is longer than what can be judged")
        reader = ReplyReader()
        reader.whole(answer.ahead)
        verdict = await self._judge(reader)
        if hides:
            answer.ahead = without_logprobs(answer.ahead)
        return verdict

    async def _watch(self, stream: JudgedStream) -> Verdict:
        """Look at a stream as it comes, and hold it back until something can be said of it."""
        reader, held = ReplyReader(), len(stream.ahead)
        reader.events(stream.ahead)
        verdict = self._early(reader, 0)
        rule = self._course.calibration.early
        due = rule.after_tokens if rule is not None and self._may_go_early else None
        while verdict is None and held <= HELD_LIMIT:
            if due is not None and reader.count >= due:
                verdict, due = self._early(reader, due), None
            elif events := await stream.hold_more():
                reader.events(events)
                held += len(events)
            else:
                break
        return verdict or await self._judge(reader)

    @property
    def _may_go_early(self) -> bool:
        """JSON and tool calls are of no use in parts, and some signals need the whole answer."""
        return not (self._asked_for.json or self._asked_for.tools or self._course.whole_only)

    def _early(self, reader: ReplyReader, tokens: int) -> Verdict | None:
        """What a stream's first tokens say; None: wait for more."""
        course = self._course
        begun = signals(first_tokens(reader.reply(), tokens))
        terms = course.terms(self._record, None)
        found = cascade.early(begun, tokens, course.calibration, terms)
        if found == "wait":
            return None
        p_right = course.calibration.probability(begun)
        if not tokens:  # nobody else could answer: the judge has the words for it
            verdict = cascade.judge(begun, course.calibration, terms)
        elif found == "cut":
            verdict = Verdict(False, f"cut off after {tokens} tokens", p_right)
        else:
            verdict = Verdict(True, f"clear after {tokens} tokens", p_right)
        course.note(self._record, begun, verdict, reader.reply())
        return verdict

    async def _judge(self, reader: ReplyReader) -> Verdict:
        course, reply = self._course, reader.reply()
        again = await course.asked_again(self._request, reply)
        near = self._foreseen.small_right if self._foreseen is not None else None
        found = signals(reply, self._asked_for, *again, course.prompt, near)
        terms = course.terms(self._record, len(reply.tokens) or None)
        verdict = cascade.judge(found, course.calibration, terms)
        self._record.verdict = "kept" if verdict.keep else "escalated"
        course.note(self._record, found, verdict, reply)
        return verdict

    # --- the large one --------------------------------------------------------------------------

    async def _escalate(self, small: Answer, outcome: Outcome, why: str) -> Answer:
        """Ask the large model; what the small one said is given in the end if that fails."""
        kept = KeptAnswer(small) if small.complete and not small.refused else None
        small.close()
        self._course.part(self._record)
        try:
            answer = await self._ask(self._large, outcome, why)
        except GatewayError as error:
            if kept is None:
                raise
            return self._keep(kept, f"large failed ({error.code}); {why}")
        if kept is None or not answer.refused:
            return answer
        answer.close()
        return self._keep(kept, f"large answered {answer.refused}; {why}")

    def _keep(self, kept: KeptAnswer, why: str) -> Answer:
        self._record.status = kept.status
        self._record.answered_by = self._small
        return self._say(kept, "large_failed", why)

    async def _ask(self, model: str, outcome: Outcome, why: str) -> Answer:
        return self._say(await self._begin(self._request, model, held_back=False), outcome, why)

    async def _begin(self, request: Request, model: str, *, held_back: bool) -> Answer:
        # A journey forgets the body of its request, which the other model may need.
        request = msgspec.structs.replace(request)
        self._journey = self._course.journey(request, self._record, model, held_back)
        return await self._journey.run()

    def _say(self, answer: Answer, outcome: Outcome, why: str) -> Answer:
        self._record.verdict = outcome
        why = why.removeprefix(f"{outcome}: ")
        self._record.reasons.append(f"cascade: {outcome}: {why}")
        answer.about += b"x-lamplighter-cascade: %b\r\n" % outcome.encode()
        return answer


def why_unjudged(request: Request) -> str | None:
    """Why answers to a request cannot be judged, if they cannot."""
    if request.dialect not in _LOGPROBS or not isinstance(request.body, JsonBody):
        return "only chat and text completions are judged"
    count = request.body.fields.get("n")
    if count is not None and bytes(count) not in (b"1", b"null"):
        return "several answers to one request are not judged"
    if request.dialect == "completions":
        return _why_unjudged_text(request.body)
    return None


def _why_unjudged_text(body: JsonBody) -> str | None:
    """Each prompt of a list has an answer of its own, and `echo` puts the prompt into it."""
    prompt = bytes(body.fields.get("prompt", b""))
    if prompt.startswith(b"["):
        try:
            prompts = msgspec.json.decode(prompt, type=list[msgspec.Raw])
        except msgspec.MsgspecError:
            return "the prompt cannot be read"
        if len(prompts) > 1 and bytes(prompts[0])[:1] in (b'"', b"["):
            return "the answers to several prompts are not judged"
    if bytes(body.fields.get("echo", b"null")) not in (b"false", b"null"):
        return "an answer that repeats the prompt is not judged"
    return None


def _asks_for_logprobs(body: JsonBody) -> bool:
    asked = body.fields.get("logprobs")
    return asked is not None and bytes(asked) not in _NOT_ASKED


def _judged(request: Request, body: JsonBody) -> Request:
    """The request with logprobs, answered uncompressed so that they can be taken out again."""
    fields = {k: v for k, v in request.fields.items() if k != b"accept-encoding"}
    changed = body.changed(_LOGPROBS[request.dialect])
    return msgspec.structs.replace(request, body=changed, fields=fields)
