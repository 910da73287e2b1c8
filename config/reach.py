"""Which rules nothing can reach: their conditions cannot hold, or earlier rules take all of it.

Sound and not complete: what is reported is so, but not all that is so is found. Token counts are
taken as the same for every model, though tokenizers differ a little.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from config.policy import Range, Similar, When

MOST_STEPS = 200_000  # of one policy; what is left unasked then is not reported
_ONE_OF = frozenset({"model", "key", "priority", "language"})  # the fact is one value
_ANY_OF = frozenset({"keyword", "time"})  # some value of several holds
_FLAGS = frozenset({"tools", "json_schema", "image", "audio"})
_RANGES = frozenset({"input_tokens", "output_tokens", "budget_left"})


class Every(NamedTuple):
    parts: tuple["Formula", ...]


class Some(NamedTuple):
    parts: tuple["Formula", ...]


class Not(NamedTuple):
    part: "Formula"


class Atom(NamedTuple):
    """One key, or one header: `of` says which header, or whose budget."""

    key: str
    of: str
    value: Any


Formula = Every | Some | Not | Atom


class Reach:
    """The rules of one policy, looked at in order."""

    def __init__(self) -> None:
        self._before: list[tuple[str, Formula]] = []
        self._steps = 0

    def add(self, name: str, when: When | None) -> str | None:
        """Why nothing reaches the next rule, which goes by a name; None when something may."""
        formula = _formula(when) if when is not None else Every(())
        self._before.append((name, formula))
        try:
            return self._why_not(formula)
        except _TooLong:
            return None

    def _why_not(self, formula: Formula) -> str | None:
        if self._never(formula):
            return "matches nothing: its conditions exclude each other"
        before = self._before[:-1]
        for name, earlier in before:
            if earlier == Every(()):
                return f"is never reached: {name} has no when, so it matches everything"
            if self._implies(formula, earlier):
                return f"is never reached: {name} matches all that it would"
        if self._covered(formula, [earlier for _, earlier in before], _FLAGS):
            return "is never reached: the rules before it match all that it would"
        return None

    def _covered(self, formula: Formula, earlier: Sequence[Formula], flags: frozenset[str]) -> bool:
        """Whether each request is one of the earlier rules', told by the flags it may have."""
        if self._never(formula) or any(self._implies(formula, each) for each in earlier):
            return True
        used = sorted({atom.key for each in earlier for atom in _atoms(each)} & flags)
        for key in used[:2]:
            ways = [Every((formula, Atom(key, "", flag))) for flag in (True, False)]
            if all(self._covered(way, earlier, flags - {key}) for way in ways):
                return True
        return False

    def _never(self, formula: Formula) -> bool:
        """Whether nothing can match it."""
        self._step()
        match formula:
            case Some(parts):
                return all(self._never(part) for part in parts)
            case Every():
                parts = tuple(_flat(formula))
                if any(self._never(part) for part in parts):
                    return True
                return any(self._exclude(a, b) for a, b in itertools.combinations(parts, 2))
            case Not(part):
                return self._always(part)
            case Atom():
                return _is_empty(formula)

    def _always(self, formula: Formula) -> bool:
        match formula:
            case Every(parts):
                return all(self._always(part) for part in parts)
            case Some(parts):
                return any(self._always(part) for part in parts)
            case Not(part):
                return self._never(part)
            case Atom():
                return False

    def _exclude(self, one: Formula, other: Formula) -> bool:
        self._step()
        if isinstance(one, Atom) and isinstance(other, Atom):
            return _exclude(one, other)
        if isinstance(other, Not):
            return self._implies(one, other.part)
        return isinstance(one, Not) and self._implies(other, one.part)

    def _implies(self, one: Formula, other: Formula) -> bool:
        """Whether all that matches one matches the other."""
        self._step()
        match one, other:
            case (_, Every(parts)):
                return all(self._implies(one, part) for part in parts)
            case (Some(parts), _):
                return all(self._implies(part, other) for part in parts)
            case (Not(inner), Not(outer)):
                return self._implies(outer, inner)
            case (Atom(), Atom()):
                return _implies(one, other)
            case (Atom(), Not(part)):
                return isinstance(part, Atom) and _exclude(one, part)
            case _:
                pass
        within = isinstance(other, Some) and any(self._implies(one, each) for each in other.parts)
        return within or (
            isinstance(one, Every) and any(self._implies(each, other) for each in one.parts)
        )

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise _TooLong


class _TooLong(Exception):
    """Telling more would take longer than it is worth."""


def _formula(when: When) -> Formula:
    parts: list[Formula] = []
    for key, value in when.written().items():
        if key == "header":
            parts += [Atom("header", name, frozenset(values)) for name, values in value.items()]
        elif key == "any_of":
            parts.append(Some(tuple(map(_formula, value))))
        elif key == "all_of":
            parts += map(_formula, value)
        elif key == "not_":
            parts.append(Not(_formula(value)))
        else:
            parts.append(_atom(key, value))
    return parts[0] if len(parts) == 1 else Every(tuple(parts))


def _atom(key: str, value: Any) -> Atom:
    of = ""
    if key == "budget_left":
        of = value.model or ""
    if key == "keyword":
        value = [" ".join(word.casefold().split()) for word in value]
    if key == "time":
        value = [str(hours) for hours in value]
    return Atom(key, of, frozenset(value) if isinstance(value, tuple | list) else value)


def _flat(formula: Formula) -> Iterator[Formula]:
    if isinstance(formula, Every):
        for part in formula.parts:
            yield from _flat(part)
    else:
        yield formula


def _atoms(formula: Formula) -> Iterator[Atom]:
    match formula:
        case Every(parts) | Some(parts):
            for part in parts:
                yield from _atoms(part)
        case Not(part):
            yield from _atoms(part)
        case Atom():
            yield formula


def _is_empty(atom: Atom) -> bool:
    if atom.key not in _RANGES:
        return False
    (low, low_open), (high, high_open) = _ends(atom.value)
    return low > high or (low == high and (low_open or high_open))


def _implies(one: Atom, other: Atom) -> bool:
    if one[:2] != other[:2]:
        return False
    mine, its = one.value, other.value
    if one.key == "header":
        return "*" in its or mine <= its
    if one.key in _ONE_OF | _ANY_OF:
        return bool(mine <= its)
    if one.key == "hot":
        return bool(mine >= its)
    if one.key in _RANGES:
        return _within(mine, its)
    if isinstance(mine, Similar):
        return set(mine.examples) <= set(its.examples) and mine.above >= its.above
    return bool(mine == its)


def _exclude(one: Atom, other: Atom) -> bool:
    """Whether no request matches both."""
    if one[:2] != other[:2]:
        return False
    if one.key in _ONE_OF:
        return not one.value & other.value
    if one.key == "header":
        return not one.value & other.value and "*" not in one.value | other.value
    if one.key in _RANGES:
        return _same_count(one.value, other.value) and _apart(one.value, other.value)
    return one.key in _FLAGS and one.value is not other.value


def _same_count(one: Range, other: Range) -> bool:
    return getattr(one, "exact", False) == getattr(other, "exact", False)


def _within(one: Range, other: Range) -> bool:
    (low, high), (its_low, its_high) = _ends(one), _ends(other)
    return _same_count(one, other) and low >= its_low and _upper(high) <= _upper(its_high)


def _apart(one: Range, other: Range) -> bool:
    return _gap(one, other) or _gap(other, one)


def _gap(lower: Range, upper: Range) -> bool:
    """Whether one ends before the other begins."""
    (_, (high, high_open)), ((low, low_open), _) = _ends(lower), _ends(upper)
    return high < low or (high == low and (high_open or low_open))


def _upper(end: tuple[float, bool]) -> tuple[float, bool]:
    """As a pair that is less when the range ends sooner."""
    return end[0], not end[1]


def _ends(limits: Range) -> tuple[tuple[float, bool], tuple[float, bool]]:
    """Lower and upper end, each with whether it is left out itself."""
    infinite = float("inf")
    low = max(
        (-infinite if limits.above is None else limits.above, True),
        (-infinite if limits.at_least is None else limits.at_least, False),
    )
    above = infinite if limits.below is None else limits.below
    most = infinite if limits.at_most is None else limits.at_most
    return low, (above, True) if above <= most else (most, False)
