"""What only two keys together can tell of policies: names, models, rules that nothing reaches."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from config.extras import Extra, installed
from config.planning_checks import Spot
from config.policy import Rule
from config.problems import Place, did_you_mean, shown
from config.reach import Reach
from config.rule_values import header_name, plain_mistake
from config.yaml_lines import Document

# What a rule may not set: what is asked, and what the gateway sets itself.
RESERVED = frozenset(
    {"model", "messages", "prompt", "input", "stream", "stream_options", "previous_response_id"}
)
# Conditions that need more than a base install.
_EXTRAS: dict[str, Extra] = {"language": "language", "similar_to": "embeddings"}
_RANGES = ("input_tokens", "output_tokens", "budget_left")
_LIMITS = ("above", "at_least", "below", "at_most")


def check(document: Document) -> None:
    """Add to the document's problems."""
    top = Spot(document, (), document.value)
    policies = _named(top.at("policies"))
    if not policies:
        return
    _names(top)
    for policy in policies:
        known = _Known(top)
        known.one(policy.at("mirror", "to"))
        rules = list(policy.at("first_match").entries())
        for rule in rules:
            if isinstance(rule.value, dict):
                _rule(rule, policy, known)
                _shadow(rule.at("use", "accept", "shadow"), top.at("store", "path"))
        _rule_names(rules)
        _order(rules)
        _reach(rules)


def _named(spot: Spot) -> list[Spot]:
    """The values of a map; none for what the schema will say is no map."""
    return list(spot.entries()) if isinstance(spot.value, dict) else []


# --- names ----------------------------------------------------------------------------------------


def _names(top: Spot) -> None:
    """A name or alias may stand for one model or one policy."""
    document = top.document
    first: dict[str, Place] = {}
    for model in _named(top.at("models")):
        first.setdefault(str(model.path[-1]), document.keys[model.path])
    for model in _named(top.at("models")):
        for alias in model.at("aliases").entries():
            if alias.text is not None:
                first.setdefault(alias.text, document.values[alias.path])
    policies = _named(top.at("policies"))
    named = [(str(policy.path[-1]), document.keys[policy.path]) for policy in policies]
    for policy in policies:
        for alias in policy.at("aliases").entries():
            if alias.text is not None:
                named.append((alias.text, document.values[alias.path]))
    for name, place in named:
        if name not in first:
            first[name] = place
            continue
        early, late = sorted((first[name], place))
        document.report(
            late,
            f"name {shown(name)} is used twice, on line {early.line} and on line {late.line};"
            " each name and alias may stand for one model or one policy only",
        )


def _rule_names(rules: list[Spot]) -> None:
    seen: dict[str, Place] = {}
    for rule in rules:
        name = rule.at("name")
        if name.text is None:
            continue
        if name.text in seen:
            line = seen[name.text].line
            name.report(f"the rule on line {line} is called {shown(name.text)} already")
        seen.setdefault(name.text, name.document.values[name.path])


class _Known:
    """The models of the file, and those that policies name where a model is wanted."""

    def __init__(self, top: Spot) -> None:
        self._models = {str(model.path[-1]): model for model in _named(top.at("models"))}
        self._aliases = {
            alias.text: name
            for name, model in self._models.items()
            for alias in model.at("aliases").entries()
            if alias.text is not None
        }
        self._policies = {str(policy.path[-1]) for policy in _named(top.at("policies"))}

    def one(self, spot: Spot) -> str | None:
        """The model that a value names; reports a name that is none."""
        name = spot.text
        if name is None or name in self._models or not self._models:
            return name
        if name in self._aliases:
            hint = f"; it is an alias: write {self._aliases[name]!r}"
        elif name in self._policies:
            hint = "; it is a policy: name the models themselves"
        else:
            hint = did_you_mean(name, self._models)
        spot.report(f"unknown model {shown(name)}{hint}")
        return None

    def some(self, spot: Spot) -> list[str]:
        """The models of a list, or the one that stands for a list."""
        spots = list(spot.entries()) if isinstance(spot.value, list) else [spot]
        return [name for each in spots if (name := self.one(each)) is not None]


# --- one rule -------------------------------------------------------------------------------------


def _rule(rule: Spot, policy: Spot, known: _Known) -> None:
    use, deny = rule.at("use"), rule.at("deny")
    if use.is_there and deny.is_there:
        deny.report("stands in place of use; take one of them out")
    if not use.is_there and not deny.is_there and not rule.has_broken:
        rule.report("says neither use, which model answers, nor deny")
    models = _use(use, known)
    for name, each in _twice(rule.at("overflow"), known):
        each.report(f"names {shown(name)} more than once; take it out")
    for each in rule.at("overflow").entries():
        if [each.text] == models:
            each.report("is the model that the rule uses; take it out")
    if deny.is_there:
        for key in ("max_wait", "priority", "overflow", "retries", "set"):
            if rule.at(key).is_there:
                rule.at(key).report("says nothing where the rule denies; take it out")
    _set(rule.at("set"))
    for when in _conditions(rule.at("when")):
        _condition(when, rule, policy, known)


def _use(use: Spot, known: _Known) -> list[str]:
    """The models that may answer."""
    if use.text is not None:
        return known.some(use)
    if isinstance(use.value, list):
        return _split(use, known)
    ways = [way for way in ("model", "split", "cascade") if use.at(way).is_there]
    if isinstance(use.value, dict) and len(ways) != 1 and not use.has_broken:
        wrong = f"{' and '.join(ways)} exclude each other" if ways else "names no model"
        use.report(f"{wrong}; give it just one of model, split and cascade")
    accept = use.at("accept")
    if accept.is_there and "cascade" not in ways:
        accept.report("counts only for a cascade; take it out")
    _accept(accept)
    pair = use.at("cascade")
    if isinstance(pair.value, list) and len(pair.value) == 2 and pair.value[0] == pair.value[1]:
        pair.report("its two models are the same; name a small and a large one")
    return [*known.some(use.at("model")), *_split(use.at("split"), known), *known.some(pair)]


def _split(split: Spot, known: _Known) -> list[str]:
    names: list[str] = []
    for item in split.entries():
        spot = item.at("model") if isinstance(item.value, dict) else item
        name = known.one(spot)
        if name is not None and name in names:
            spot.report(f"names {shown(name)} a second time; give it one weight")
        elif name is not None:
            names.append(name)
    return names


def _twice(names: Spot, known: _Known) -> Iterator[tuple[str, Spot]]:
    seen: set[str] = set()
    for each in names.entries():
        name = known.one(each)
        if name is not None and name in seen:
            yield name, each
        seen.add(name or "")


def _accept(accept: Spot) -> None:
    file, bound = accept.at("calibration"), accept.at("max_wrong")
    if bound.is_there and not file.is_there:
        bound.report(
            "needs a calibration: the stated defaults promise nothing; make one with"
            " lamplighter calibrate"
        )


def _shadow(shadow: Spot, store: Spot) -> None:
    """Labels that are kept nowhere would cost the large model's answers for nothing."""
    asked = isinstance(shadow.value, int | float) and shadow.value > 0
    if asked and not store.is_there:
        shadow.report("needs store.path, the file in which labels are kept")


def check_files(document: Document) -> None:
    """Report the files that policies name and that are not there."""
    top = Spot(document, (), document.value)
    for policy in _named(top.at("policies")):
        for rule in policy.at("first_match").entries():
            file = rule.at("use", "accept", "calibration")
            if file.text and "\0" not in file.text and not Path(file.text).is_file():
                file.report("there is no such file; lamplighter calibrate writes one")


def _set(fields: Spot) -> None:
    for field in _named(fields):
        name = str(field.path[-1])
        place = field.document.keys.get(field.path)
        if place is not None and name in RESERVED:
            why = "a rule sets only what a caller may leave out"
            field.document.report(place, f"set cannot hold {name!r}: {why}")
        if mistake := plain_mistake(field.value):
            field.report(mistake)
            field.document.broken.add(fields.path)  # the schema would say it again


# --- conditions -----------------------------------------------------------------------------------


def _conditions(when: Spot) -> Iterator[Spot]:
    """It and all conditions in it."""
    if not isinstance(when.value, dict):
        return
    yield when
    for key in ("any_of", "all_of"):
        for inner in when.at(key).entries():
            yield from _conditions(inner)
    yield from _conditions(when.at("not"))


def _condition(when: Spot, rule: Spot, policy: Spot, known: _Known) -> None:
    if not any(spot.is_there for spot in when.entries()) and not when.has_broken:
        when.report("is empty; give it a condition, or leave it out")
    for key in _RANGES:
        _limits(when.at(key))
    _asked_name(when.at("model"), policy)
    known.some(when.at("hot"))
    _budget(when.at("budget_left"), known)
    _headers(when.at("header"))
    exact = when.at("input_tokens", "exact")
    if exact.value is True and not rule.at("use").is_there:
        exact.report("needs use: the tokens are counted by the model that the rule uses")
    for key, extra in _EXTRAS.items():
        if when.at(key).is_there and not installed(extra):
            when.at(key).report(f"needs an extra: pip install 'lamplighter[{extra}]'")


def _limits(limits: Spot) -> None:
    if not isinstance(limits.value, dict) or limits.has_broken:
        return
    if not any(limits.at(key).is_there for key in _LIMITS):
        limits.report(f"has no limit; give it one of {', '.join(_LIMITS)}")


def _asked_name(names: Spot, policy: Spot) -> None:
    """Only who asks for the policy comes to its rules."""
    own = [str(policy.path[-1])]
    own += [alias.text for alias in policy.at("aliases").entries() if alias.text is not None]
    for spot in names.entries() if isinstance(names.value, list) else [names]:
        if spot.text is not None and spot.text not in own and not policy.at("aliases").has_broken:
            hint = did_you_mean(spot.text, own) or f"; its names are {', '.join(own)}"
            spot.report(f"{shown(spot.text)} is no name or alias of this policy{hint}")


def _budget(left: Spot, known: _Known) -> None:
    if not isinstance(left.value, dict) or left.has_broken:
        return
    for key in _LIMITS:
        share = left.at(key).number
        if share is not None and not 0 <= share <= 1:
            left.at(key).report("is a share of the budget, 0 to 1")
    top = Spot(left.document, (), left.document.value)
    model = left.at("model")
    if model.is_there and known.one(model) is None:
        return
    owner = top.at("models", model.text) if model.text is not None else top
    if not owner.at("budget", "usd_per_day").is_there:
        where = f"models.{model.text}.budget" if model.text is not None else "budget"
        left.report(f"there is no such budget; set {where}.usd_per_day")


def _headers(headers: Spot) -> None:
    seen: dict[str, Place] = {}
    for header in _named(headers):
        name = str(header.path[-1])
        place = headers.document.keys[header.path]
        if not header_name(name):
            headers.document.report(place, f"{shown(name)} is no name of a header")
        elif name.lower() in seen:
            line = seen[name.lower()].line
            message = f"header {shown(name)} is on line {line} already; case does not count"
            headers.document.report(place, message)
        seen.setdefault(name.lower(), place)


# --- rules together -------------------------------------------------------------------------------


def _order(rules: list[Spot]) -> None:
    for n, rule in enumerate(rules):
        when, is_last = rule.at("when"), n == len(rules) - 1
        if is_last and when.is_there and not rule.has_broken:
            when.report(
                "the last rule must match everything: take its when out, or add a rule without"
                " one that says what becomes of all other requests"
            )


def _reach(rules: list[Spot]) -> None:
    """Says nothing of what follows a rule with a mistake in it."""
    reach = Reach()
    for n, rule in enumerate(rules):
        try:
            read = Rule.model_validate(rule.value)
        except ValidationError:
            return
        if read.when is not None and not read.when.written():
            continue  # which is reported, and was not meant
        line = rule.document.values[rule.path].line
        why = reach.add(f"rule {n + 1}, on line {line},", read.when)
        if why is not None:
            rule.report(why)
