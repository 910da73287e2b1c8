"""A model's answer as judges see it: text, how sure each token was, how it ended."""

from msgspec import Struct


class Token(Struct, frozen=True):
    """One token of an answer. `top` are the logprobs of the likeliest ones, descending."""

    text: str
    logprob: float
    top: tuple[float, ...] = ()


class Reply(Struct, frozen=True):
    """`tokens` is empty where the server gave no logprobs; `tool_calls` are (name, arguments)."""

    text: str
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
