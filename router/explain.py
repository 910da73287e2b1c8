"""What would become of a request now, and why: asked of the code that decides, step by step.

Nothing is started, leased or counted by it. The world is that of a router: of the one that serves,
or of one over models in stated states (`router/stated.py`).
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from config.masked import MASK, secrets_in
from config.schema import Config
from policies.facts import Pending
from policies.rules import CompiledPolicy, Tried, trail
from router.body import JsonBody
from router.cascade_outlook import cascade_outlook
from router.errors import BadRequest, Denied
from router.explanation import Asked, Cascade, Decision, Explanation, Line, RuleTried
from router.facts import RequestFacts
from router.journey import Leg
from router.outlook import outlook, refused
from router.request import Request
from router.route import Route
from router.routing import Router

_KEY_HASH = re.compile(r"(sha256:[0-9a-fA-F]{8})[0-9a-fA-F]{56}")


async def explain(
    router: Router,
    request: Request,
    facts: RequestFacts | None = None,
    output_tokens: int | None = None,
) -> Explanation:
    """Raises BadRequest and UnknownModel, as the request itself would get them.

    `facts` stand in place of what the request itself tells, `output_tokens` in place of a guess.
    """
    if request.body is None:
        raise BadRequest("only a call that names a model is explained")
    facts = facts or router.facts(request)
    policy = router.policy(request)
    if policy is None:
        return _named(router, request, facts, output_tokens)
    tried = await _tried(policy, facts)
    rule = tried[-1].rule
    if rule.rule.deny is not None:
        refusal = refused(Denied(rule.rule.deny))
        decision = Decision(rule.number, "deny", (), None, tried[-1].why)
        found = Explanation(_at(facts), _asked(request, None), decision, refusal=refusal)
    else:
        route = router.route(policy, rule, facts, request)
        cascade = await cascade_outlook(router, route, output_tokens)
        large_first = cascade is not None and cascade.first == "large"
        leg = route.leg(route.use.models[1] if large_first else route.model)
        ahead = outlook(router, route.request, facts, leg, output_tokens, route.use, cascade)
        decision = _decision(leg, request, route, _why_this_model(route, cascade))
        found = Explanation(_at(facts), _asked(request, leg), decision, **asdict(ahead))
    config = router.fleet.snapshot.config
    return replace(found, policy=policy.name, **_shown(config, policy, tried))


def _named(
    router: Router, request: Request, facts: RequestFacts, output_tokens: int | None
) -> Explanation:
    """A model and no policy."""
    leg = router.plain_leg(request)
    decision = _decision(leg, request, None, "the caller named it")
    ahead = outlook(router, request, facts, leg, output_tokens)
    return Explanation(_at(facts), _asked(request, leg), decision, **asdict(ahead))


async def _tried(policy: CompiledPolicy, facts: RequestFacts) -> tuple[Tried, ...]:
    """Every rule up to the one that matches, which is the last."""
    while isinstance(found := trail(policy, facts), Pending):
        await facts.fetch(found)
    return found


def _at(facts: RequestFacts) -> str:
    at = datetime.fromtimestamp(facts.epoch_s, UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _asked(request: Request, leg: Leg | None) -> Asked:
    body = request.body
    affinity = leg.affinity if leg is not None else None
    return Asked(
        model=body.model if body is not None else "",
        path="/v1" + request.target.decode("latin-1").partition("?")[0],
        dialect=request.dialect,
        stream=request.stream,
        bytes=request.size,
        affinity=_hashed(affinity) if affinity is not None else None,
    )


def _hashed(affinity: str) -> str:
    return blake2b(affinity.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _decision(leg: Leg, request: Request, route: Route | None, why: str) -> Decision:
    decision = Decision(
        rule=None,
        use="model",
        models=(leg.model,),
        model=leg.model,
        why=why,
        priority=leg.priority_of(request),
        max_wait_s=leg.wait_s(request),
        retries=leg.settings.retries,
    )
    if route is None:
        return decision
    use, mirror = route.use, route.mirror
    return replace(
        decision,
        rule=route.rule.number,
        use="cascade" if use.cascade else "split" if use.split else "model",
        models=use.models,
        set=_added(request, route.request),
        mirror_to=mirror.to if mirror is not None else None,
        mirror_share=mirror.share if mirror is not None else 0.0,
    )


def _why_this_model(route: Route, cascade: Cascade | None) -> str:
    use, by = route.use, f"rule {route.rule.label}"
    if cascade is not None:
        return f"{by} begins with the {cascade.first} model, {cascade.why}"
    if route.request.follows_response is not None and len(use.models) > 1:
        return f"{by}: it has the response that this one continues, or is the first"
    if use.split is None:
        return f"{by} uses it"
    key = "the request's affinity" if route.affinity is not None else "the request's id"
    return f"{by} draws it by {key}"


def _added(before: Request, after: Request) -> dict[str, Any]:
    """The fields of the body that a rule has set."""
    if not isinstance(before.body, JsonBody) or not isinstance(after.body, JsonBody):
        return {}
    given = before.body.fields
    return {k: msgspec.json.decode(v) for k, v in after.body.fields.items() if k not in given}


# --- the policy -----------------------------------------------------------------------------------


def _shown(config: Config, policy: CompiledPolicy, tried: Iterable[Tried]) -> dict[str, Any]:
    """The policy's text and the rules that were tried, without what is secret."""
    secrets = secrets_in(config)

    def masked(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, MASK)
        return _KEY_HASH.sub(r"\1...", text)

    written = config.policy_text(policy.name)
    if not written or not _stands_alone(written[0][1], policy.name):
        written = ()
    rules = (
        RuleTried(t.rule.number, t.rule.name, t.rule.line, t.matched, masked(t.why)) for t in tried
    )
    return {
        "text": tuple(Line(line, masked(words)) for line, words in written),
        "rules": tuple(rules),
    }


def _stands_alone(line: str, policy: str) -> bool:
    """Whether the policy begins its line: else other parts of the file stand there too."""
    return line.lstrip().lstrip("'\"").startswith(policy)
