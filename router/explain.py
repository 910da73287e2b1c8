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
from router.explanation import Asked, CascadeOutlook, Decision, Explanation, Line, RuleTried
from router.facts import RequestFacts
from router.journey import Leg
from router.outlook import Case, Outlook, outlook, refused
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
    case = Case(router, request, facts or router.facts(request, asks_servers=False), output_tokens)
    policy = router.policy(request)
    if policy is None:
        return _named(case)
    tried = await _tried(policy, case.facts)
    if router.policy(request) is not policy:  # a reload came between
        return await explain(router, request, None, output_tokens)
    found = await _followed(case, policy, tried[-1])
    config = router.fleet.snapshot.config
    return replace(found, policy=policy.name, **_shown(config, policy, tried))


def _named(case: Case) -> Explanation:
    """A model and no policy."""
    leg = case.router.plain_leg(case.request)
    decision = _decision(leg, case.request, None, "the caller named it")
    return _explanation(case, decision, leg, outlook(case, case.request, leg))


async def _followed(case: Case, policy: CompiledPolicy, matched: Tried) -> Explanation:
    """What the rule that matched leads to."""
    rule = matched.rule
    if rule.rule.deny is not None:
        denied = Outlook(refusal=refused(Denied(rule.rule.deny)))
        decision = Decision(rule.number, "deny", (), None, matched.why)
        return _explanation(case, decision, None, denied)
    route = case.router.route(policy, rule, case.facts, case.request)
    cascade = await cascade_outlook(case.router, route, case.output_tokens)
    first, *others = _in_turn(route, cascade)
    why = _why_this_model(route, cascade)
    leg = route.leg(first)
    ahead = outlook(case, route.request, leg, route.use)
    if cascade is not None and ahead.choice is not None:
        ahead = replace(ahead, choice=replace(ahead.choice, usd=cascade.usd))
    for other in others:
        if ahead.choice is None:
            leg, why = route.leg(other), f"{why}; but nothing of {leg.model} can answer"
            ahead = outlook(case, route.request, leg, route.use)
    found = _explanation(case, _decision(leg, case.request, route, why), leg, ahead)
    return replace(found, cascade=cascade)


def _in_turn(route: Route, cascade: CascadeOutlook | None) -> tuple[str, ...]:
    """Who is asked first, and who if that one has no place for the request."""
    if cascade is None:
        return (route.model,)
    small, large = route.use.models
    if not cascade.judged:
        return (large,)
    return (small, large) if cascade.first == "small" else (large, small)


def _explanation(case: Case, decision: Decision, leg: Leg | None, ahead: Outlook) -> Explanation:
    at = datetime.fromtimestamp(case.facts.epoch_s, UTC)
    spelled = at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Explanation(spelled, _asked(case.request, leg), decision, **asdict(ahead))


async def _tried(policy: CompiledPolicy, facts: RequestFacts) -> tuple[Tried, ...]:
    """Every rule up to the one that matches, which is the last."""
    while isinstance(found := trail(policy, facts), Pending):
        await facts.fetch(found)
    return found


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


def _why_this_model(route: Route, cascade: CascadeOutlook | None) -> str:
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
