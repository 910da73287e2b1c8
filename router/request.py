"""One request as routing sees it: what was asked, by whom in which dialect, and until when."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from config.settings import Priority
from router.body import Body, JsonBody

Dialect = Literal["chat", "completions", "responses", "messages", "other"]
Headers = list[tuple[bytes, bytes]]

_METERED: frozenset[str] = frozenset({"chat", "completions"})


class Request(Struct):
    """`target` is the path below the model server's base URL, query included.

    `at_root` marks the few paths that model servers have beside `/v1`, such as `/tokenize`.
    `read_timeout_s` is how long the caller said it would wait for bytes, `max_wait_s` how long it
    may be held before a server answers it; None for what it did not say. `body` is None for calls
    that name a stored response instead of a model.
    """

    id: str
    method: str
    target: bytes
    dialect: Dialect
    headers: Headers
    fields: Mapping[bytes, bytes]  # the same by name; the last one where several came
    body: Body | None
    at_root: bool = False
    response_id: str | None = None
    read_timeout_s: float | None = None
    max_wait_s: float | None = None
    priority: Priority | None = None

    def forget_body(self) -> None:
        """Free its memory, once it will not be sent again; `stream` and `size` say nothing then."""
        self.body = None

    @property
    def stream(self) -> bool:
        return self.body is not None and self.body.stream

    @property
    def size(self) -> int:
        """Bytes that are kept in memory for it while it waits."""
        return len(self.body.raw) if self.body is not None else 0

    def body_for(self, model: str, ask_usage: bool) -> bytes:
        if self.body is None:
            return b""
        return self.body.rewritten(model, ask_usage=ask_usage and self.dialect in _METERED)

    def drops_usage(self, ask_usage: bool) -> bool:
        """Whether a usage chunk in the answer is one that only the gateway asked for."""
        body = self.body
        return (
            ask_usage
            and self.dialect in _METERED
            and isinstance(body, JsonBody)
            and not body.usage_asked
        )

    @property
    def follows_response(self) -> str | None:
        """The stored response that this one continues, which only its own server knows."""
        if self.response_id is not None:
            return self.response_id
        if self.dialect == "responses" and isinstance(self.body, JsonBody):
            return self.body.text("previous_response_id")
        return None
