"""What the owner of the instances and its workers say to each other, over a socket pair.

Connections of callers go over a second pair, as descriptors (`proxy/workers.py`).
"""

import asyncio
import socket

import msgspec

from proxy.tables import Dump
from router.measures import Seen

_LENGTH = 4  # bytes before each message
_LIMIT = 64 * 2**20


class Configure(msgspec.Struct, tag=True):
    """To a worker: serve this from now on; a pickled Config, from nobody but our own process."""

    config: bytes


class Drain(msgspec.Struct, tag=True):
    """To a worker: take no new calls, and report when the last has ended."""


class CutOff(msgspec.Struct, tag=True):
    """To a worker: end all calls now."""


class Tell(msgspec.Struct, tag=True):
    """To a worker: report now, with this number."""

    asked: int


class Report(msgspec.Struct, tag=True):
    """From a worker: what it counted since its start, what it is at, and what is new to tell."""

    tables: dict[str, Dump] = {}
    in_flight: dict[str, int] = {}  # by model
    waiting: dict[str, int] = {}
    calls: int = 0
    draining: bool = False
    asked: int = 0  # the number of the last Tell
    seen: Seen = msgspec.field(default_factory=Seen)


Message = Configure | Drain | CutOff | Tell | Report
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(Message).decode


class Link:
    """One end of the socket pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Link":
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Never waits; what the other end does not take is kept in memory."""
        if not self._writer.is_closing():
            encoded = _ENCODE(message)
            self._writer.write(len(encoded).to_bytes(_LENGTH) + encoded)

    @property
    def behind(self) -> bool:
        """Whether the other end has not yet taken all that was sent."""
        return bool(self._writer.transport.get_write_buffer_size())

    async def receive(self) -> Message | None:
        """The next message; None when the other end is gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH))
            if length > _LIMIT:
                return None
            message: Message = _DECODE(await self._reader.readexactly(length))
            return message
        except (asyncio.IncompleteReadError, OSError):
            return None

    def close(self) -> None:
        self._writer.close()
