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
        self._keywords: list[_Numbered] = []
        self._regexes: list[_Numbered] = []
        self._search: _Search | None = None

    def add_keywords(self, words: Sequence[str]) -> int:
        """Found when one of the words or phrases is."""
        return self._add(self._keywords, "|".join(map(_keyword, words)))

    def add_regex(self, pattern: str) -> int:
        return self._add(self._regexes, pattern)

    def _add(self, patterns: "list[_Numbered]", pattern: str) -> int:
        number = len(self._keywords) + len(self._regexes)
        patterns.append((number, _bytes(pattern)))
        return number

    def compiled(self) -> "Wordings":
        """Itself, with the work done that a first search would do."""
        if self._search is None:
            self._search = _Search(self._keywords, self._regexes)
        return self

    def found_in(self, text: str) -> frozenset[int]:
        search = self._search
        if search is None:
            search = self._search = _Search(self._keywords, self._regexes)
        if text.isascii():
            return search.ascii.found_in(text.encode())
        keywords = search.keywords.found_in(_bytes(folded(text)))
        return keywords | search.regexes.found_in(_bytes(text))


class _Search:
    """Keywords are looked for in the folded text. In one of ASCII that is a matter of the pattern,
    so that one search finds all."""

    def __init__(self, keywords: "list[_Numbered]", regexes: "list[_Numbered]") -> None:
        self.keywords = _Patterns(keywords)
        self.regexes = _Patterns(regexes)
        any_case = [(number, b"(?i:%b)" % pattern) for number, pattern in keywords]
        self.ascii = _Patterns([*any_case, *regexes])


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


_Numbered = tuple[int, bytes]
_NOTHING: frozenset[int] = frozenset()


class _Patterns:
    """Patterns with numbers, as one automaton where it fits into memory, else one by one."""

    def __init__(self, patterns: Sequence[_Numbered]) -> None:
        self._patterns = patterns
        self._numbers = [number for number, _ in patterns]
        options = _options()
        options.max_mem = _MOST_MEMORY
        self._all = re2.Set.SearchSet(options)
        for _, pattern in patterns:
            self._all.Add(pattern)
        # Found at the end of every text, unless the automaton ran out of memory.
        self._always = self._all.Add(rb"\z")
        self._only_that = [self._always]
        try:
            self._all.Compile()
        except re2.error:
            self._all = None

    def found_in(self, text: bytes) -> frozenset[int]:
        if not self._patterns:
            return _NOTHING
        found = self._all.Match(text) if self._all is not None else ()
        if found == self._only_that:
            return _NOTHING
        if self._always in found:
            return frozenset(self._numbers[n] for n in found if n != self._always)
        return frozenset(number for number, one in self._one_by_one if one.search(text))

    @cached_property
    def _one_by_one(self) -> list[tuple[int, Any]]:
        return [(number, re2.compile(pattern, _options())) for number, pattern in self._patterns]
