"""The reading end of a pipe, without a task: the event loop calls, nobody has to be cancelled."""

import asyncio
import os
from collections.abc import Callable

_CHUNK = 65536  # what a pipe holds; also all that one turn of the loop spends on it


class PipeReader:
    """Hands over what arrives until the last writer is gone. Owns the descriptor."""

    def __init__(self, fd: int, on_bytes: Callable[[bytes], None]) -> None:
        self.ended = asyncio.Event()
        self._fd = fd
        self._on_bytes = on_bytes
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if chunk:
            self._on_bytes(chunk)
        else:
            self._loop.remove_reader(self._fd)
            self.ended.set()

    def close(self) -> None:
        """Idempotent; what has not been read is lost."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self.ended.set()
