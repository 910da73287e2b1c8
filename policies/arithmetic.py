"""Equations between numbers in a text, and whether they hold.

"9 * 2 = $18", "<<40+20=60>>", "3 apples + 4 apples = 8 apples", "20% of" and chains of them are
read; what has an unknown in it, or is not understood, is passed over. A result that was rounded
as it is written holds. Work is linear in the text and nothing here raises.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_SIDE = 40  # tokens of one side of an equation that are looked at
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9}


class Sums(Struct, frozen=True):
    """`stated` equations between numbers, `false` ones among them; how each chain of them ends."""

    stated: int
    false: int
    results: tuple[float, ...]


def sums(text: str) -> Sums:
    stated = false = 0
    results: list[float] = []
    lines = (line for line in text.split("\n") if _EQUALS.search(line))
    for sides in itertools.chain.from_iterable(_chains(_tokens(_plain(line))) for line in lines):
        values = [
            _sum_before(sides[0]),
            *(_whole(side) for side in sides[1:-1]),
            _last(sides[-1]),
        ]
        for left, right in zip(values, values[1:], strict=False):
            if left is not None and right is not None and left.operators + right.operators:
                stated += 1
                false += not _agree(left, right)
        if values[-1] is not None:
            results.append(values[-1].readings[1])
    return Sums(stated, false, tuple(results))


def numbers(text: str) -> tuple[float, ...]:
    """All that are written in digits, without sign."""
    return tuple(float(found.replace(",", "")) for found in _NUMBER.findall(text))


# --- reading ------------------------------------------------------------------------------------

_NUMBER = re.compile(NUMBER)
_EQUALS = re.compile(r"=|≈|\\approx\b")  # what lines without one say costs nothing
_SPELLINGS = (
    (re.compile(r"\\[dt]?frac\{([^{}]{1,50})\}\{([^{}]{1,50})\}"), r"((\1)/(\2))"),
    (re.compile(r"\\(?:times|cdot)\b|\\\*|[×·∙]|(?<=[\d)\s%])[xX](?=[\s\d($])"), "*"),
    (re.compile(r"\\div\b|÷"), "/"),
    (re.compile(r"(?<=[\d%]) of (?=[$€£]?\d)"), "*"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"≈|\\approx\b"), "="),
    (re.compile(r"/ ?[^\W\d_]{2,}"), ""),  # a rate: 3 m/s, $2 per cup written as $2/cup
    (re.compile(r"\\text\{([^{}]{1,50})\}"), r"\1"),
    (re.compile(r"\\?[$€£]|\\ |\\(?=%)|\\(?:left|right)(?=[()])|^[ \t]*[-*+•][ \t]"), ""),
)
_TOKEN = re.compile(rf"(?P<number>{NUMBER})|(?P<word>[^\W\d_]+)|(?P<sign>[-+*/()%=])|(?P<other>\S)")


class _Token(NamedTuple):
    """`kind` is n (number), w (word), a sign, or | for what ends an equation."""

    kind: str
    value: float = 0.0
    decimals: int = 0


_END = _Token("|")


def _plain(text: str) -> str:
    for spelled, sign in _SPELLINGS:
        text = spelled.sub(sign, text)
    return text


def _tokens(text: str) -> list[_Token]:
    """Units are left out: words between a number and the sign after it."""
    tokens: list[_Token] = []
    words = 0  # at the end of `tokens`, after a number
    for found in _TOKEN.finditer(text):
        token = _token(found, glued=text[found.start() - 1 : found.start()])
        if token.kind == "w" and token.value and tokens and tokens[-1].kind == "n":
            tokens[-1] = _Token("n", tokens[-1].value * token.value)
            continue
        if token.kind in "+-*/=)" and words:
            del tokens[-words:]
        unit = token.kind == "w" and (words or (tokens and tokens[-1].kind in "n)%"))
        words = words + 1 if unit else 0
        tokens.append(token)
    return tokens


def _token(found: re.Match[str], glued: str) -> _Token:
    """`glued` is the character before it: f(2), x1 and 7x are unknowns."""
    text, kind = found.group(), found.lastgroup
    letter = glued.isalpha() or glued == "_"
    if kind == "number" and not letter:
        return _Token("n", float(text.replace(",", "")), len(text.partition(".")[2]))
    if kind == "word" and len(text) > 1 and glued != "_":
        return _Token("w", _SCALES.get(text.lower(), 0.0))
    if kind == "sign" and not (text == "(" and letter):
        return _Token(text)
    return _END


def _chains(tokens: Sequence[_Token]) -> Iterator[list[list[_Token]]]:
    """What stands between `=` signs, two sides or more."""
    sides: list[list[_Token]] = [[]]
    for token in (*tokens, _END):
        if token.kind == "=":
            sides.append([])
        elif token.kind in "n+-*/()%":
            sides[-1].append(token)
        else:
            if len(sides) > 1:
                yield sides
            sides = [[]]


# --- values -------------------------------------------------------------------------------------


class _Value(NamedTuple):
    """`readings`: with 20 % as 0.2 and as 20. `decimals`: the most that one number shows."""

    readings: tuple[float, float]
    operators: int
    decimals: int


def _sum_before(side: list[_Token]) -> _Value | None:
    """The longest end of it that is a sum: text may stand before.

    A lone number is none: in "price of 8 cups = 8 * $2" and "8 feet = 96 inches" it is a label.
    """
    side = side[-_SIDE:]
    for start, token in enumerate(side):
        continued = start > 0 and side[start - 1].kind in "+-*/"
        if token.kind in "n(" and not continued and (value := _whole(side[start:])):
            return value if value.operators else None
    return None


def _last(side: list[_Token]) -> _Value | None:
    """The longest beginning of it that has a value: text may stand behind."""
    side = side[:_SIDE]
    for end in range(len(side), 0, -1):
        continued = end < len(side) and side[end].kind in "+-*/"
        if not continued and (value := _whole(side[:end])):
            return value
    return None


def _whole(side: Sequence[_Token]) -> _Value | None:
    if not side or len(side) > _SIDE:
        return None
    try:
        number = _Reader(side, 1.0).value()
        percents = any(token.kind == "%" for token in side)
        readings = (_Reader(side, 0.01).value() if percents else number, number)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    operators = sum(token.kind in "+-*/" for token in side)
    return _Value(readings, operators, max(token.decimals for token in side))


def _agree(left: _Value, right: _Value) -> bool:
    """As exactly as the numbers are written."""
    within = 0.51 * 10.0 ** -max(left.decimals, right.decimals)
    return any(
        abs(a - b) <= max(within, 1e-9 * abs(a)) for a in left.readings for b in right.readings
    )


class _Reader:
    """One side by the usual precedence. ValueError: it is no expression, or not finite."""

    def __init__(self, side: Sequence[_Token], percent: float) -> None:
        self._side = side
        self._percent = percent
        self._at = 0

    def value(self) -> float:
        value = self._sum()
        if self._at < len(self._side) or not math.isfinite(value):
            raise ValueError
        return value

    def _next(self, kinds: str) -> _Token | None:
        if self._at < len(self._side) and self._side[self._at].kind in kinds:
            self._at += 1
            return self._side[self._at - 1]
        return None

    def _sum(self) -> float:
        value = self._product()
        while sign := self._next("+-"):
            value += self._product() if sign.kind == "+" else -self._product()
        return value

    def _product(self) -> float:
        value = self._factor()
        while sign := self._next("*/"):
            value = value * self._factor() if sign.kind == "*" else value / self._factor()
        return value

    def _factor(self) -> float:
        if self._next("-"):
            return -self._factor()
        value = self._atom()
        while self._next("%"):
            value *= self._percent
        return value

    def _atom(self) -> float:
        if number := self._next("n"):
            return number.value
        if not self._next("("):
            raise ValueError
        value = self._sum()
        if not self._next(")"):
            raise ValueError
        return value
