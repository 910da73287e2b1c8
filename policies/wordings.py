"""Keywords and regular expressions of a policy, looked for in a text all at once.

RE2 takes time in proportion to the text whatever the pattern, so no caller's text can hold up
the others. All patterns of a policy become one automaton: fifty cost as much as one.
"""

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import re2

# Between words: what is neither letter nor digit, and the letters of scripts that are written
# without spaces, so that a keyword is found in the midst of them. As ranges, because the classes
# of Unicode make an automaton a hundred times as large.
_UNSPACED = (
    r"\x{0e00}-\x{0eff}\x{1000}-\x{109f}\x{1780}-\x{17ff}\x{3000}-\x{9fff}\x{a960}-\x{a97f}"
    r"\x{ac00}-\x{d7ff}\x{f900}-\x{faff}\x{ff00}-\x{ffef}\x{1f000}-\x{1faff}\x{20000}-\x{3ffff}"
)
_BETWEEN = (
    r"\x00-/:-@\[-^`{-\x{a9}\x{ab}-\x{b4}\x{b6}-\x{b9}\x{bb}-\x{bf}\x{d7}\x{f7}"
    r"\x{2000}-\x{206f}\x{20a0}-\x{20cf}\x{2190}-\x{2bff}\x{2e00}-\x{2e7f}" + _UNSPACED
)
_MOST_MEMORY = 64 * 2**20  # of an automaton; it takes what it needs


class Wordings:
    """What to look for; the numbers that adding gives are those that searching finds.

    Nothing is added after the first search.
    """

    def __init__(self) -> None:
        self._keywords: list[tuple[int, bytes]] = []
        self._regexes: list[tuple[int, bytes]] = []
        self._next = 0
        self._search: tuple[_Patterns | None, _Patterns | None] | None = None

    def add_keywords(self, words: Sequence[str]) -> int:
        """Found when one of the words or phrases is."""
        pattern = "|".join(_keyword(word) for word in words)
        self._keywords.append((self._next, _bytes(pattern)))
        return self._number()

    def add_regex(self, pattern: str) -> int:
        self._regexes.append((self._next, _bytes(pattern)))
        return self._number()

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def compiled(self) -> "Wordings":
        """Itself, with the work done that a first search would do."""
        if self._search is None:
            self._search = (
                _Patterns(self._keywords) if self._keywords else None,
                _Patterns(self._regexes) if self._regexes else None,
            )
        return self

    def found_in(self, text: str) -> frozenset[int]:
        if self._search is None:
            self.compiled()
        assert self._search is not None
        keywords, regexes = self._search
        found: set[int] = set()
        if keywords is not None:
            found.update(keywords.found_in(_bytes(folded(text))))
        if regexes is not None:
            found.update(regexes.found_in(_bytes(text)))
        return frozenset(found)


def has_keyword(word: str, text: str) -> bool:
    return re2.search(_bytes(_keyword(word)), _bytes(folded(text)), _options()) is not None


def folded(text: str) -> str:
    """Text in which case and ways to write an accent make no difference."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", text.casefold())


def _keyword(word: str) -> str:
    """A pattern for a word or phrase that stands by itself; any space between its words."""
    parts = folded(word).split()
    inner = r"\s+".join(str(re2.escape(part)) for part in parts)
    first, last = (parts[0][0], parts[-1][-1]) if parts else (" ", " ")
    before = "" if _stands_alone(first) else f"(?:^|[{_BETWEEN}])"
    after = "" if _stands_alone(last) else f"(?:$|[{_BETWEEN}])"
    return f"{before}{inner}{after}"


def _stands_alone(character: str) -> bool:
    """Whether a keyword may begin or end with it in the midst of letters."""
    return _ALONE.search(_bytes(character)) is not None


def _bytes(text: str) -> bytes:
    """JSON may hold halves of surrogate pairs, which UTF-8 cannot."""
    return text.encode("utf-8", "replace")


def _options() -> re2.Options:
    options = re2.Options()
    options.never_capture = True
    options.log_errors = False
    return options


_ALONE = re2.compile(f"[{_BETWEEN}]".encode(), _options())


class _Patterns:
    """Patterns with numbers, as one automaton where it fits into memory, else one by one."""

    def __init__(self, patterns: Sequence[tuple[int, bytes]]) -> None:
        self._patterns = patterns
        self._numbers = [number for number, _ in patterns]
        options = _options()
        options.max_mem = _MOST_MEMORY
        self._all = re2.Set.SearchSet(options)
        for pattern in [pattern for _, pattern in patterns]:
            self._all.Add(pattern)
        self._always = self._all.Add(b"")  # is not found when the automaton ran out of memory
        try:
            self._all.Compile()
        except re2.error:
            self._all = None

    def found_in(self, text: bytes) -> list[int]:
        if self._all is not None:
            found = self._all.Match(text)
            if self._always in found:
                return [self._numbers[n] for n in found if n != self._always]
        return [number for number, one in self._one_by_one if one.search(text) is not None]

    @cached_property
    def _one_by_one(self) -> list[tuple[int, Any]]:
        return [(number, re2.compile(pattern, _options())) for number, pattern in self._patterns]
