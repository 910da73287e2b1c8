"""Getting a TCP or TLS connection: names resolved anew each time, addresses raced (RFC 8305).

A peer with a proxy is reached through a tunnel; its name is then the proxy's to resolve.

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
from dataclasses import dataclass, replace
from typing import Any, Literal

from backends.tasks import TaskSet
from backends.upstream_errors import ConnectFailed, ConnectTimeout
from backends.upstream_proxy import Proxy, open_tunnel, proxy_from_environment

HAPPY_EYEBALLS_DELAY_S = 0.25

_Address = tuple[int, Any]  # family and what sock_connect takes


@dataclass(frozen=True)
class Peer:
    """Where to connect, with which TLS settings (None: plain TCP), and through which proxy.

    With a `path` the peer is a Unix socket of this machine.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    proxy: Proxy | None = None
    path: str | None = None

    def by_environment(self) -> "Peer":
        """The same, through the proxy that the environment names for it, if any. BadProxy."""
        scheme: Literal["http", "https"] = "https" if self.tls else "http"
        return replace(self, proxy=proxy_from_environment(scheme, self.host, self.port))

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
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
        raise ConnectTimeout(f"no connection to {_route(peer)} in time") from exc
    except ssl.SSLError as exc:
        why = getattr(exc, "verify_message", None) or exc.reason or "handshake failed"
        raise ConnectFailed(f"TLS to {_route(peer)} failed: {why}") from exc
    except socket.gaierror as exc:
        hop = peer.proxy or peer
        raise ConnectFailed(f"the name of {hop} cannot be resolved: {exc.strerror}") from exc
    except ConnectionRefusedError as exc:
        raise ConnectFailed(f"{peer.proxy or peer} refused the connection", refused=True) from exc
    except OSError as exc:
        why = exc.strerror or "it was closed at once"
        raise ConnectFailed(f"no connection to {_route(peer)}: {why}") from exc


def _route(peer: Peer) -> str:
    return f"{peer} through {peer.proxy}" if peer.proxy else str(peer)


async def _dial(peer: Peer, protocol: asyncio.Protocol) -> None:
    connected = await _reached(peer.proxy or peer)
    try:
        if peer.proxy is not None:
            await open_tunnel(connected, peer.proxy, str(peer))
        name = peer.host if peer.tls else None
        await asyncio.get_running_loop().create_connection(
            lambda: protocol, sock=connected, ssl=peer.tls, server_hostname=name
        )
    except BaseException:
        connected.close()
        raise


async def _reached(hop: Peer | Proxy) -> socket.socket:
    if isinstance(hop, Peer) and hop.path is not None:
        return await _connected(socket.AF_UNIX, hop.path)
    addresses = _interleaved(await _resolved(hop.host, hop.port))
    if len(addresses) == 1:
        return await _connected(*addresses.popleft())
    return await _first_connected(addresses)


async def _resolved(host: str, port: int) -> list[_Address]:
    """Nothing is remembered: a name that moved is followed by the next connection."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


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
    owner = TaskSet()
    tasks: list[asyncio.Task[socket.socket]] = []
    running: set[asyncio.Task[socket.socket]] = set()
    winner: socket.socket | None = None
    error: BaseException = OSError("the name has no address")
    try:
        while winner is None and (addresses or running):
            if addresses:
                tasks.append(owner.task(_connected(*addresses.popleft()), "connect"))
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
        if family != socket.AF_UNIX:
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
