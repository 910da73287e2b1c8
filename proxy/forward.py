"""Calls that a worker hands on, whole and unchanged, to the process that owns the instances."""

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from backends.upstream import Origin, Response, Timeouts, UpstreamError
from proxy.gateway import Gateway
from proxy.head import Head
from proxy.inbound import request_id
from proxy.responder import Responder
from router.answer import told_length
from router.errors import BadRequest, GatewayError, ModelUnavailable, ResponseLost
from router.headers import HOP_BY_HOP, named_in_connection
from router.request import Headers

log = logging.getLogger("lamplighter.forward")

if TYPE_CHECKING:
    from proxy.connection import Connection

_TIMEOUTS = Timeouts(5.0, math.inf, math.inf)  # the owner knows what may take how long
_NOT_ASKED = HOP_BY_HOP | {b"content-length", b"host", b"expect", b"x-request-id"}
_NOT_ANSWERED = HOP_BY_HOP | {b"content-length", b"date", b"x-request-id"}


class ForwardedCall:
    """A call of the control kind that came to a worker."""

    def __init__(
        self, gateway: Gateway, connection: "Connection", head: Head, owner: Origin
    ) -> None:
        self._gateway = gateway
        self._connection = connection
        self._head = head
        self._owner = owner
        self._id = request_id(head)
        self._responder = Responder(connection, head, self._id)
        self._response: Response | None = None
        self._task: asyncio.Task[None] | None = None
        self._running = False
        self._cut = False

    def admit(self) -> None:
        """Nothing is refused by its head."""

    def start(self, body: bytes, refusal: GatewayError | None) -> None:
        self._task = self._connection.loop.create_task(self._run(body, refusal))
        self._gateway.enter(self)

    async def _run(self, body: bytes, refusal: GatewayError | None) -> None:
        responder = self._responder
        self._running = True
        try:
            if self._cut:
                raise asyncio.CancelledError
            if refusal is not None:
                raise refusal
            self._response = await ask(self._owner, self._head, self._id, body)
            if self._connection.paused:
                self._response.hold()
            await relay(self._response, responder)
        except GatewayError as error:
            responder.fail(error, resumable=False)
        except asyncio.CancelledError:
            pass
        except Exception:  # the edge, as in `exchange.py`
            log.exception("request %s failed", self._id)
            message = "the gateway failed on this request; its log has the request id"
            responder.fail(GatewayError(message), resumable=False)
        finally:
            if self._response is not None:
                self._response.close()
            self._gateway.leave(self)
            self._connection.ended(reusable=responder.reusable)

    def hold(self) -> None:
        if self._response is not None:
            self._response.hold()

    def go_on(self) -> None:
        if self._response is not None:
            self._response.go_on()

    def caller_left(self) -> None:
        self.cut_off()

    def cut_off(self) -> None:
        if self._running and self._task is not None:
            self._task.cancel()
        else:
            self._cut = True  # a task cancelled before its first step never ends its call


async def ask(owner: Origin, head: Head, id: str, body: bytes) -> Response:
    """The beginning of the owner's answer. Raises ModelUnavailable when it is gone."""
    dropped = _NOT_ASKED | named_in_connection(head.headers)
    headers: Headers = [header for header in head.headers if header[0] not in dropped]
    headers.append((b"x-request-id", id.encode()))
    target = head.raw_path + (b"?" + head.query if head.query else b"")
    host = head.fields.get(b"host")
    try:
        return await owner.open(head.method, target, headers, body, _TIMEOUTS, host)
    except ValueError as error:
        raise BadRequest(f"the request cannot be passed on: {error}") from error
    except UpstreamError as error:
        message = "the process that owns the started instances does not answer"
        raise ModelUnavailable(message, code="owner_unreachable") from error


async def relay(response: Response, responder: Responder) -> None:
    """Write the owner's answer as it comes. Raises ResponseLost."""
    headers = [header for header in response.headers if header[0] not in _NOT_ANSWERED]
    responder.begin(response.status, headers, told_length(response.headers))
    try:
        await response.pump(responder.write)
    except UpstreamError as error:
        raise ResponseLost("the process that owns the started instances is gone") from error
    responder.end()
