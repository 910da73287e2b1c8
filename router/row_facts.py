"""What rules may ask of a request of which only its row in the store is left.

A row has no text, no headers and no key: a rule that asks for those cannot be told.
"""

from typing import NoReturn, get_args

from msgspec import Struct

from config.policy import Similar
from config.settings import Priority
from policies.facts import Count, Pending, Wordings
from router.facts import RequestFacts
from router.planner import BYTES_PER_TOKEN
from router.request import Request

_PRIORITIES: tuple[Priority, ...] = get_args(Priority)


class NotTold(Exception):
    """A rule asks for what the row does not hold; the message names it."""


class KeptRow(Struct, frozen=True):
    """What a row holds that can decide something. `asked` is the name that the caller gave."""

    time: float
    asked: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    priority: str = "normal"
    deadline_s: float | None = None
    bytes_in: int = 0


class RowBody(Struct):
    """Satisfies `router.body.Body`, with nothing in it but the name."""

    model: str
    raw: bytes = b""
    stream: bool = False

    def rewritten(self, model: str, *, ask_usage: bool) -> bytes:
        return self.raw


def request_of(row: KeptRow, id: str) -> Request:
    """`id` decides what is drawn by chance."""
    priority = next((each for each in _PRIORITIES if each == row.priority), None)
    return Request(
        id,
        "POST",
        b"/chat/completions",
        "chat",
        [],
        {},
        RowBody(row.asked, bytes(row.bytes_in)),
        max_wait_s=row.deadline_s,
        priority=priority,
    )


class RowFacts(RequestFacts):
    """Over the world of `plain`, which are the facts of `request_of` the row."""

    def __init__(self, plain: RequestFacts, row: KeptRow) -> None:
        super().__init__(plain._request, plain._world, plain.epoch_s)
        self._row = row

    def input_tokens(self, model: str = "") -> Count:
        row = self._row
        if row.input_tokens is not None:
            return Count(row.input_tokens, "server")
        if not row.bytes_in:
            _not_told("input_tokens")
        return Count(round(row.bytes_in / BYTES_PER_TOKEN), "estimate")

    def exact_tokens(self, model: str) -> Count | Pending:
        return self.input_tokens(model)

    def affinity_key(self, affinity: str | None) -> str | None:
        return None

    @property
    def key(self) -> str | None:
        _not_told("key")

    @property
    def output_tokens(self) -> int | None:
        _not_told("output_tokens")

    @property
    def tools(self) -> bool:
        _not_told("tools")

    @property
    def json_schema(self) -> bool:
        _not_told("json_schema")

    @property
    def image(self) -> bool:
        _not_told("image")

    @property
    def audio(self) -> bool:
        _not_told("audio")

    @property
    def text(self) -> str:
        return ""  # what a rule asks of it is asked below

    def header(self, name: str) -> str | None:
        _not_told(f"header {name}")

    def found(self, wordings: Wordings) -> frozenset[int]:
        _not_told("text")

    def language(self) -> str | None | Pending:
        _not_told("language")

    def similarity(self, to: Similar) -> float | None | Pending:
        _not_told("text")


def _not_told(what: str) -> NoReturn:
    raise NotTold(f"a rule asks for its {what}, which no row holds")
