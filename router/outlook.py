"""What the states of models lead to for a request whose model is decided: who would answer it.

The places are those of `router/places.py`, looked at and not asked.
"""

from collections.abc import Sequence

from msgspec import Struct

from backends.fleet import Snapshot
from config.policy import Use
from policies.arrival import Kind
from router import places
from router.candidates import AnswerTokens, Candidates, named
from router.errors import GatewayError
from router.explanation import Candidate, Choice, Place, Refusal
from router.facts import RequestFacts
from router.journey import Leg
from router.pins import Pin
from router.request import Request
from router.routing import Router


class Case(Struct, frozen=True):
    """A request in the world of a router. `output_tokens` is None where nobody knows them."""

    router: Router
    request: Request
    facts: RequestFacts
    output_tokens: int | None


class Outlook(Struct, frozen=True):
    """The part of an explanation that is about one model and those that stand in for it."""

    candidates: tuple[Candidate, ...] = ()
    places: tuple[Place, ...] = ()
    choice: Choice | None = None
    refusal: Refusal | None = None


def outlook(case: Case, request: Request, leg: Leg, use: Use | None = None) -> Outlook:
    """`request` has in it what a rule has set, and `leg` is its way; `use` is that of the rule."""
    router = case.router
    now_s, snapshot = router.clock(), router.fleet.snapshot
    asked = leg.asked(request, now_s)
    plan = places.Places(snapshot, leg.model, asked, router.planners, lambda: now_s)
    found = tuple(map(_place, plan.plan()))
    continues = request.follows_response
    pin = router.pins.find(continues) if continues is not None else None
    if pin is not None and pin.model == leg.model:
        found = (_pinned(snapshot, pin), *found)
    candidates = _candidates(case, leg, use)
    if not found:
        return Outlook(candidates, refusal=refused(plan.nothing_left()))
    return Outlook(candidates, found, _choice(found[0], candidates, asked.deadline_s - now_s))


def refused(error: GatewayError) -> Refusal:
    return Refusal(error.status, error.code, error.message)


def _place(place: places.Place) -> Place:
    step = place.step
    other = place.instead_of if place.instead_of != place.model else None
    return Place(place.model, step.kind, step.wait, other, step.start, step.reason)


def _pinned(snapshot: Snapshot, pin: Pin) -> Place:
    kind: Kind = "cold"
    backends = snapshot.backends[pin.model]
    if backends.hot is not None and any(e.id == pin.endpoint for e in backends.hot.endpoints):
        kind = "hot"
    if backends.api is not None and any(e.id == pin.endpoint for e in backends.api.endpoints):
        kind = "api"
    why = f"{pin.endpoint} made the response that this one continues"
    return Place(pin.model, kind, False, None, None, why)


def _candidates(case: Case, leg: Leg, use: Use | None) -> tuple[Candidate, ...]:
    router, facts = case.router, case.facts
    snapshot = router.fleet.snapshot
    overflow = leg.overflow
    if overflow is None:
        overflow = snapshot.config.models[leg.model].overflow
    answer = AnswerTokens(case.output_tokens, "known")
    if case.output_tokens is None:
        answer = AnswerTokens(facts.output_tokens, "max_tokens")
    look_at = Candidates(snapshot, router.planners)
    return tuple(
        look_at.candidate(model, role, weight, facts.input_tokens(model), answer)
        for model, role, weight in named(snapshot.config, leg.model, use, overflow)
    )


def _choice(place: Place, candidates: Sequence[Candidate], left_s: float) -> Choice:
    """The first place that is asked, with what is known of its model."""
    by_model = {each.model: each for each in candidates}
    found = by_model[place.model]
    wait_s = next((way.wait_s for way in found.ways if way.kind == place.kind), None)
    started = place.model if place.kind == "cold" else None
    if place.start:
        started = place.instead_of or place.model
    usd = found.api_usd if place.kind == "api" and found.api_usd is not None else found.usd
    return Choice(
        model=place.model,
        kind=place.kind,
        wait_s=wait_s,
        in_time=wait_s <= left_s if wait_s is not None else None,
        usd=usd,
        start_usd=by_model[started].start_usd if started is not None else 0.0,
        why=place.why,
    )
