"""Whether two answers say the same, as far as their text tells."""

import re

from policies.reply import Reply
from policies.signals import final_text

_WORD = re.compile(r"[^\W_]+|[-+]?\d[\d.,]*", re.UNICODE)
_COMPARED = 20_000  # characters


def same(one: Reply, other: Reply) -> bool:
    """By their final answers where they mark one, else by all words; case does not count."""
    if one.tool_calls or other.tool_calls:
        return one.tool_calls == other.tool_calls
    return _words(one) == _words(other)


def _words(reply: Reply) -> list[str]:
    text = final_text(reply.text)[:_COMPARED]
    return [word.strip(".,").casefold() for word in _WORD.findall(text)]


def agreement(reply: Reply, samples: list[Reply]) -> float | None:
    """The share of further samples that say the same; None without any."""
    if not samples:
        return None
    return sum(same(reply, sample) for sample in samples) / len(samples)
