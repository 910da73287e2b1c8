"""Placeholders in a command: `{port}` is filled in, every other brace is kept as it is.

So a JSON argument such as `{"method": "ngram"}` needs no escaping, even with `}}` at its end.
`{{port}}` is the literal `{port}`.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches

PLACEHOLDERS = ("port", "model", "served_as", "host", "key", "python")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{([A-Za-z_]\w*)\}", re.ASCII)


def render(text: str, values: Mapping[str, str]) -> str:
    """Text with every placeholder filled in. KeyError for one that has no value."""
    return _PLACEHOLDER.sub(lambda m: f"{{{m[1]}}}" if m[1] else values[m[2]], text)


def placeholders(text: str) -> set[str]:
    """The names that `render` will ask for."""
    return {found[2] for found in _PLACEHOLDER.finditer(text) if found[2]}


def check_placeholders(text: str, *, quote: bool) -> None:
    """ValueError for an unknown placeholder; named only with `quote`, for it may be a secret."""
    for name in sorted(placeholders(text) - set(PLACEHOLDERS)):
        known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
        near = get_close_matches(name, PLACEHOLDERS, n=1)
        hint = f"did you mean {{{near[0]}}}?" if near else f"known are {known};"
        if not quote:
            raise ValueError(f"contains an unknown placeholder in braces; known are {known}")
        raise ValueError(
            f"unknown placeholder {{{name}}}; {hint} write {{{{{name}}}}} for the characters"
            " themselves"
        )
