"""The worker processes of one gateway: started, fed with connections, told what changes, replaced.

This process keeps what there is one of: the instances, the admin API, the file. It accepts the
connections and deals them out in turn, so that the workers share the load evenly however few
callers there are; a connection costs that once, and LLM clients keep theirs.
"""

import asyncio
import logging
import os
import pickle
import socket
import sys
from dataclasses import dataclass, field

from backends.tasks import TaskSet
from config.schema import Config
from proxy.gateway import Gateway
from proxy.link import Configure, CutOff, Drain, Link, Report
from proxy.shares import share_of

log = logging.getLogger("lamplighter.workers")

AGAIN_AFTER_S = 1.0  # a worker that ended is replaced
CUT_OFF_WITHIN_S = 5.0
BACKLOG = 2048


@dataclass
class _Worker:
    number: int  # never given twice
    process: asyncio.subprocess.Process
    link: Link
    connections: socket.socket
    told: Report = field(default_factory=Report)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Workers:
    """`count` workers behind one listening socket. `owner_path` is where this process answers."""

    def __init__(self, gateway: Gateway, count: int, listening: socket.socket, owner_path: str):
        self._gateway = gateway
        self._count = count
        self._listening = listening
        self._owner_path = owner_path
        self._workers: list[_Worker] = []
        self._numbers = 0
        self._turn = 0
        self._draining = False
        self._news = asyncio.Event()  # a worker reported, or ended
        self._tasks = TaskSet()
        gateway.elsewhere = self.in_flight
        gateway.on_change = self._changed

    def in_flight(self, model: str) -> int:
        """Requests of a model at its servers from all workers, as of their last reports."""
        return sum(worker.told.in_flight.get(model, 0) for worker in self._workers)

    async def start(self) -> None:
        await asyncio.gather(*(self._spawn() for _ in range(self._count)))
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening.fileno(), self._accept)

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    async def drain(self) -> None:
        """Have every worker refuse new calls, and wait for the end of their last ones."""
        self._draining = True
        for worker in self._workers:
            worker.link.send(Drain())
        while any(not worker.told.draining or worker.told.calls for worker in self._workers):
            self._news.clear()
            await self._news.wait()

    def cut_off(self) -> None:
        for worker in self._workers:
            worker.link.send(CutOff())

    async def close(self) -> None:
        """Stop to listen, and wait until every worker is gone."""
        asyncio.get_running_loop().remove_reader(self._listening.fileno())
        self._listening.close()
        ending = list(self._workers)
        for worker in ending:
            worker.link.close()
            worker.connections.close()
        try:
            async with asyncio.timeout(CUT_OFF_WITHIN_S):
                await asyncio.gather(*(worker.gone.wait() for worker in ending))
        except TimeoutError:
            for worker in ending:
                worker.process.kill()
        await self._tasks.close()

    # --- connections -----------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, _ = self._listening.accept()
            except OSError:  # no more of them, or no descriptors: then later
                return
            with accepted:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._deal(accepted)

    def _deal(self, accepted: socket.socket) -> None:
        """To the next worker that takes it; none does when all are gone or choked: then closed."""
        for _ in range(len(self._workers)):
            self._turn = (self._turn + 1) % len(self._workers)
            try:
                socket.send_fds(self._workers[self._turn].connections, [b"c"], [accepted.fileno()])
            except OSError:
                continue
            return

    # --- processes -------------------------------------------------------------------------------

    async def _spawn(self) -> None:
        link, their_link = socket.socketpair()
        connections, their_connections = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs = (their_link, their_connections)
        level = logging.getLevelName(logging.getLogger().level)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy.worker"),
            *(str(end.fileno()) for end in theirs),
            *(self._owner_path, level),
            pass_fds=[end.fileno() for end in theirs],
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in theirs:
            end.close()
        for end in (link, connections):
            end.setblocking(False)
        self._numbers += 1
        worker = _Worker(self._numbers, process, await Link.over(link), connections)
        worker.link.send(self._configure(self._gateway.config))
        if self._draining:
            worker.link.send(Drain())
        self._workers.append(worker)
        self._tasks.start(self._attend(worker), f"worker {worker.number}")

    async def _attend(self, worker: _Worker) -> None:
        """Hear what a worker reports, until it ends; then start another in its place."""
        while isinstance(report := await worker.link.receive(), Report):
            worker.told = report
            self._news.set()
            self._gateway.metrics.learn(worker.number, report.tables)
        worker.link.close()
        code = await worker.process.wait()
        worker.connections.close()
        self._workers.remove(worker)
        self._gateway.metrics.keep(worker.number)
        worker.gone.set()
        self._news.set()
        if not self._draining:
            log.error("worker %d ended with code %d and is replaced", worker.number, code)
            await asyncio.sleep(AGAIN_AFTER_S)
            await self._spawn()

    def _changed(self, config: Config) -> None:
        for worker in self._workers:
            worker.link.send(self._configure(config))

    def _configure(self, config: Config) -> Configure:
        return Configure(pickle.dumps(share_of(config, self._count)))


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that only this process accepts from."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def owner_path(folder: str) -> str:
    return os.path.join(folder, "owner.sock")
