"""Conditions of many rules that one fact decides, asked once for all of those rules.

A gate reads its fact and says by one bit for each rule which of them it lets through. So a
decision costs as much as there are different facts, and not as much as there are rules. A gate is
asked by the first rule still in the running that wants it: no fact is read for the sake of rules
behind the one that matches.
"""

import bisect
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from functools import reduce
from typing import Any

from msgspec import Struct

from config.policy import Range
from policies.facts import Facts, Wordings

Bits = int  # one for each rule, the first rule lowest
Let = Callable[[Facts], Bits]


class OneOf(Struct, frozen=True):
    """The condition holds when a fact is one of `values`; None: when it is there at all."""

    fact: Hashable
    read: Callable[[Facts], Hashable]
    values: frozenset[Any] | None

    def passes(self, value: Hashable) -> bool:
        return value is not None if self.values is None else value in self.values


class Between(Struct, frozen=True):
    """The condition holds when a number is known and within limits."""

    fact: Hashable
    read: Callable[[Facts], float | None]
    limits: Range


class Found(Struct, frozen=True):
    """The condition holds when a wording is found in the text."""

    fact: Hashable
    wordings: Wordings
    number: int


Told = OneOf | Between | Found  # by one fact


Gate = tuple[Bits, Let]  # with one bit of its own among the gates of a policy


def gates(rules: Sequence[Sequence[Told]]) -> tuple[tuple[Gate, ...], ...]:
    """The gates that each rule wants, given the conditions of each."""
    users: dict[Hashable, list[tuple[Bits, Told]]] = {}
    for n, conditions in enumerate(rules):
        for told in conditions:
            users.setdefault(told.fact, []).append((1 << n, told))
    everything = (1 << len(rules)) - 1
    made = {fact: (1 << n, _let(each, everything)) for n, (fact, each) in enumerate(users.items())}
    wanted = [dict.fromkeys(told.fact for told in conditions) for conditions in rules]
    return tuple(tuple(made[fact] for fact in facts) for facts in wanted)


def _let(users: Sequence[tuple[Bits, Told]], everything: Bits) -> Let:
    first = users[0][1]
    if isinstance(first, OneOf):
        by_value = [(bit, told) for bit, told in users if isinstance(told, OneOf)]
        return _by_value(first.read, by_value, everything)
    if isinstance(first, Between):
        numbers = [(bit, told.limits) for bit, told in users if isinstance(told, Between)]
        return _by_number(first.read, numbers, everything)
    found = [(bit, told.number) for bit, told in users if isinstance(told, Found)]
    return _by_text(first.wordings, found, everything)


def _by_value(
    read: Callable[[Facts], Hashable], users: Sequence[tuple[Bits, OneOf]], everything: Bits
) -> Let:
    def let_through(value: Hashable) -> Bits:
        return everything & ~_union([bit for bit, told in users if not told.passes(value)])

    values = {None, *(value for _, told in users for value in told.values or ())}
    table = {value: let_through(value) for value in values}
    other = let_through(object())  # a value that no condition names
    return lambda facts: table.get(read(facts), other)


def _by_number(
    read: Callable[[Facts], float | None], users: Sequence[tuple[Bits, Range]], everything: Bits
) -> Let:
    """By the ends of all limits: between two of them, and at each, the same rules pass."""
    ends = sorted({end for _, limits in users for end in _ends(limits)})
    unknown = everything & ~_union([bit for bit, _ in users])
    spans = [unknown] * (2 * len(ends) + 1)
    for n, number in enumerate(_samples(ends)):
        spans[n] |= _union([bit for bit, limits in users if holds_within(limits)(number)])

    def let(facts: Facts) -> Bits:
        number = read(facts)
        if number is None:
            return unknown
        return spans[bisect.bisect_left(ends, number) + bisect.bisect_right(ends, number)]

    return let


def _samples(ends: Sequence[float]) -> list[float]:
    """A number below all ends, at the first, between it and the second, and so on."""
    samples = [ends[0] - 1 if ends else 0.0]
    for n, end in enumerate(ends):
        after = (end + ends[n + 1]) / 2 if n + 1 < len(ends) else end + 1
        samples += [end, after]
    return samples


def _ends(limits: Range) -> list[float]:
    ends = (limits.above, limits.at_least, limits.below, limits.at_most)
    return [end for end in ends if end is not None]


def holds_within(limits: Range) -> Callable[[float], bool]:
    above = -math.inf if limits.above is None else limits.above
    least = -math.inf if limits.at_least is None else limits.at_least
    below = math.inf if limits.below is None else limits.below
    most = math.inf if limits.at_most is None else limits.at_most
    return lambda number: above < number < below and least <= number <= most


def _by_text(wordings: Wordings, users: Sequence[tuple[Bits, int]], everything: Bits) -> Let:
    def let_through(found: frozenset[int]) -> Bits:
        return everything & ~_union([bit for bit, number in users if number not in found])

    nothing = let_through(frozenset())

    def let(facts: Facts) -> Bits:
        found = facts.found(wordings)
        return let_through(found) if found else nothing

    return let


def _union(bits: Sequence[Bits]) -> Bits:
    return reduce(operator.or_, bits, 0)
