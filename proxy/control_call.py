"""A request that is no inference, handed to Starlette by uvicorn's own ASGI cycle."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from proxy.head import Head
from proxy.inbound import request_id
from proxy.responder import Responder
from router.errors import GatewayError

if TYPE_CHECKING:
    from proxy.connection import Connection

log = logging.getLogger("lamplighter.control")


def is_control(path: str) -> bool:
    """Whether a path is no inference: models, health, metrics, admin."""
    if path.startswith("/v1/"):
        return path == "/v1/models" or path.startswith("/v1/models/")
    return path in ("/", "/health", "/ready", "/metrics") or path.startswith("/admin")


class ControlCall:
    """Puts the request's id into the scope's state and on the answer."""

    def __init__(self, connection: "Connection", head: Head) -> None:
        self._connection = connection
        self._head = head
        self._id = request_id(head)
        self._flow = FlowControl(connection.transport)
        self._cycle: RequestResponseCycle | None = None

    def admit(self) -> None:
        """Nothing is refused by its head."""

    def start(self, body: bytes, refusal: GatewayError | None) -> None:
        connection = self._connection
        if refusal is not None:
            self._refuse(refusal)
            return
        self._cycle = cycle = RequestResponseCycle(
            scope=self._scope(),
            transport=connection.transport,
            flow=self._flow,
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=[
                *connection.server_state.default_headers,
                (b"x-request-id", self._id.encode()),
            ],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=self._head.keep_alive,
            on_response=lambda: None,
        )
        cycle.body = bytearray(body)
        cycle.more_body = False
        cycle.message_event.set()
        app: Any = connection.config.loaded_app
        task = connection.loop.create_task(cycle.run_asgi(app))
        connection.server_state.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._connection.server_state.tasks.discard(task)
        assert self._cycle is not None
        self._connection.ended(reusable=self._cycle.response_complete)

    def _refuse(self, refusal: GatewayError) -> None:
        responder = Responder(self._connection, self._head, self._id)
        responder.fail(refusal, resumable=False)
        self._connection.ended(reusable=responder.reusable)

    def _scope(self) -> Any:
        connection, head = self._connection, self._head
        return {
            "type": "http",
            "asgi": {"version": connection.config.asgi_version, "spec_version": "2.3"},
            "http_version": head.version,
            "server": get_local_addr(connection.transport),
            "client": get_remote_addr(connection.transport),
            "scheme": "https" if is_ssl(connection.transport) else "http",
            "root_path": "",
            "method": head.method,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "headers": head.headers,
            "state": {**connection.app_state, "request_id": self._id},
        }

    def hold(self) -> None:
        self._flow.pause_writing()

    def go_on(self) -> None:
        self._flow.resume_writing()

    def caller_left(self) -> None:
        if self._cycle is not None:
            self._cycle.disconnected = True
            self._cycle.message_event.set()
        self._flow.resume_writing()
