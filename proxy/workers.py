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
from contextlib import suppress
from dataclasses import dataclass, field

from backends.tasks import TaskSet
from config.schema import Config
from proxy.gateway import Gateway
from proxy.link import Configure, CutOff, Drain, Link, Report, Tell
from proxy.shares import share_of
from router.measures import Seen

log = logging.getLogger("lamplighter.workers")

AGAIN_AFTER_S = 1.0  # a worker that ended is replaced
SILENT_AFTER_S = 5.0  # ten reports that did not come: stopped, or stuck
LOOK_EVERY_S = 1.0
TOLD_WITHIN_S = 0.25  # then the last regular report must do
STARTED_WITHIN_S = 10.0  # then callers wait, and not whoever waits for the start
CUT_OFF_WITHIN_S = 5.0
DEAL_AGAIN_AFTER_S = 0.02  # when nobody took a connection, or no descriptor was left for it
BACKLOG = 2048
AT_ONCE = 64  # connections, before other work has its turn


@dataclass(eq=False)
class _Worker:
    number: int  # never given twice
    seat: int  # whose share it has; its replacement gets the same
    process: asyncio.subprocess.Process
    link: Link
    connections: socket.socket
    untaken: socket.socket  # the worker's own end of these, to take back what it never took
    heard_s: float
    told: Report = field(default_factory=Report)


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
        self._held: list[socket.socket] = []  # connections that nobody took yet
        self._closing = asyncio.Event()
        self._news = asyncio.Event()  # a worker reported, or ended
        self._tasks = TaskSet()
        self._loop = asyncio.get_running_loop()
        self._asked = 0
        gateway.elsewhere = self.requests
        gateway.refresh = self._refresh
        gateway.on_change = self._changed
        gateway.on_drain = self._drain

    def requests(self, model: str) -> tuple[int, int]:
        """Of a model: in flight from all workers, and waiting there, as of their last reports."""
        told = [worker.told for worker in self._workers]
        in_flight = sum(report.in_flight.get(model, 0) for report in told)
        return in_flight, sum(report.waiting.get(model, 0) for report in told)

    async def start(self) -> None:
        await asyncio.gather(*map(self._spawn, range(self._count)))
        await self._refresh(STARTED_WITHIN_S)
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening.fileno(), self._accept)
        self._loop.call_later(LOOK_EVERY_S, self._look)

    async def _refresh(self, within_s: float = TOLD_WITHIN_S) -> None:
        """Have every worker report now; those that do not in time were heard a moment ago."""
        self._asked += 1
        asked, silent = self._asked, self._silent()
        waited = [worker for worker in self._workers if worker not in silent]
        for worker in waited:
            worker.link.send(Tell(asked))
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while any(w.told.asked < asked for w in waited if w in self._workers):
                    await self._next()

    async def _next(self) -> None:
        """Wait for a report of any worker, or the end of one."""
        self._news.clear()
        await self._news.wait()

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    def _drain(self) -> None:
        for worker in self._workers:
            worker.link.send(Drain())

    async def until_idle(self) -> None:
        """Wait for the end of the last call of every worker; for a gateway that drains."""
        while any(not worker.told.draining or worker.told.calls for worker in self._workers):
            await self._next()

    def cut_off(self) -> None:
        """End all calls, and the workers that do not do so."""
        for worker in self._workers:
            worker.link.send(CutOff())
            self._loop.call_later(CUT_OFF_WITHIN_S, self._kill_busy, worker)

    def _kill_busy(self, worker: _Worker) -> None:
        if worker in self._workers and (worker.told.calls or not worker.told.draining):
            worker.process.kill()

    async def close(self) -> None:
        """Stop to listen, and wait until every worker is gone."""
        self._closing.set()
        self._loop.remove_reader(self._listening.fileno())
        for ending in [self._listening, *self._held]:
            ending.close()
        for worker in self._workers:
            worker.link.close()
        await self._tasks.wait()

    # --- connections -----------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, _ = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:  # no descriptor is left, most likely
                log.error("no connection can be accepted: %s", error.strerror)
                self._wait_to_deal()
                return
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._deal(accepted):
                self._held.append(accepted)
                self._wait_to_deal()
                return

    def _wait_to_deal(self) -> None:
        """Leave callers in the backlog for a moment."""
        self._loop.remove_reader(self._listening.fileno())
        self._loop.call_later(DEAL_AGAIN_AFTER_S, self._deal_again)

    def _deal_again(self) -> None:
        if self._closing.is_set():
            return
        self._held = [held for held in self._held if not self._deal(held)]
        if self._held:
            self._loop.call_later(DEAL_AGAIN_AFTER_S, self._deal_again)
        else:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _deal(self, accepted: socket.socket) -> bool:
        """To the next worker that takes it, a silent one only when all are; then it is closed."""
        silent = {worker.number for worker in self._silent()}
        for _ in range(len(self._workers)):
            self._turn = (self._turn + 1) % len(self._workers)
            worker = self._workers[self._turn]
            if worker.number in silent and len(silent) < len(self._workers):
                continue
            try:
                socket.send_fds(worker.connections, [b"c"], [accepted.fileno()])
            except OSError:  # its queue is full
                continue
            accepted.close()
            return True
        return False

    def _silent(self) -> list[_Worker]:
        before_s = self._loop.time() - SILENT_AFTER_S
        return [worker for worker in self._workers if worker.heard_s < before_s]

    def _look(self) -> None:
        """What was dealt to a worker that went silent is dealt to the others."""
        if self._closing.is_set():
            return
        silent = self._silent()
        if len(silent) < len(self._workers):
            for worker in silent:
                self._take_back(worker)
        self._loop.call_later(LOOK_EVERY_S, self._look)

    def _take_back(self, worker: _Worker) -> None:
        untaken: list[socket.socket] = []
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(worker.untaken, 1, 1)
            except OSError:  # no more
                break
            untaken += [socket.socket(fileno=descriptor) for descriptor in descriptors]
        left = [accepted for accepted in untaken if not self._deal(accepted)]
        if left:
            if not self._held:
                self._wait_to_deal()
            self._held += left

    # --- processes -------------------------------------------------------------------------------

    async def _spawn(self, seat: int) -> None:
        link, their_link = socket.socketpair()
        connections, untaken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with their_link:
            try:
                process = await self._start_process(their_link, untaken)
            except BaseException:
                for end in (link, connections, untaken):
                    end.close()
                raise
        for end in (link, connections, untaken):
            end.setblocking(False)
        self._numbers += 1
        worker = _Worker(
            self._numbers,
            seat,
            process,
            await Link.over(link),
            connections,
            untaken,
            self._loop.time(),
        )
        worker.link.send(self._configure(self._gateway.config, seat))
        if self._gateway.draining:
            worker.link.send(Drain())
        if self._closing.is_set():
            worker.link.close()
        self._workers.append(worker)
        self._tasks.start(self._attend(worker), f"worker {worker.number}")

    async def _start_process(
        self, link: socket.socket, connections: socket.socket
    ) -> asyncio.subprocess.Process:
        level = logging.getLevelName(logging.getLogger().level)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "proxy.worker"),  # -P: not from the current folder
            *(str(link.fileno()), str(connections.fileno()), self._owner_path, level),
            pass_fds=[link.fileno(), connections.fileno()],
            env={n: v for n, v in os.environ.items() if not n.startswith("LAMPLIGHTER_")},  # keys
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _attend(self, worker: _Worker) -> None:
        """Hear what a worker reports, until it ends; then start another in its place."""
        while isinstance(report := await worker.link.receive(), Report):
            worker.told = report
            worker.heard_s = self._loop.time()
            self._news.set()
            self._gateway.metrics.learn(worker.number, report.tables)
            self._gateway.measures.learn(report.seen)
            report.seen = Seen()
        self._workers.remove(worker)
        worker.link.close()
        if not self._closing.is_set():
            self._take_back(worker)
        worker.connections.close()
        worker.untaken.close()
        code = await _ended(worker.process)
        self._gateway.metrics.keep(worker.number)
        self._news.set()
        if not self._closing.is_set():
            log.error("worker %d ended with code %d and is replaced", worker.number, code)
            await self._replace(worker.seat)

    async def _replace(self, seat: int) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_AFTER_S):
                    await self._closing.wait()
                return
            try:
                await self._spawn(seat)
                return
            except OSError as error:
                log.error("no worker can be started: %s", error)

    def _changed(self, config: Config) -> None:
        for worker in self._workers:
            worker.link.send(self._configure(config, worker.seat))

    def _configure(self, config: Config, seat: int) -> Configure:
        return Configure(pickle.dumps(share_of(config, self._count, seat)))


async def _ended(process: asyncio.subprocess.Process) -> int:
    """The exit code of a worker that was left, or left by itself; it has not for ever."""
    try:
        async with asyncio.timeout(CUT_OFF_WITHIN_S):
            return await process.wait()
    except TimeoutError:
        process.kill()
        return await process.wait()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that only this process accepts from."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def owner_path(folder: str) -> str:
    return os.path.join(folder, "owner.sock")
