"""The ASGI application: inference calls on a short path of our own, the rest through Starlette."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from policies.waiting import comments_s
from proxy import inbound
from proxy.gateway import Gateway
from proxy.responder import Responder
from router.answer import Answer, StreamAnswer
from router.errors import GatewayError, ShuttingDown, UpstreamFailed, UpstreamTimeout
from router.headers import ascii_value
from router.journey import Journey
from router.record import Record

log = logging.getLogger("lamplighter.app")

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]


class App:
    """`control` answers what is no inference: models, health, metrics, admin, lifespan."""

    def __init__(self, gateway: Gateway, control: ASGIApp) -> None:
        self._gateway = gateway
        self._control = control

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._control(scope, receive, send)
        elif _is_control(scope["method"], scope["path"]):
            id = inbound.request_id(scope["headers"])
            scope["state"]["request_id"] = id
            await self._control(scope, receive, _with_id(send, id))
        else:
            await _Exchange(self._gateway, scope, receive, send).run()


def _is_control(method: str, path: str) -> bool:
    if path.startswith("/v1/"):
        return path == "/v1/models" or path.startswith("/v1/models/")
    return path in ("/", "/health", "/ready", "/metrics") or path.startswith("/admin")


def _with_id(send: Any, id: str) -> Any:
    async def with_id(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", id.encode())]
        await send(message)

    return with_id


class _Exchange:
    """One inference call from its head to its record."""

    def __init__(self, gateway: Gateway, scope: Any, receive: Any, send: Any) -> None:
        self._gateway = gateway
        self._scope = scope
        self._receive = receive
        id = inbound.request_id(scope["headers"])
        self._responder = Responder(send, id)
        self._record = Record(id, "other", gateway.clock())
        self._caller_left = False
        self._resumable = True

    async def run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._gateway.enter(task)
        record = self._record
        try:
            await self._serve(task)
        except inbound.Disconnected:
            record.error_code = "cancelled"
        except GatewayError as error:
            await self._fail(error)
        except asyncio.CancelledError:
            await self._cancelled(task)
        except Exception as error:  # the edge: nothing that a request does may go further
            log.exception("request %s failed", record.request_id)
            message = "the gateway failed on this request; its log has the request id"
            error_for_caller = GatewayError(message)
            error_for_caller.__cause__ = error
            await self._fail(error_for_caller)
        finally:
            self._gateway.finished(record)

    async def _cancelled(self, task: "asyncio.Task[Any]") -> None:
        await self._responder.stop_comments()
        if self._caller_left:
            if not self._record.delivered:
                self._record.error_code = "cancelled"
            task.uncancel()
        else:
            await self._fail(ShuttingDown("the gateway is stopping and cannot finish this request"))

    async def _fail(self, error: GatewayError) -> None:
        record = self._record
        record.error_code = error.code
        if not self._responder.begun:
            record.status = error.status
        await self._responder.fail(error, resumable=self._resumable)

    async def _serve(self, task: "asyncio.Task[Any]") -> None:
        gateway, scope, record = self._gateway, self._scope, self._record
        found = inbound.route(scope["method"], scope["path"])
        self._responder.dialect = record.dialect = found.dialect
        if gateway.draining:
            raise ShuttingDown("the gateway is stopping and takes no new requests")
        server = gateway.config.server
        limits = inbound.Limits(server.max_body, server.body_timeout)
        request = await inbound.read_request(scope, self._receive, found, record.request_id, limits)
        record.stream = request.stream
        record.bytes_in = request.size
        journey = gateway.router.begin(request, record)
        keepalive = journey.settings.keepalive
        self._responder.about = [(b"x-lamplighter-model", ascii_value(record.model))]
        watch = asyncio.ensure_future(self._watch_caller(task))
        try:
            if request.stream:
                grace_s, every_s = comments_s(
                    keepalive.grace, keepalive.every, request.read_timeout_s
                )
                self._responder.keep_awake(grace_s, every_s, journey.status)
            await self._within_total(journey)
        finally:
            watch.cancel()
            await self._responder.stop_comments()

    async def _watch_caller(self, task: "asyncio.Task[Any]") -> None:
        """Cancel the exchange when its caller leaves, at whatever stage it is."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._responder.ended:
            self._caller_left = True
            task.cancel()

    async def _within_total(self, journey: Journey) -> None:
        total_s = journey.settings.timeouts.total
        try:
            async with asyncio.timeout(None if math.isinf(total_s) else total_s):
                await self._relay(await journey.run())
        except TimeoutError:
            raise UpstreamTimeout(
                f"the answer took longer than {total_s:g} s (timeouts.total)"
            ) from None

    async def _relay(self, answer: Answer) -> None:
        responder = self._responder
        try:
            await responder.stop_comments()
            if responder.begun and not (answer.status == 200 and isinstance(answer, StreamAnswer)):
                raise await _late_error(answer)
            if not responder.begun:
                await responder.begin(answer.status, answer.headers)
            while chunk := await answer.read():
                await responder.write(chunk)
            await responder.end()
        finally:
            if isinstance(answer, StreamAnswer):  # of any other nothing follows a begun stream
                self._resumable = answer.resumable
            answer.close()


async def _late_error(answer: Answer) -> GatewayError:
    """A backend's error that comes after the caller's stream began with comments."""
    body = b""
    while (chunk := await answer.read()) and len(body) < 64 * 1024:
        body += chunk
    error = UpstreamFailed(f"the model server answered {answer.status} without a stream")
    try:
        told = msgspec.json.decode(body, type=_Told).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return error
    error.message = told.message
    error.type = told.type or error.type
    error.code = str(told.code) if told.code is not None else error.code
    error.param = told.param
    return error


class _ToldError(msgspec.Struct):
    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None


class _Told(msgspec.Struct):
    error: _ToldError
