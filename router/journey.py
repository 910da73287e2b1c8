"""One request's journey: lease, attempt, another attempt elsewhere if need be, answer.

An attempt is repeated only while the caller has had no byte. Owns the record of the request; the
answer that it returns gives the lease back when it is closed.
"""

from collections.abc import Callable

from msgspec import Struct

from backends.endpoint import Endpoint
from backends.fleet import Snapshot
from backends.lease import Lease
from backends.upstream import ConnectFailed, FirstByteTimeout, Response, Timeouts, UpstreamError
from config.settings import Priority, Settings
from policies.retry import counts_against_health, judge_status
from policies.waiting import may_wait_s
from router import headers
from router.answer import Answer, PlainAnswer, StreamAnswer
from router.errors import (
    GatewayError,
    ModelUnavailable,
    NotFound,
    ResponseLost,
    UpstreamFailed,
    UpstreamTimeout,
)
from router.judged import JudgedPlain, JudgedStream
from router.pins import Pin, Pins
from router.places import Asked, Place, Places
from router.planners import Planners
from router.record import Attempt, Record
from router.request import Request


class Leg(Struct, frozen=True):
    """One model that a request is sent to, and what holds there for it.

    `priority` stands before what the caller asks for, `overflow` in place of the model's own;
    requests with the same `affinity` should meet the same server. `held_back` asks for an answer
    that a cascade can look at before it goes out.
    """

    model: str
    settings: Settings
    priority: Priority | None = None
    overflow: tuple[str, ...] | None = None
    affinity: str | None = None
    held_back: bool = False

    def wait_s(self, request: Request) -> float:
        """How long the request may be held for a server."""
        wait_s = may_wait_s(self.settings.max_wait, request.read_timeout_s, request.stream)
        return wait_s if request.max_wait_s is None else min(wait_s, request.max_wait_s)

    def asked(self, request: Request, received_s: float) -> Asked:
        """What of the request weighs in its placement."""
        deadline_s = received_s + self.wait_s(request)
        priority = self.priority_of(request)
        return Asked(request.size, deadline_s, priority, self.overflow, self.affinity)

    def priority_of(self, request: Request) -> Priority:
        return self.priority or request.priority or self.settings.priority


class Journey:
    """One request on its way; `run` is called once."""

    __slots__ = (
        "_attempts_left",
        "_clock",
        "_deadline_s",
        "_failure",
        "_held_back",
        "_pin",
        "_pins",
        "_places",
        "_planners",
        "_record",
        "_request",
        "_timeouts",
        "settings",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        request: Request,
        record: Record,
        leg: Leg,
        pin: Pin | None,
        pins: Pins,
        planners: Planners,
        clock: Callable[[], float],
    ) -> None:
        self.settings = leg.settings
        limits = self.settings.timeouts
        self._timeouts = Timeouts(limits.connect, limits.first_byte, limits.idle)
        self._request = request
        self._record = record
        self._held_back = leg.held_back
        self._pin = pin
        self._pins = pins
        self._clock = clock
        self._planners = planners
        self._attempts_left = self.settings.retries
        record.deadline_s = leg.wait_s(request)
        asked = leg.asked(request, record.received_s)
        self._deadline_s = asked.deadline_s
        self._places = Places(snapshot, leg.model, asked, planners, clock)
        self._failure: GatewayError | None = None  # of the last attempt

    def status(self) -> str:
        """What the request is waiting for, in words for a person who reads the stream."""
        return self._places.status()

    async def run(self) -> Answer:
        """The beginning of the answer; whoever takes it closes it. Raises GatewayError."""
        while True:
            found = self._places.lease_now() if self._pin is None else None
            place, lease = found or await self._lease()
            self._note(place, lease)
            try:
                answer = await self._attempt(place, lease)
            except BaseException:
                lease.release()
                raise
            if answer is not None:
                self._request.forget_body()  # nobody is asked again, and a stream may be long
                return answer
            lease.release()
            self._places.tried.add(lease.endpoint)
            self._attempts_left -= 1
            self._pin = None

    async def _lease(self) -> tuple[Place, Lease]:
        began_s = self._clock()
        try:
            return await self._find_lease()
        except ModelUnavailable as error:
            if error.code == "no_endpoints" and self._failure is not None:
                raise self._failure from error  # which says more
            raise
        finally:
            self._record.waited_s += self._clock() - began_s

    async def _find_lease(self) -> tuple[Place, Lease]:
        request = self._request
        if self._pin is not None:
            found = await self._places.pinned(self._pin, request.size, self._deadline_s)
            if found is not None:
                return found
        if request.body is None:
            raise NotFound(
                f"response '{request.response_id}' is gone: the model server that made it stopped"
            )
        return await self._places.lease(request.size, self._deadline_s)

    def _note(self, place: Place, lease: Lease) -> None:
        record = self._record
        record.placement = place.step.kind
        record.answered_by = place.model
        record.reasons.append(place.step.reason)
        if place.step.start is not None:
            self._overflowed(place, place.step.start)
        record.endpoint = lease.endpoint.id
        record.served_as = lease.endpoint.served_as
        record.cold_start = record.cold_start or lease.cold_start
        record.attempts.append(Attempt(lease.endpoint.id, place.step.kind, self._clock()))

    def _overflowed(self, place: Place, start: bool) -> None:
        """Somebody else answers for a model that is not ready: count it, and start if it pays."""
        planner = self._planners.get(place.instead_of)
        if planner is not None:
            planner.overflowed(planner.expected_usd(self._request.size))
        cold = self._places.cold(place.instead_of)
        if start and cold is not None:
            cold.wake()

    async def _attempt(self, place: Place, lease: Lease) -> Answer | None:
        """The answer, or None when it is worth asking elsewhere. Raises GatewayError."""
        attempt = self._record.attempts[-1]
        try:
            response = await self._send(lease.endpoint)
        except UpstreamError as error:
            attempt.error = type(error).__name__
            lease.failed(self._clock(), at_once=isinstance(error, ConnectFailed))
            self._failure = translate(error, lease)
            if self._may_retry(error, lease):
                return None
            raise self._failure from error
        attempt.status = response.status
        answer = self._answer(place, lease, response)
        try:
            if await self._accept(answer, lease):
                self._dress(answer, place, lease)
                return answer
        except BaseException:
            answer.close()
            raise
        answer.close()
        return None

    async def _send(self, endpoint: Endpoint) -> Response:
        request = self._request
        prefix = endpoint.origin.target_prefix
        return await endpoint.origin.open(
            request.method,
            (prefix.removesuffix(b"/v1") if request.at_root else prefix) + request.target,
            headers.sent_on(request, key=endpoint.key, outside=endpoint.outside),
            request.body_for(endpoint.served_as, self.settings.stream_usage),
            self._timeouts,
        )

    def _answer(self, place: Place, lease: Lease, response: Response) -> Answer:
        media = dict(response.headers).get(b"content-type", b"")
        answer: Answer
        if media.startswith(b"text/event-stream"):
            drop = self._request.drops_usage(self.settings.stream_usage)
            kind = JudgedStream if self._held_back else StreamAnswer
            answer = kind(response, lease, self._record, self._clock, drop_usage=drop)
        else:
            plain = JudgedPlain if self._held_back else PlainAnswer
            answer = plain(response, lease, self._record, self._clock, media=media)
        if self._request.dialect == "responses" and response.status == 200:
            answer.pin(self._pins, Pin(place.model, lease.endpoint.id))
        return answer

    async def _accept(self, answer: Answer, lease: Lease) -> bool:
        """Whether this answer goes to the caller; False to ask elsewhere. Raises ResponseLost."""
        if answer.status >= 400 and self._refused(answer.status, lease):
            return False
        try:
            await answer.begin()
        except ResponseLost as error:
            self._record.attempts[-1].error = type(error.__cause__).__name__
            self._failure = error
            if self._may_move and self._places.elsewhere(lease.endpoint, at_once=False):
                return False
            raise
        if answer.status < 400 and answer.refused:
            return not self._fails_over(answer.refused, lease)
        if not counts_against_health(answer.status):
            lease.answered()
        return True

    def _refused(self, status: int, lease: Lease) -> bool:
        """Whether an answer with this status is asked for elsewhere instead."""
        if counts_against_health(status):
            lease.failed(self._clock())
            self._failure = UpstreamFailed(f"{lease.endpoint.id} answered {status}")
        return judge_status(status, self._elsewhere_now(lease)) == "elsewhere"

    def _fails_over(self, error_status: int, lease: Lease) -> bool:
        """Whether a stream that begins with an error is answered elsewhere instead."""
        if counts_against_health(error_status):
            lease.failed(self._clock())
        if judge_status(error_status, self._elsewhere_now(lease)) == "elsewhere":
            return True
        self._record.error_code = "error_event"
        return False

    @property
    def _may_move(self) -> bool:
        """Whether another endpoint may be asked: never for what only one of them has."""
        return self._attempts_left > 0 and self._request.response_id is None

    def _elsewhere_now(self, lease: Lease) -> bool:
        """Whether another attempt is allowed and another endpoint has room for it now."""
        return self._may_move and self._places.elsewhere(lease.endpoint, at_once=True)

    def _may_retry(self, error: UpstreamError, lease: Lease) -> bool:
        """A server that is merely slow may still be at work on the request: not twice."""
        if isinstance(error, FirstByteTimeout) or not self._may_move:
            return False
        return self._places.elsewhere(lease.endpoint, at_once=False)

    def _dress(self, answer: Answer, place: Place, lease: Lease) -> None:
        record = self._record
        endpoint = lease.endpoint
        answer.headers = headers.returned(answer.upstream_headers)
        answer.about = headers.who_answered(
            place.model, endpoint.served_as, place.step.kind, endpoint.id
        ) + headers.how_answered(
            record.cold_start, round(record.waited_s * 1000), len(record.attempts)
        )
        if record.policy:
            answer.about += headers.by_policy(record.policy, record.rule)
        if answer.status >= 400:
            answer.headers.append((b"x-lamplighter-error-source", b"backend"))


def translate(error: UpstreamError, lease: Lease) -> GatewayError:
    """The one translation of a failure before the first byte."""
    message = f"{lease.endpoint.id} gave no answer: {error}"
    if isinstance(error, FirstByteTimeout):
        return UpstreamTimeout(message)
    return UpstreamFailed(message)
