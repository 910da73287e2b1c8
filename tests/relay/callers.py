"""A caller on a bare socket: sends any bytes, and reads answers more strictly than clients do."""

import json
import re
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.gateway import GatewayProcess

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [\x20-\x7e]*")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x20-\x7e\x80-\xff\t]*)")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class Cut(Exception):
    """The connection ended before the answer did. `got` is what came of its body."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"cut after {got[-200:]!r}")
        self.got = got


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    interim: tuple[int, ...] = ()

    def header(self, name: str) -> str | None:
        found = [v for n, v in self.headers if n == name.encode()]
        assert len(found) < 2, found
        return found[0].decode("latin-1") if found else None

    @property
    def error(self) -> dict[str, Any]:
        """The error object, in OpenAI's shape."""
        assert self.header("content-type") == "application/json"
        told = json.loads(self.body)
        assert set(told) == {"error"}
        assert set(told["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = told["error"]
        return error


class Caller:
    def __init__(
        self, gateway: GatewayProcess, timeout_s: float = 20.0, *, narrow: bool = False
    ) -> None:
        """`narrow`: a line on which little is under way, so that the system buffers little."""
        self._buffer = b""
        self.socket = socket.socket()
        if narrow:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(timeout_s)
        self.socket.connect(("127.0.0.1", gateway.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> Self:
        """The parts, each in a write of its own."""
        for part in parts:
            self.socket.sendall(part)
        return self

    def try_send(self, *parts: bytes) -> Self:
        """The same, to a gateway that may have closed meanwhile."""
        try:
            return self.send(*parts)
        except ConnectionError:
            return self

    def answer(self, method: str = "POST") -> Answer:
        """The next answer. Cut when the connection ends first, AssertionError if it is no HTTP."""
        interim: list[int] = []
        while True:
            status, headers = self._head()
            if status >= 200:
                return Answer(status, headers, self._body(method, status, headers), tuple(interim))
            interim.append(status)

    @property
    def buffered(self) -> bool:
        return bool(self._buffer)

    def peek(self) -> bool:
        """Waits for another byte; False when the gateway closed."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except ConnectionResetError:
            return False

    def rest(self) -> bytes:
        """Everything until the gateway closes."""
        while self._more():
            pass
        rest, self._buffer = self._buffer, b""
        return rest

    def until(self, mark: bytes) -> bytes:
        """What came, up to and with the mark."""
        while mark not in self._buffer:
            if not self._more():
                raise Cut(self._buffer)
        return self._take(self._buffer.index(mark) + len(mark))

    # --- reading ---------------------------------------------------------------------------------

    def _head(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        start, *lines = self.until(b"\r\n\r\n").removesuffix(b"\r\n\r\n").split(b"\r\n")
        status = _STATUS_LINE.fullmatch(start)
        assert status, f"no status line: {start!r}"
        headers = []
        for line in lines:
            header = _HEADER.fullmatch(line)
            assert header, f"no header: {line!r}"
            headers.append((header[1].lower(), header[2]))
        return int(status[1]), headers

    def _body(self, method: str, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        framing = [h for h in headers if h[0] in (b"content-length", b"transfer-encoding")]
        if method == "HEAD" or status in (204, 304):
            return b""
        assert len(framing) == 1, f"framed by {framing}"
        [(name, value)] = framing
        if name == b"content-length":
            return self._exactly(int(value))
        assert value == b"chunked"
        return self._chunked()

    def _chunked(self) -> bytes:
        body = bytearray()
        while True:
            try:
                line = self.until(b"\r\n")[:-2]
                assert _SIZE.fullmatch(line), f"no chunk size after {body[-100:]!r}: {line!r}"
                size = int(line, 16)
                data = self._exactly(size + 2)
            except Cut as cut:
                raise Cut(bytes(body) + (cut.got if b"\r" not in cut.got else b"")) from None
            assert data.endswith(b"\r\n"), f"no end of a chunk: {data[-20:]!r}"
            if not size:
                return bytes(body)
            body += data[:-2]

    def _exactly(self, count: int) -> bytes:
        parts, size = [self._buffer], len(self._buffer)
        while size < count:
            data = self._receive()
            if not data:
                raise Cut(b"".join(parts))
            parts.append(data)
            size += len(data)
        self._buffer = b"".join(parts)
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _more(self) -> bool:
        data = self._receive()
        self._buffer += data
        return bool(data)

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(1 << 18)
        except ConnectionResetError:
            return b""


def request(
    body: bytes | dict[str, Any],
    *headers: str,
    path: str = "/v1/chat/completions",
    framed: bool = True,
) -> bytes:
    """The bytes of a POST; `framed=False` leaves its length to `headers`."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: gateway", "content-type: application/json", *headers]
    if framed:
        lines.append(f"content-length: {len(payload)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


def chunks(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """A body in chunked coding."""
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return coded + b"0\r\n" + trailers + b"\r\n"


def ask(gateway: GatewayProcess, *parts: bytes, method: str = "POST") -> Answer:
    """One exchange on a connection of its own."""
    with Caller(gateway) as caller:
        return caller.send(*parts).answer(method)
