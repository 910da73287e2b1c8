"""One inference call from its head to its record."""

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from backends.upstream import Origin, Response
from policies.waiting import comments_s
from proxy import forward, inbound, wire
from proxy.gateway import Gateway
from proxy.head import Head
from proxy.responder import Responder, late_error
from router.answer import Answer
from router.cascade import Cascade
from router.errors import Forbidden, GatewayError, ShuttingDown, UpstreamTimeout
from router.explain import explain
from router.headers import ascii_value
from router.journey import Journey
from router.record import Record
from router.request import Headers, Request

if TYPE_CHECKING:
    from proxy.connection import Connection

log = logging.getLogger("lamplighter.exchange")


class Exchange:
    """Started once, when the body is whole; then a task of its own ends it, come what may."""

    __slots__ = (
        "_answer",
        "_body",
        "_caller_left",
        "_connection",
        "_counted",
        "_cut",
        "_gateway",
        "_head",
        "_record",
        "_responder",
        "_route",
        "_running",
        "_task",
    )

    def __init__(self, gateway: Gateway, head: Head, connection: "Connection") -> None:
        id = inbound.request_id(head)
        self._gateway = gateway
        self._head = head
        self._connection = connection
        self._responder = Responder(connection, head, id)
        self._record = Record(id, "other", gateway.clock())
        self._route: inbound.Route | None = None
        self._body = b""  # not kept longer than it may have to be sent: streams are long
        self._answer: Answer | Response | None = None
        self._task: asyncio.Task[None] | None = None
        self._caller_left = False
        self._counted = True
        self._running = False
        self._cut = False

    def admit(self) -> None:
        """Raises GatewayError for what can be told from the head."""
        head = self._head
        self._route = found = inbound.route(head)
        self._responder.dialect = self._record.dialect = found.dialect
        if self._gateway.draining:
            raise ShuttingDown("the gateway is stopping and takes no new requests")

    def start(self, body: bytes, refusal: GatewayError | None) -> None:
        self._body = body
        self._task = self._connection.loop.create_task(self._run(refusal))
        self._gateway.enter(self)

    def hold(self) -> None:
        """The caller does not read what is written to it."""
        if self._answer is not None:
            self._answer.hold()

    def go_on(self) -> None:
        if self._answer is not None:
            self._answer.go_on()

    def caller_left(self) -> None:
        """End the exchange, at whatever stage it is."""
        if self._task is None:  # its body was not whole, or its turn did not come
            self._record.error_code = "cancelled"
            self._gateway.finished(self, self._record)
        elif not self._responder.ended:
            self._caller_left = True
            self._cancel()

    def cut_off(self) -> None:
        """The gateway stops: end the exchange with an error that says so.

        A call that was handed on is ended by its owner, in whole events.
        """
        if self._counted:
            self._cancel()

    def _cancel(self) -> None:
        if self._running and self._task is not None:
            self._task.cancel()
        else:
            self._cut = True  # a task cancelled before its first step never ends its call

    async def _run(self, refusal: GatewayError | None) -> None:
        record, responder = self._record, self._responder
        self._running = True
        try:
            if self._cut:
                raise asyncio.CancelledError
            if refusal is not None:
                raise refusal
            await self._serve()
        except GatewayError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._cancelled()
        except Exception as error:  # the edge: nothing that a request does may go further
            log.exception("request %s failed", record.request_id)
            message = "the gateway failed on this request; its log has the request id"
            error_for_caller = GatewayError(message)
            error_for_caller.__cause__ = error
            self._fail(error_for_caller)
        finally:
            responder.stop_comments()
            record.bytes_out = responder.bytes_out
            if self._counted:
                self._gateway.finished(self, record)
            else:
                self._gateway.leave(self)
            self._connection.ended(reusable=responder.reusable)

    def _cancelled(self) -> None:
        if not self._caller_left:
            self._fail(ShuttingDown("the gateway is stopping and cannot finish this request"))
        elif not (isinstance(self._answer, Answer) and self._answer.delivered):
            self._record.error_code = "cancelled"

    def _fail(self, error: GatewayError) -> None:
        self._record.error_code = error.code
        if not self._responder.begun:
            self._record.status = error.status
        answer = self._answer
        resumable = answer.resumable if isinstance(answer, Answer) else answer is None
        self._responder.fail(error, resumable=resumable)

    async def _serve(self) -> None:
        gateway, record, responder = self._gateway, self._record, self._responder
        explains = inbound.asks_to_explain(self._head)
        self._counted = not explains
        request = await self._request()
        if gateway.owner is not None and (explains or not gateway.knows(request)):
            await self._forward(gateway.owner)
            return
        self._body = b""
        if explains:
            await self._explain(request)
            return
        record.stream = request.stream
        record.bytes_in = request.size
        journey = await self._journey(request)
        responder.about = _about(record)
        settings = journey.settings
        if request.stream:
            grace_s, every_s = comments_s(
                settings.keepalive.grace, settings.keepalive.every, request.read_timeout_s
            )
            responder.keep_awake(grace_s, every_s, journey.status)
        del request  # the journey forgets its body in time, and a rule may have made a copy
        total_s = settings.timeouts.total
        if math.isinf(total_s):
            await self._relay(journey)
        else:
            await self._relay_within(journey, total_s)

    async def _explain(self, request: Request) -> None:
        """Say what would become of the request, and send it nowhere. Raises GatewayError."""
        if not self._gateway.config.server.explain:
            raise Forbidden(
                "callers get no explanations here (server.explain is false); POST /admin/explain"
                " gives them to who has the admin key",
                code="explanations_off",
            )
        found = await explain(self._gateway.router, request)
        self._responder.whole(200, [wire.JSON], wire.encode(found))

    async def _journey(self, request: Request) -> Journey | Cascade:
        """To the model of that name, or to where a policy sends it. Raises GatewayError."""
        router, record = self._gateway.router, self._record
        policy = router.policy(request)
        if policy is None:
            journey = router.begin(request, record)
            record.asked = record.model
            return journey
        record.asked = policy.name
        try:
            route = await router.decide(policy, request, record)
        finally:
            self._responder.about = _about(record)
        return router.begin_route(route, record)

    async def _request(self) -> Request:
        """What the whole body asks for. Raises GatewayError."""
        head, body = self._head, self._body
        assert self._route is not None
        encoding = head.fields.get(b"content-encoding")
        if encoding is not None:
            body = await inbound.unpacked(body, encoding, self._connection.max_body)
        return inbound.read_request(head, self._route, body, self._record.request_id)

    async def _forward(self, owner: Origin) -> None:
        """Hand the call to the process that can answer it, and that counts it."""
        self._counted = False
        body, self._body = self._body, b""
        self._answer = response = await forward.ask(
            owner, self._head, self._record.request_id, body
        )
        try:
            if self._connection.paused:
                response.hold()
            await forward.relay(response, self._responder)
        finally:
            response.close()

    async def _relay_within(self, journey: Journey | Cascade, total_s: float) -> None:
        try:
            async with asyncio.timeout(total_s):
                await self._relay(journey)
        except TimeoutError:
            raise UpstreamTimeout(
                f"the answer took longer than {total_s:g} s (timeouts.total)"
            ) from None

    async def _relay(self, journey: Journey | Cascade) -> None:
        responder = self._responder
        answer = await journey.run()
        try:
            responder.stop_comments()
            if responder.begun and not (answer.status == 200 and answer.streams):
                raise late_error(answer)
            self._answer = answer
            if answer.whole and not responder.begun:
                responder.whole(answer.status, answer.headers, answer.ahead, answer.about)
                return
            if not responder.begun:
                responder.begin(answer.status, answer.headers, answer.length, answer.about)
            responder.write(answer.ahead)
            if not answer.complete:
                if self._connection.paused:
                    answer.hold()
                await answer.relay(responder.write)
            responder.end()
        finally:
            answer.close()


def _about(record: Record) -> Headers:
    """What is known of the answerer before there is an answer."""
    about = [(b"x-lamplighter-model", ascii_value(record.model))] if record.model else []
    if record.policy:
        about.append((b"x-lamplighter-policy", ascii_value(record.policy)))
    if record.rule:
        about.append((b"x-lamplighter-rule", b"%d" % record.rule))
    return about
