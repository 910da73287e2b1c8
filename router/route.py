"""What a policy says of one request: where it goes, and what holds there for it."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec
from msgspec import Struct

from backends.fleet import Snapshot
from config.policy import Mirror, Rule, Use
from config.schema import Config
from config.settings import Settings
from policies.rules import CompiledRule
from router.body import JsonBody
from router.facts import RequestFacts
from router.journey import Leg
from router.request import Request

# The two names that OpenAI has for one field: a rule sets neither where the caller gave the other.
_SAME: Mapping[str, str] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


class Prepared(Struct, frozen=True):
    """A rule's `set` as JSON, and what holds for each model that it uses."""

    defaults: Mapping[str, bytes]
    settings: Mapping[str, Settings]


class Route(Struct, frozen=True):
    """By the configuration of that moment. `request` has the fields that the rule sets.

    `model` answers, or begins a cascade if the rule's `use` is one.
    """

    snapshot: Snapshot
    policy: str
    rule: CompiledRule
    prepared: Prepared
    model: str
    request: Request
    facts: RequestFacts
    affinity: str | None = None
    mirror: Mirror | None = None

    @property
    def use(self) -> Use:
        assert self.rule.rule.use is not None
        return self.rule.rule.use

    def leg(self, model: str, *, held_back: bool = False) -> Leg:
        """The request's way to one of the models of the rule."""
        settings, rule = self.prepared.settings[model], self.rule.rule
        return Leg(model, settings, rule.priority, rule.overflow, self.affinity, held_back)


def prepared(config: Config, rule: Rule) -> Prepared:
    defaults = {name: msgspec.json.encode(value) for name, value in rule.set.items()}
    models = rule.use.models if rule.use is not None else ()
    over = rule.written("max_wait", "retries")
    return Prepared(defaults, {each: replace(config.settings(each), **over) for each in models})


def with_defaults(request: Request, defaults: Mapping[str, bytes]) -> Request:
    """The request with what the rule sets where the caller gave nothing."""
    body = request.body
    if not defaults or not isinstance(body, JsonBody):
        return request
    given = body.fields
    missing = {k: v for k, v in defaults.items() if k not in given and _SAME.get(k) not in given}
    return msgspec.structs.replace(request, body=body.adding(missing))
