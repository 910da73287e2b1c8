"""What the keys of a rule's `when` mean, each as a question to the facts of a request.

A condition holds, does not hold, or waits for a fact (`Pending`).
"""

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from config.fields import is_secret_header
from config.policy import BudgetLeft, Hours, InputTokens, Range, Similar, When
from policies.answers import Answer, Holds, all_hold, one_holds
from policies.facts import Facts, Pending
from policies.gates import Between, Found, OneOf, Told, holds_within
from policies.wordings import Wordings, has_keyword

Why = Callable[[Facts], str]

_LONGEST_QUOTE = 60


class Condition(Struct, frozen=True):
    """One key of a `when`. `rank` ascends with what it costs to tell; from `WAITS` on by waiting.

    `why` tells the fact as it is, held against what is wanted; it is only for people. `told` is
    the one fact that decides it, if it is one that many rules may ask at once.
    """

    key: str
    rank: int
    holds: Holds
    why: Why
    told: Told | None = None


class Scene(Struct, frozen=True):
    """What conditions are compiled for: a rule's model, and the wordings of its policy."""

    model: str
    wordings: Wordings


AT_ONCE, READ, SEARCHED, RECKONED, WAITS = range(5)


def compile_when(when: When | None, scene: Scene) -> tuple[Condition, ...]:
    """Conditions that must all hold, the cheap ones first; none when there is no `when`."""
    written = when.written() if when is not None else {}
    headers = written.pop("header", {})
    found = [_header(name, values) for name, values in headers.items()]
    found += [_MEANINGS[key](value, scene) for key, value in written.items()]
    return tuple(sorted(found, key=lambda condition: condition.rank))


def every(conditions: Sequence[Condition]) -> Holds:
    """Whether all hold."""
    return all_hold([condition.holds for condition in conditions])


# --- the request ----------------------------------------------------------------------------------


def _name(key: str, spelled: Callable[[Any], str]) -> "Meaning":
    def compiled(names: Sequence[str], scene: Scene) -> Condition:
        told = OneOf(key, operator.attrgetter(key), frozenset(names))

        def why(facts: Facts) -> str:
            name = told.read(facts)
            return f"{key} is {spelled(name)}" + _unless(told.passes(name), names)

        return Condition(key, AT_ONCE, _one_of(told), why, told)

    return compiled


def _one_of(told: OneOf) -> Holds:
    return lambda facts: told.passes(told.read(facts))


def _header(name: str, values: Sequence[str]) -> Condition:
    told = OneOf(
        f"header {name}",
        lambda facts: facts.header(name),
        None if "*" in values else frozenset(values),
    )

    def why(facts: Facts) -> str:
        value = facts.header(name)
        if value is None:
            return f"there is no header {name}"
        if is_secret_header(name):
            return f"header {name} is there" + ("" if told.passes(value) else ", and is another")
        return f"header {name} is {_quoted(value)}" + _unless(told.passes(value), values)

    return Condition("header", AT_ONCE, _one_of(told), why, told)


def _key(keys: Sequence[str], scene: Scene) -> Condition:
    wanted = frozenset(keys)

    def why(facts: Facts) -> str:
        if facts.key is None:
            return "the caller sent no key"
        other = "" if facts.key in wanted else ", which is none of those"
        return f"key is {facts.key[:15]}...{other}"

    told = OneOf("key", operator.attrgetter("key"), wanted)
    return Condition("key", READ, _one_of(told), why, told)


def _flag(key: str, has: str, has_not: str) -> "Meaning":
    def compiled(wanted: bool, scene: Scene) -> Condition:
        told = OneOf(key, operator.attrgetter(key), frozenset({wanted}))

        def why(facts: Facts) -> str:
            return has if told.read(facts) is True else has_not

        return Condition(key, READ, _one_of(told), why, told)

    return compiled


# --- numbers --------------------------------------------------------------------------------------


def _input_tokens(limits: InputTokens, scene: Scene) -> Condition:
    within, model = holds_within(limits), scene.model

    def holds_exactly(facts: Facts) -> Answer:
        counted = facts.exact_tokens(model)
        return counted if isinstance(counted, Pending) else within(counted.tokens)

    def why(facts: Facts) -> str:
        counted = facts.exact_tokens(model) if limits.exact else facts.input_tokens(model)
        if isinstance(counted, Pending):
            return "input_tokens is not counted yet"
        return _number(f"input_tokens is {counted.tokens} ({counted.how})", counted.tokens, limits)

    if limits.exact:
        return Condition("input_tokens", WAITS, holds_exactly, why)
    told = Between(f"input_tokens {model}", lambda facts: facts.input_tokens(model).tokens, limits)
    return Condition("input_tokens", READ, _between(told), why, told)


def _output_tokens(limits: Range, scene: Scene) -> Condition:
    def why(facts: Facts) -> str:
        most = facts.output_tokens
        if most is None:
            return "the caller sets no limit on output_tokens"
        return _number(f"output_tokens is {most}", most, limits)

    told = Between("output_tokens", operator.attrgetter("output_tokens"), limits)
    return Condition("output_tokens", READ, _between(told), why, told)


def _budget_left(limits: BudgetLeft, scene: Scene) -> Condition:
    model = limits.model
    whose = f"of {model}'s budget" if model else "of the budget"

    def why(facts: Facts) -> str:
        left = facts.budget_left(model)
        if left is None:
            return f"nothing is known {whose}"
        return _number(f"{left:.3g} {whose} is left", left, limits)

    told = Between(("budget_left", model), lambda facts: facts.budget_left(model), limits)
    return Condition("budget_left", AT_ONCE, _between(told), why, told)


def _between(told: Between) -> Holds:
    within = holds_within(told.limits)

    def holds(facts: Facts) -> bool:
        number = told.read(facts)
        return number is not None and within(number)

    return holds


def _number(fact: str, number: float, limits: Range) -> str:
    """The fact with the limits that it keeps, or with the first that it does not."""
    kept: list[str] = []
    for words, limit, keeps in (
        ("above", limits.above, operator.gt),
        ("at least", limits.at_least, operator.ge),
        ("below", limits.below, operator.lt),
        ("at most", limits.at_most, operator.le),
    ):
        if limit is not None and not keeps(number, limit):
            return f"{fact}, not {words} {limit:.12g}"
        if limit is not None:
            kept.append(f"{words} {limit:.12g}")
    return f"{fact}, {' and '.join(kept)}" if kept else fact


# --- the text -------------------------------------------------------------------------------------


def _language(codes: Sequence[str], scene: Scene) -> Condition:
    wanted = frozenset(codes)

    def holds(facts: Facts) -> Answer:
        language = facts.language()
        return language if isinstance(language, Pending) else language in wanted

    def why(facts: Facts) -> str:
        language = facts.language()
        if isinstance(language, Pending):
            return "language is not known yet"
        if language is None:
            return "nobody can tell the language"
        return f"language is {language}" + _unless(language in wanted, codes)

    return Condition("language", WAITS, holds, why)


def _keyword(words: Sequence[str], scene: Scene) -> Condition:
    wordings, number = scene.wordings, scene.wordings.add_keywords(words)

    def holds(facts: Facts) -> bool:
        return number in facts.found(wordings)

    def why(facts: Facts) -> str:
        if not holds(facts):
            return "the text has none of the keywords"
        found = next((word for word in words if has_keyword(word, facts.text)), words[0])
        return f"the text has the keyword {_quoted(found)}"

    return Condition("keyword", SEARCHED, holds, why, Found("text", wordings, number))


def _regex(pattern: str, scene: Scene) -> Condition:
    wordings, number = scene.wordings, scene.wordings.add_regex(pattern)

    def holds(facts: Facts) -> bool:
        return number in facts.found(wordings)

    def why(facts: Facts) -> str:  # without what it found: explanations keep no word of a text
        return f"the regular expression is {'' if holds(facts) else 'not '}found in the text"

    return Condition("regex", SEARCHED, holds, why, Found("text", wordings, number))


def _similar_to(wanted: Similar, scene: Scene) -> Condition:
    above = wanted.above

    def holds(facts: Facts) -> Answer:
        similarity = facts.similarity(wanted)
        if isinstance(similarity, Pending):
            return similarity
        return similarity is not None and similarity > above

    def why(facts: Facts) -> str:
        similarity = facts.similarity(wanted)
        if isinstance(similarity, Pending):
            return "similarity is not known yet"
        if similarity is None:
            return "there is no text to compare, or nothing that could"
        than = "" if similarity > above else "not "
        return f"similarity to the examples is {similarity:.3f}, {than}above {above:g}"

    return Condition("similar_to", WAITS, holds, why)


# --- the world ------------------------------------------------------------------------------------


def _time(hours: Sequence[Hours], scene: Scene) -> Condition:
    @lru_cache(maxsize=16)
    def covered(second: int) -> bool:
        return any(each.covers(second) for each in hours)

    def holds(facts: Facts) -> bool:
        return covered(int(facts.epoch_s))

    def why(facts: Facts) -> str:
        spelled = " or ".join(f"{each.at} {each.tz}" for each in hours)
        return f"it is {'' if holds(facts) else 'not '}in the hours from {spelled}"

    return Condition("time", RECKONED, holds, why)


def _hot(models: Sequence[str], scene: Scene) -> Condition:
    def holds(facts: Facts) -> bool:
        for model in models:  # noqa: SIM110 - all() takes twice as long
            if not facts.hot(model):
                return False
        return True

    def why(facts: Facts) -> str:
        cold = [model for model in models if not facts.hot(model)]
        return f"{_listed(cold or models)} {'is not' if cold else 'is'} hot"

    told = OneOf(("hot", *sorted(models)), holds, frozenset({True}))
    return Condition("hot", AT_ONCE, holds, why, told)


# --- several together -----------------------------------------------------------------------------


def _any_of(whens: Sequence[When], scene: Scene) -> Condition:
    each = [compile_when(when, scene) for when in whens]
    each.sort(key=_rank)
    holds = one_holds([every(conditions) for conditions in each])

    def why(facts: Facts) -> str:
        ways = [_why_every(conditions)(facts) for conditions in each]
        if holds(facts) is True:
            return next(
                way for way, one in zip(ways, each, strict=True) if every(one)(facts) is True
            )
        return "; and ".join(ways)

    return Condition("any_of", max(map(_rank, each), default=AT_ONCE), holds, why)


def _all_of(whens: Sequence[When], scene: Scene) -> Condition:
    conditions = [condition for when in whens for condition in compile_when(when, scene)]
    conditions.sort(key=lambda condition: condition.rank)
    return Condition("all_of", _rank(conditions), every(conditions), _why_every(conditions))


def _not(when: When, scene: Scene) -> Condition:
    conditions = compile_when(when, scene)
    inner = every(conditions)

    def holds(facts: Facts) -> Answer:
        answer = inner(facts)
        return answer if isinstance(answer, Pending) else not answer

    return Condition("not", _rank(conditions), holds, _why_every(conditions))


def _rank(conditions: Sequence[Condition]) -> int:
    return max((condition.rank for condition in conditions), default=AT_ONCE)


def _why_every(conditions: Sequence[Condition]) -> Why:
    """All the facts that made them hold, or the first that made one of them fail."""

    def why(facts: Facts) -> str:
        for condition in conditions:
            if condition.holds(facts) is False:
                return condition.why(facts)
        return " and ".join(each.why(facts) for each in conditions) or "it has no condition"

    return why


# --- words ----------------------------------------------------------------------------------------


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "...")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _unless(holds: bool, wanted: Sequence[str]) -> str:
    if holds:
        return ""
    some = ", ".join(map(_quoted, wanted[:3])) + (", ..." if len(wanted) > 3 else "")
    return f", not {some}" if len(wanted) == 1 else f", none of {some}"


Meaning = Callable[[Any, Scene], Condition]
_MEANINGS: dict[str, Meaning] = {
    "model": _name("model", _quoted),
    "key": _key,
    "priority": _name("priority", str),
    "input_tokens": _input_tokens,
    "output_tokens": _output_tokens,
    "tools": _flag("tools", "it offers tools", "it offers no tools"),
    "json_schema": _flag("json_schema", "the answer must be JSON", "the answer may be any text"),
    "image": _flag("image", "the prompt has a picture", "the prompt has no picture"),
    "audio": _flag("audio", "the prompt has audio", "the prompt has no audio"),
    "language": _language,
    "keyword": _keyword,
    "regex": _regex,
    "similar_to": _similar_to,
    "time": _time,
    "hot": _hot,
    "budget_left": _budget_left,
    "any_of": _any_of,
    "all_of": _all_of,
    "not_": _not,
}
