"""A worker process of `lamplighter serve --workers N`: callers' connections, and what is always on.

Started by `proxy/workers.py` with the descriptors of its two socket pairs. It ends when the owner
of the instances does. Signals are the owner's to obey: a service manager sends them to everybody.
"""

import asyncio
import os
import pickle
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any, cast

import uvloop
from uvicorn.server import ServerState

from backends.tasks import TaskSet
from backends.upstream import Origin
from config.schema import Config
from proxy.connection import Connection
from proxy.gateway import Gateway
from proxy.link import Configure, CutOff, Drain, Link, Message, Report, Tell
from proxy.process import log_to_stderr, settle
from proxy.reader import HeadLimits

REPORT_EVERY_S = 0.5
WRITTEN_WITHIN_S = 3.0  # the last bytes to callers, once the calls have ended


class Worker:
    """One gateway without instances, fed with connections that somebody else accepted."""

    def __init__(self, config: Config, link: Link, owner: Origin) -> None:
        server = config.server
        self._link = link
        self._gateway = gateway = Gateway(config, watcher=None, launchers={}, owner=owner)
        self._asked = 0
        self._tasks = TaskSet()
        self._served = ServerState()
        self._connection = partial(
            Connection,
            gateway,
            HeadLimits(server.header_timeout, server.max_header_bytes),
            config=cast(Any, None),  # for the calls that only an owner answers
            server_state=self._served,
            app_state={},
        )

    async def run(self, connections: socket.socket) -> None:
        """Serve until the owner is gone."""
        await self._gateway.start()
        self._report()
        loop = asyncio.get_running_loop()
        loop.add_reader(connections.fileno(), self._take, connections)
        self._tasks.start(self._report_always(), "report")
        while (order := await self._link.receive()) is not None:
            self._obey(order)
        loop.remove_reader(connections.fileno())
        await self._finish()

    def _obey(self, order: Message) -> None:
        match order:
            case Configure():
                config: Config = pickle.loads(order.config)
                self._gateway.measures.follow(config, worker=True)
                self._gateway.fleet.apply(config)
            case Drain():
                self._gateway.drain()
                self._tasks.start(self._report_when_idle(), "report the end of the last call")
            case CutOff():
                self._gateway.cut_off()
            case Tell():
                self._asked = order.asked
                self._report()
            case Report():
                pass  # is for the owner

    def _take(self, connections: socket.socket) -> None:
        try:
            _, descriptors, _, _ = socket.recv_fds(connections, 1, 1)
        except OSError:  # the owner took it back
            return
        for descriptor in descriptors:
            accepted = socket.socket(fileno=descriptor)
            accepted.setblocking(False)
            self._tasks.start(self._adopt(accepted), "adopt a connection")

    async def _adopt(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, accepted)
        except OSError:  # the caller has left meanwhile
            accepted.close()

    async def _report_always(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            if not self._link.behind:
                self._report()

    async def _report_when_idle(self) -> None:
        await self._gateway.until_idle()
        self._report()

    def _report(self) -> None:
        gateway = self._gateway
        backends = gateway.fleet.snapshot.backends
        self._link.send(
            Report(
                tables=gateway.metrics.dump(),
                in_flight={model: found.in_flight for model, found in backends.items()},
                waiting={model: found.room.requests for model, found in backends.items()},
                calls=gateway.calls,
                draining=gateway.draining,
                asked=self._asked,
                seen=gateway.measures.take(time.time()),
            )
        )

    async def _finish(self) -> None:
        """The owner is gone: let what runs end, for as long as a drain may take."""
        gateway = self._gateway
        gateway.drain()
        try:
            async with asyncio.timeout(gateway.config.server.drain_within):
                await gateway.until_idle()
        except TimeoutError:
            gateway.cut_off()
        for connection in list(self._served.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITTEN_WITHIN_S):
                while self._served.connections:  # noqa: ASYNC110  uvicorn's set tells nobody
                    await asyncio.sleep(0.02)
        await gateway.close()
        await self._tasks.close()


async def _main(link_end: socket.socket, connections: socket.socket, owner_path: str) -> None:
    parent = os.getppid()
    link = await Link.over(link_end)
    first = await link.receive()
    if isinstance(first, Configure):
        worker = Worker(pickle.loads(first.config), link, Origin.at_socket(owner_path))
        await worker.run(connections)
    if os.getppid() != parent:  # it was killed, and left its socket behind
        with suppress(OSError):
            os.unlink(owner_path)
            os.rmdir(os.path.dirname(owner_path))


def main(link: str, connections: str, owner_path: str, log_level: str) -> None:
    """`link` and `connections` are the numbers of inherited descriptors."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log_to_stderr(log_level)
    settle()
    uvloop.run(_main(_inherited(link), _inherited(connections), owner_path))


def _inherited(descriptor: str) -> socket.socket:
    end = socket.socket(fileno=int(descriptor))
    end.setblocking(False)
    return end


if __name__ == "__main__":
    main(*sys.argv[1:])
