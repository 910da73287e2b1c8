"""The last lines that a model server wrote, kept as bytes and made fit to show when asked for.

What is shown can be pasted into a terminal or an error message: no escape sequences, no control
characters, none of the secrets that the ring was told of.
"""

import re
from collections import deque

CUT_MARK = " ... [line cut]"
MASK = "***"
_PREFIX_SHOWN = 4  # a shorter piece of a secret at the end of a line is no secret

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC and other strings: titles, links
    r"|\x1b[ -/]*[0-~]?"
)
# C0, DEL and C1; then what reorders text or ends lines in some terminals and editors.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class LogRing:
    """A bounded log: at most `max_lines`, and at most about `max_bytes` together."""

    def __init__(
        self, max_lines: int = 1000, max_line_bytes: int = 4096, max_bytes: int = 1 << 20
    ) -> None:
        self._max_lines = max_lines
        self._max_line_bytes = max_line_bytes
        self._max_bytes = max_bytes
        self._lines: deque[tuple[bytes, bool]] = deque()  # with whether it was cut
        self._kept_bytes = 0
        self._secrets: list[str] = []
        self._begin()

    def hide(self, secret: str) -> None:
        """Never show this text, in lines of the past neither."""
        if secret and secret not in self._secrets:
            self._secrets.append(secret)

    def append(self, output: bytes) -> None:
        """Take output as it comes, torn anywhere."""
        *ended, rest = output.split(b"\n")
        if len(ended) > self._max_lines:  # a flood must not cost more than what is kept of it
            self._begin()
            del ended[: -self._max_lines]
        for piece in ended:
            self._extend(piece)
            self._end_line()
        self._extend(rest)

    def tail(self, n: int) -> list[str]:
        """The last `n` lines, the one that is still being written included."""
        if n <= 0:
            return []
        lines = list(self._lines)
        if self._line:
            lines.append((bytes(self._line), self._cut))
        return [self._shown(line, cut) for line, cut in lines[-n:]]

    def _begin(self) -> None:
        self._line = bytearray()
        self._cut = False
        self._rewound = False  # the cursor is back at the start: the next byte overwrites

    def _extend(self, piece: bytes) -> None:
        """Continue the line; of a progress bar drawn with carriage returns, keep the last state."""
        body = piece.rstrip(b"\r")
        if body:
            if self._rewound or b"\r" in body:
                self._begin()
                body = body[body.rfind(b"\r") + 1 :]
            room = self._max_line_bytes - len(self._line)
            self._line += body[:room]
            self._cut = self._cut or len(body) > room
        self._rewound = self._rewound or len(piece) > len(body)

    def _end_line(self) -> None:
        self._lines.append((bytes(self._line), self._cut))
        self._kept_bytes += len(self._line)
        while len(self._lines) > self._max_lines or self._kept_bytes > self._max_bytes:
            self._kept_bytes -= len(self._lines.popleft()[0])
        self._begin()

    def _shown(self, line: bytes, cut: bool) -> str:
        text = line.decode("utf-8", "replace")
        if not text.isprintable():
            text = _CONTROLS.sub("", _ESCAPES.sub("", text)).expandtabs(4)
        for secret in self._secrets:
            text = _masked(text, secret)
        return text + CUT_MARK if cut else text


def _masked(text: str, secret: str) -> str:
    """Text without the secret, nor the first part of it where the line was torn or cut."""
    text = text.replace(secret, MASK)
    for length in range(len(secret) - 1, _PREFIX_SHOWN, -1):
        if text.endswith(secret[:length]):
            return text[:-length] + MASK
    return text
