"""Getting a TCP or TLS connection: names resolved anew each time, addresses raced (RFC 8305).

Own code and not `create_connection(host, port)`, because uvloop tries addresses strictly one after
the other: a host whose IPv6 is a black hole would cost the whole connect timeout.
"""

import asyncio
import functools
import math
import socket
import ssl
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from backends.upstream_errors import ConnectFailed, ConnectTimeout

HAPPY_EYEBALLS_DELAY_S = 0.25

_Address = tuple[int, Any]  # family and what sock_connect takes


@dataclass(frozen=True)
class Peer:
    """Where to connect, and with which TLS settings (None: plain TCP)."""

    host: str
    port: int
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@functools.cache
def default_tls() -> ssl.SSLContext:
    """One for the process: loading the trusted certificates takes tens of milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def dial(peer: Peer, protocol: asyncio.Protocol, timeout_s: float) -> None:
    """Connect `protocol` to `peer`. Raises ConnectFailed or ConnectTimeout."""
    try:
        async with asyncio.timeout(None if timeout_s == math.inf else timeout_s):
            await _dial(peer, protocol)
    except TimeoutError as exc:
        raise ConnectTimeout(f"no connection to {peer} in time") from exc
    except ssl.SSLError as exc:
        why = getattr(exc, "verify_message", None) or exc.reason or "handshake failed"
        raise ConnectFailed(f"TLS to {peer} failed: {why}") from exc
    except socket.gaierror as exc:
        raise ConnectFailed(f"the name of {peer} cannot be resolved: {exc.strerror}") from exc
    except ConnectionRefusedError as exc:
        raise ConnectFailed(f"{peer} refused the connection", refused=True) from exc
    except OSError as exc:
        raise ConnectFailed(f"no connection to {peer}: {exc.strerror or 'it failed'}") from exc


async def _dial(peer: Peer, protocol: asyncio.Protocol) -> None:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    addresses = _interleaved((family, address) for family, _, _, _, address in found)
    if len(addresses) == 1:
        connected = await _connected(*addresses.popleft())
    else:
        connected = await _first_connected(addresses)
    name = peer.host if peer.tls else None
    try:
        await loop.create_connection(
            lambda: protocol, sock=connected, ssl=peer.tls, server_hostname=name
        )
    except BaseException:
        connected.close()
        raise


def _interleaved(addresses: Iterable[_Address]) -> deque[_Address]:
    """The families taken in turns, so that one that is dead costs one delay and not many."""
    families: dict[int, deque[_Address]] = {}
    for address in addresses:
        families.setdefault(address[0], deque()).append(address)
    ordered: deque[_Address] = deque()
    while families:
        for family, waiting in list(families.items()):
            ordered.append(waiting.popleft())
            if not waiting:
                del families[family]
    return ordered


async def _first_connected(addresses: deque[_Address]) -> socket.socket:
    """Start with the next address when one failed, or was silent for the delay."""
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[socket.socket]] = []
    running: set[asyncio.Task[socket.socket]] = set()
    winner: socket.socket | None = None
    error: BaseException = OSError("the name has no address")
    try:
        while winner is None and (addresses or running):
            if addresses:
                tasks.append(loop.create_task(_connected(*addresses.popleft())))
                running.add(tasks[-1])
            done, running = await asyncio.wait(
                running,
                timeout=HAPPY_EYEBALLS_DELAY_S if addresses else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                failure = task.exception()
                winner, error = (task.result(), error) if failure is None else (winner, failure)
    finally:
        for task in tasks:
            _drop(task, winner)
    if winner is None:
        raise error
    return winner


def _drop(task: asyncio.Task[socket.socket], winner: socket.socket | None) -> None:
    if not task.cancel() and not task.cancelled() and task.exception() is None:
        loser = task.result()
        if loser is not winner:
            loser.close()


async def _connected(family: int, address: Any) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _probe_when_silent(connected)
        await asyncio.get_running_loop().sock_connect(connected, address)
    except BaseException:
        connected.close()
        raise
    return connected


def _probe_when_silent(connected: socket.socket) -> None:
    """A long prefill is minutes of silence: middle boxes drop it, and a dead peer goes unseen."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
