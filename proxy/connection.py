"""One caller's connection: its requests parsed, bounded and answered in their order.

httptools parses. Inference calls become exchanges, everything else goes through uvicorn's ASGI
cycle to Starlette: for a relayed request a scope, an event and a task that watches for the caller
to leave would cost as much as all the rest (docs/performance.md).
"""

import asyncio
import socket
from collections import deque
from typing import Any, Protocol, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from backends.deadline import Deadline
from proxy import wire
from proxy.control_call import ControlCall, is_control
from proxy.exchange import Exchange
from proxy.forward import ForwardedCall
from proxy.gateway import Gateway
from proxy.head import Head
from proxy.reader import BODY, HEAD, IDLE, HeadLimits, Reader
from router.errors import GatewayError, RequestTimeout, TooLarge

KEEP_ALIVE_S = 75.0  # above the 60 s at which load balancers drop idle connections
SLOWEST_BODY = 1024  # bytes a second, on average; a body dripped slower than that is given up
TAKES_SOMETHING_WITHIN_S = 60.0  # of a whole answer that is written and not read
LOOK_EVERY_S = 0.05  # for the end of a connection that is not read
_CLOSED = (7, 8)  # TCP_CLOSE and TCP_CLOSE_WAIT of Linux: the peer has reset, or ended


class Call(Protocol):
    """One request that is being answered, or waits for its turn on the connection."""

    def admit(self) -> None:
        """Raises the GatewayError that can be told from the head alone."""

    def start(self, body: bytes, refusal: GatewayError | None) -> None: ...
    def hold(self) -> None: ...
    def go_on(self) -> None: ...
    def caller_left(self) -> None: ...


class Connection(asyncio.Protocol):
    """uvicorn makes one for each connection; `gateway` and `limits` are bound beforehand."""

    def __init__(
        self,
        gateway: Gateway,
        limits: HeadLimits,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.transport = cast(asyncio.Transport, None)
        self.paused = False  # the caller does not read what was written
        self.max_body = 0  # bytes that the arriving request may have
        self.config = config
        self.server_state = server_state
        self.app_state = app_state
        self.loop = _loop or asyncio.get_running_loop()
        self._gateway = gateway
        self._limits = limits
        self._deadline = Deadline(self.loop, self._late)
        self._reader = Reader(limits, self)
        self._deaf = False  # nothing that still arrives is a request
        self._last = False  # no request is taken after the one that is answered now
        self._parting: GatewayError | None = None  # to be said when the current answer is out
        self._served = 0
        self._parts: list[bytes] = []
        self._size = 0
        self._body_since_s = 0.0  # when more of the arriving body was waited for at first
        self._expecting = False  # the caller of the arriving request waits to be asked for its body
        self._arriving: Call | None = None  # the call whose body is not whole
        self._current: Call | None = None
        self._waiting: deque[tuple[Call, bytes, GatewayError | None]] = deque()
        self._looking: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes that a caller had not taken when it was looked at last

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server_state.connections.add(cast(Any, self))
        self._deadline.after(self._limits.timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.connections.discard(cast(Any, self))
        self._deadline.cancel()
        self._reader.close()
        self._deaf = True
        waiting = [call for call, _, _ in self._waiting]
        self._waiting.clear()
        for call in (self._current, *waiting, self._arriving):
            if call is not None:
                call.caller_left()
        self._arriving = None

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        reader = self._reader
        before = reader.stage
        try:
            reader.feed(data)
        except GatewayError as error:
            self._refuse(error)
            return
        if self._current is not None:
            return  # what more arrives has the time that the answer takes
        if reader.stage == HEAD and before != HEAD:
            self._deadline.after(self._limits.timeout_s)
        elif reader.stage == BODY and self._arriving is not None:
            self._await_body()

    def pause_writing(self) -> None:
        self.paused = True
        if self._current is not None:
            self._current.hold()

    def resume_writing(self) -> None:
        self.paused = False
        if self._current is not None:
            self._current.go_on()
        elif not self.transport.is_closing():
            self._take_next()

    def shutdown(self) -> None:
        """uvicorn stops: no request after the one that is answered now."""
        self._last = True
        if self._current is None:
            self._close()

    # --- what the reader finds -------------------------------------------------------------------

    def request_begins(self, head: Head) -> None:
        if self._last or self._gateway.draining:
            head.keep_alive = False
        self._parts = []
        self._size = 0
        self._body_since_s = 0.0
        call = self._call(head)
        self.max_body = self._gateway.config.server.max_body
        try:
            call.admit()
            announced = head.fields.get(b"content-length", b"0")
            if int(announced) > self.max_body:
                raise TooLarge.than(self.max_body)
        except GatewayError as refusal:
            self._hand_over(call, b"", refusal)
            return
        self._arriving = call
        self._expecting = head.expects_continue
        if self._expecting and self._current is None:
            self._ask_for_body()

    def body_arrives(self, piece: bytes) -> None:
        call = self._arriving
        if call is None:
            return
        self._expecting = False
        self._size += len(piece)
        self._parts.append(piece)
        if self._size > self.max_body:
            self._arriving = None
            self._parts = []
            self._hand_over(call, b"", TooLarge.than(self.max_body))

    def request_ends(self) -> None:
        call = self._arriving
        if call is not None:
            self._arriving = None
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            self._hand_over(call, body, None)
        elif self._current is None and not self._deaf:
            self._deadline.after(KEEP_ALIVE_S)  # the rest of what was refused

    def _ask_for_body(self) -> None:
        self._expecting = False
        self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _call(self, head: Head) -> Call:
        if is_control(head.path):
            owner = self._gateway.owner
            if owner is None:
                return ControlCall(self, head)
            return ForwardedCall(self._gateway, self, head, owner)
        return Exchange(self._gateway, head, self)

    # --- turns -----------------------------------------------------------------------------------

    def _hand_over(self, call: Call, body: bytes, refusal: GatewayError | None) -> None:
        if self._current is None:
            self._begin(call, body, refusal)
        else:  # pipelined: answered in the order of asking
            self._waiting.append((call, body, refusal))
            if len(self._waiting) == 1:
                self.transport.pause_reading()
                if self._looking is None:
                    self._looking = self.loop.call_later(LOOK_EVERY_S, self._look_for_end)

    def _look_for_end(self) -> None:
        """While a request waits nothing is read, so nobody tells when the caller leaves."""
        self._looking = None
        if not self._waiting or self.transport.is_closing():
            return
        if _has_ended(self.transport):
            self.transport.abort()
        else:
            self._looking = self.loop.call_later(LOOK_EVERY_S, self._look_for_end)

    def _begin(self, call: Call, body: bytes, refusal: GatewayError | None) -> None:
        self._deadline.clear()
        self._current = call
        self._served += 1
        call.start(body, refusal)

    def ended(self, *, reusable: bool) -> None:
        """The current call's answer is written, or will never be; only whole ones are `reusable`.

        Another answer may follow on a connection only behind one that was framed and whole.
        """
        self._current = None
        if self.transport.is_closing():
            return
        if not reusable:
            self._close()
        elif self.paused:
            self._await_reading()  # `resume_writing` takes the next one
        else:
            self._take_next()

    def _take_next(self) -> None:
        """What comes after an answer that the caller has taken."""
        if self._waiting:
            self._begin(*self._waiting.popleft())
            if not self._waiting:
                self.transport.resume_reading()
        elif self._parting is not None:
            self._say_and_close(self._parting)
        elif self._last:
            self._close()
        else:
            self._await_more()

    def _await_more(self) -> None:
        self._body_since_s = 0.0  # nothing of it could come before
        if self._reader.stage == IDLE:
            self._deadline.after(KEEP_ALIVE_S)
        elif self._arriving is not None:
            if self._expecting:
                self._ask_for_body()
            self._await_body()
        else:
            # A head; or the rest of a body that was refused: its caller may send on for a while,
            # so that it reads the answer instead of a reset, but not for ever.
            self._deadline.after(self._limits.timeout_s)

    # --- limits ----------------------------------------------------------------------------------

    def _await_body(self) -> None:
        """Bytes came, and more must: soon, and not ever more slowly."""
        timeout_s = self._gateway.config.server.body_timeout
        now_s = self.loop.time()
        if not self._body_since_s:
            self._body_since_s = now_s
        allowed_s = self._body_since_s + timeout_s + self._size / SLOWEST_BODY - now_s
        self._deadline.after(min(timeout_s, allowed_s))

    def _await_reading(self) -> None:
        """What was written must be taken, however slowly; a caller who stops to read is cut off."""
        self._unsent = self.transport.get_write_buffer_size()
        self._deadline.after(TAKES_SOMETHING_WITHIN_S)

    def _close(self) -> None:
        self._last = self._deaf = True
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._await_reading()

    def _late(self) -> None:
        call = self._arriving
        if self.paused or self.transport.is_closing():
            if self.transport.get_write_buffer_size() < self._unsent:
                self._await_reading()
            else:
                self.transport.abort()
        elif call is not None:
            self._arriving = None
            self._last = self._deaf = True
            timeout_s = self._gateway.config.server.body_timeout
            message = f"the body did not go on for {timeout_s:g} s, or came ever more slowly"
            self._hand_over(call, b"", RequestTimeout(f"{message} (server.body_timeout)"))
        elif self._reader.stage == HEAD or not self._served:
            message = f"the request's head did not come within {self._limits.timeout_s:g} s"
            self._refuse(RequestTimeout(f"{message} (server.header_timeout)"))
        else:
            self._close()

    def _refuse(self, error: GatewayError) -> None:
        """Answer what is no request; behind the answer that is being written, if one is."""
        self._deaf = True
        if self._arriving is not None:
            self._arriving.caller_left()
            self._arriving = None
        if self._current is None:
            self._say_and_close(error)
        else:
            self._parting = error

    def _say_and_close(self, error: GatewayError) -> None:
        if not self.transport.is_closing():
            body = wire.error_body(error, "other", "")
            headers = [*wire.error_headers(error), (b"connection", b"close")]
            self.transport.write(wire.response_head(error.status, headers, len(body)) + body)
            self._close()


def _has_ended(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed or reset the connection, though bytes of it are unread."""
    try:
        state = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, 1
        )
    except OSError:  # no TCP socket
        return False
    return state[0] in _CLOSED
