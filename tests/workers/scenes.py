"""Gateways of several processes, and what one sees of their parts."""

from pathlib import Path

import psutil

from tests.gateway import GatewayProcess, eventually
from tests.proxy.scenes import chat
from tests.relay.callers import Answer, Caller, request

WORKERS = 3


def ask_on(caller: Caller, model: str, *headers: str, **more: object) -> Answer:
    """One call on a connection that is kept."""
    return caller.send(request(chat(model, **more), *headers)).answer()


def get(caller: Caller, path: str, *headers: str, method: str = "GET") -> Answer:
    lines = [f"{method} {path} HTTP/1.1", "host: gateway.example:81", *headers, "", ""]
    return caller.send("\r\n".join(lines).encode("latin-1")).answer(method)


def worker_of(gateway: GatewayProcess, caller: Caller) -> psutil.Process | None:
    """The worker that has the connection of a caller."""
    port = caller.socket.getsockname()[1]
    for worker in gateway.workers():
        if any(c.raddr and c.raddr.port == port for c in worker.net_connections("tcp")):
            return worker
    return None


def taken(gateway: GatewayProcess, caller: Caller) -> psutil.Process:
    found: psutil.Process = eventually(lambda: worker_of(gateway, caller), 10, "a worker takes it")
    return found


def one_each(gateway: GatewayProcess) -> list[tuple[Caller, psutil.Process]]:
    """A connection to every worker."""
    found: dict[int, tuple[Caller, psutil.Process]] = {}
    for _ in range(4 * len(gateway.workers())):
        caller = Caller(gateway)
        worker = taken(gateway, caller)
        if worker.pid in found:
            caller.socket.close()
        else:
            found[worker.pid] = (caller, worker)
    assert len(found) == len(gateway.workers())
    return list(found.values())


def everything(gateway: GatewayProcess) -> list[psutil.Process]:
    """Every process of a gateway but the first."""
    return [*gateway.children(), *gateway.workers()]


def socket_folder(gateway: GatewayProcess) -> Path:
    """Where the owner listens for its workers."""
    return Path(gateway.workers()[0].cmdline()[-2]).parent


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_end(processes: list[psutil.Process], within_s: float = 10) -> None:
    eventually(lambda: all(map(ended, processes)), within_s, "no process is left")
