"""Loopback TCP ports for the servers that this process starts."""

import socket

HOST = "127.0.0.1"
# Below 32768, where Linux begins to take ports for outgoing connections: a port that was free when
# it was tested is then not gone when the server binds it.
FIRST, LAST = 20000, 31999
_STRIDE = 7919  # prime: neighbouring seeds begin far apart


class NoFreePort(Exception):
    """Every port of the range is handed out or used by somebody else."""


class Ports:
    """Hands out free ports, none twice at a time, the one that came back last at the very last.

    `seed` varies where it begins, so that two gateways on one machine seldom try the same port.
    """

    def __init__(self, first: int = FIRST, last: int = LAST, seed: int = 0) -> None:
        self._first = first
        self._count = last - first + 1
        self._next = seed * _STRIDE % self._count
        self._taken: set[int] = set()

    def take(self) -> int:
        for _ in range(self._count):
            port = self._first + self._next
            self._next = (self._next + 1) % self._count
            if port not in self._taken and _is_free(port):
                self._taken.add(port)
                return port
        last = self._first + self._count - 1
        raise NoFreePort(f"no free port from {self._first} to {last} on {HOST}")

    def give_back(self, port: int) -> None:
        self._taken.discard(port)

    @property
    def taken(self) -> frozenset[int]:
        return frozenset(self._taken)


def _is_free(port: int) -> bool:
    # Without SO_REUSEADDR, so that a listener on all addresses is seen too.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
