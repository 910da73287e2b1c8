"""What a rule may ask about a request, whoever knows it.

A fact that must be waited for (an embedding, another program's tokenizer) is `Pending` until the
caller of `decide` has fetched it; so a decision stays pure, and nothing is fetched that no rule
on the way asks for.
"""

from typing import Literal, Protocol

from msgspec import Struct

from config.policy import Similar
from config.settings import Priority

HowCounted = Literal["tokenizer", "server", "estimate"]


class Pending(Struct, frozen=True):
    """A fact that is still to be fetched. `of` says of what: a model, or nothing."""

    kind: Literal["language", "similarity", "exact_tokens"]
    of: str = ""


class Count(Struct, frozen=True):
    """Tokens, and how they were counted."""

    tokens: int
    how: HowCounted


class Wordings(Protocol):
    """Keywords and regular expressions of a policy's rules, all looked for in one pass."""

    def found_in(self, text: str) -> frozenset[int]:
        """The numbers of those that are in a text."""


class Facts(Protocol):
    """One request. None stands for what the caller did not say, or what nobody can tell."""

    @property
    def model(self) -> str:
        """The name that the caller asked for."""

    @property
    def key(self) -> str | None:
        """sha256: and the hash of the caller's bearer token, in hexadecimal."""

    @property
    def priority(self) -> Priority:
        """As the caller asked, or normal."""

    @property
    def output_tokens(self) -> int | None:
        """The most that the caller allows."""

    @property
    def tools(self) -> bool: ...

    @property
    def json_schema(self) -> bool: ...

    @property
    def image(self) -> bool: ...

    @property
    def audio(self) -> bool: ...

    @property
    def text(self) -> str:
        """The last user text, its end if it is long; empty when there is none."""

    @property
    def epoch_s(self) -> float:
        """When it came, in seconds since the epoch."""

    def header(self, name: str) -> str | None:
        """The value of a header; `name` in lower case."""

    def found(self, wordings: Wordings) -> frozenset[int]:
        """The numbers of those that are in the last user text."""

    def input_tokens(self, model: str = "") -> Count:
        """Without waiting; as a model counts them, or as models do on the whole."""

    def exact_tokens(self, model: str) -> Count | Pending:
        """As the tokenizer of a model counts them; an estimate where there is none to ask."""

    def language(self) -> str | None | Pending:
        """ISO 639-1."""

    def similarity(self, to: Similar) -> float | None | Pending:
        """Cosine to the nearest of the examples, -1 to 1; None without an embedder."""

    def hot(self, model: str) -> bool:
        """Whether the model can answer now, without a start."""

    def budget_left(self, model: str | None) -> float | None:
        """Share of the day's budget that is left, of a model or of all; None without a budget."""
