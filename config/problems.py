"""What is wrong with a configuration, and where: all of it in one ConfigError."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where in a file, both counted from 1; columns in characters."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake, in the form editors and terminals turn into a link."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(Exception):
    """The file cannot be used. `problems` is never empty and sorted by place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: list[Problem] = sorted(set(problems))
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'idle'?`, or nothing when no known word is near."""
    # difflib is quadratic in the length, so a very long word is not worth the guess.
    near = get_close_matches(word, list(known), n=1) if len(word) <= 200 else []
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: object) -> str:
    """A value as a message may quote it: short ones in quotes, long ones not at all."""
    text = str(value)
    return repr(text) if len(text) <= 40 else "this text"


def dotted(path: Iterable[str | int]) -> str:
    """`models.large.hot.urls[1]` for a path of keys and list positions."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out
