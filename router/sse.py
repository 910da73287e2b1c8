"""Server-sent events as bytes: where they end, and which ones routing looks at.

Events are forwarded unparsed. The torn end of an event is held back until it is whole: a client
can do nothing with half an event, and so a stream may be ended by an error frame, or kept awake
by a comment, at any moment.
"""

import re

TORN_LIMIT = 64 * 1024  # an event longer than this is passed on in pieces

_CONTENT = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|arguments|delta|partial_json)":\s?"[^"]'
)


class EventSplitter:
    """Turns chunks of any size into runs of whole events."""

    __slots__ = ("_tail", "_torn_limit", "between_events", "torn")

    def __init__(self, torn_limit: int = TORN_LIMIT) -> None:
        self._tail = b""
        self._torn_limit = torn_limit
        self.torn = False  # whether what was passed on ends inside an event
        self.between_events = True  # nothing is kept back either: whole events may just be passed

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that may be passed on now, perhaps none."""
        passed = self._whole(chunk)
        self.between_events = not self.torn and not self._tail
        return passed

    def _whole(self, chunk: bytes) -> bytes:
        if self._tail:
            chunk = self._tail + chunk
            self._tail = b""
        end = last_boundary(chunk)
        if end == len(chunk):
            self.torn = False
            return chunk
        if len(chunk) - end > self._torn_limit or (self.torn and not end):
            self.torn = True
            return chunk
        if end:
            self.torn = False
        self._tail = chunk[end:]
        return chunk[:end]

    def rest(self) -> bytes:
        """What came after the last whole event, at the end of the stream."""
        rest, self._tail = self._tail, b""
        return rest


def last_boundary(data: bytes) -> int:
    """The length of the whole events in `data`; 0 when it holds none."""
    if data.endswith(b"\n\n"):
        return len(data)
    lf = data.rfind(b"\n\n") + 2
    crlf = data.rfind(b"\r\n\r\n") + 4
    return max(lf if lf > 1 else 0, crlf if crlf > 3 else 0)


def split_events(data: bytes) -> list[bytes]:
    """Whole events, each with its blank line, so that joining them gives `data` again."""
    events: list[bytes] = []
    start = 0
    for found in _BLANK_LINE.finditer(data):
        events.append(data[start : found.end()])
        start = found.end()
    if start < len(data):
        events.append(data[start:])
    return events


_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


def event_data(event: bytes) -> bytes:
    """The payload of an event: its data lines joined, as the SSE specification says."""
    lines = event.replace(b"\r\n", b"\n").split(b"\n")
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def has_content(events: bytes) -> bool:
    """Whether the first token is in these events, in any of the four dialects."""
    return _CONTENT.search(events) is not None
