"""The HTTP server: uvicorn with an orderly end, and with reloads on SIGHUP."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import uvicorn

from proxy.admin_key import AdminKey
from proxy.connection import Connection
from proxy.control import control_app
from proxy.gateway import Gateway
from proxy.reader import HeadLimits
from proxy.workers import Workers

log = logging.getLogger("lamplighter.server")

AFTER_CUT_OFF_S = 5  # for error events to go out once the time to drain is over


class Server(uvicorn.Server):
    """Serves one gateway until SIGTERM or SIGINT, then drains; SIGHUP reloads.

    A second SIGTERM or SIGINT ends the drain at once.
    """

    def __init__(
        self, gateway: Gateway, key: AdminKey, *, workers: Workers | None = None, **where: Any
    ) -> None:
        """`where` is host and port, or `uds`: behind `workers` only they ask this process."""
        server = gateway.config.server
        self._workers = workers
        self._gateway = gateway
        self._on_started: Callable[[int], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

        @asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            await gateway.start()
            try:
                yield
            finally:
                await gateway.close()

        limits = HeadLimits(server.header_timeout, server.max_header_bytes)
        super().__init__(
            uvicorn.Config(
                control_app(gateway, key, lifespan),
                **where,
                http=cast(Any, partial(Connection, gateway, limits)),
                loop="uvloop",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=AFTER_CUT_OFF_S,
            )
        )

    def on_started(self, callback: Callable[[int], None]) -> None:
        """`callback` gets the port once the server listens."""
        self._on_started = callback

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._loop = loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self.started and self._workers is not None:
            await self._workers.start()
        if self.started and self._on_started is not None:
            self._on_started(self._port())

    def _port(self) -> int:
        if self._workers is not None:
            return self._workers.port
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The second signal ends calls and servers now, but never leaves a server behind."""
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hurry)
        self.should_exit = True

    def _hurry(self) -> None:
        self._gateway.hurry()
        self._cut_off()

    def _cut_off(self) -> None:
        self._gateway.cut_off()
        if self._workers is not None:
            self._workers.cut_off()

    async def serve(self, sockets: Any = None) -> None:
        with self.capture_signals():
            await self._serve(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        """Refuse new calls, let the others end, cut off what takes longer than allowed.

        The port stays open meanwhile, so that who comes late is told 503 and not refused.
        """
        gateway, workers = self._gateway, self._workers
        gateway.drain()
        within_s = gateway.config.server.drain_within
        try:
            async with asyncio.timeout(within_s):
                await gateway.until_idle()
                if workers is not None:
                    await workers.until_idle()
        except TimeoutError:
            self._cut_off()
        if workers is not None:
            await workers.close()
        await super().shutdown(sockets)

    def _reload(self) -> None:
        reload = asyncio.ensure_future(self._gateway.reload())
        reload.add_done_callback(lambda done: done.exception())
