"""What a cascade would do with a request: the same questions as when it runs, and no answer."""

import math
from typing import Literal

from policies import cascade
from policies.calibration import ABOVE_ALL, BELOW_ALL, Calibration
from policies.cascade import Terms
from router.cascade import why_unjudged
from router.explanation import CascadeOutlook
from router.record import Record
from router.route import Route
from router.routing import Router


async def cascade_outlook(
    router: Router, route: Route, output_tokens: int | None
) -> CascadeOutlook | None:
    """None where the rule has no cascade, or the request continues what one model has begun."""
    request = route.request
    if route.use.cascade is None or request.follows_response is not None:
        return None
    course, leg = router.cascades.course(route), route.leg(route.model)
    record = Record(request.id, request.dialect, router.clock(), priority=leg.priority_of(request))
    terms = course.terms(record, output_tokens)
    unjudged = why_unjudged(request)
    if unjudged is not None:
        return _cascade("large", unjudged, None, course.calibration, terms)
    foreseen = await course.foreseen()
    likely = course.p_escalate(foreseen)
    first = cascade.begin(likely, course.calibration, terms)
    if likely is None:
        likely = cascade.share_escalated(course.calibration, terms)
    return _cascade(first.model, first.reason, likely, course.calibration, terms)


def _cascade(
    first: Literal["small", "large"],
    why: str,
    likely: float | None,
    calibration: Calibration,
    terms: Terms,
) -> CascadeOutlook:
    threshold, rests_on = cascade.least_score(calibration, terms)
    judged, likely = likely is not None, 1.0 if likely is None else likely
    small_first_usd = terms.small_usd + likely * terms.large_usd
    return CascadeOutlook(
        first=first,
        why=why,
        judged=judged,
        p_escalate=likely,
        keeps=_keeps(threshold),
        threshold=threshold if BELOW_ALL < threshold < ABOVE_ALL else None,
        rests_on=rests_on,
        calibration=calibration.source,
        labels=calibration.labels,
        max_wrong=terms.max_wrong,
        small_usd=terms.small_usd,
        large_usd=terms.large_usd,
        usd=small_first_usd if first == "small" else terms.large_usd,
        large_wait_s=terms.large_wait_s if math.isfinite(terms.large_wait_s) else None,
    )


def _keeps(threshold: float) -> Literal["all", "none", "from_threshold"]:
    if threshold >= ABOVE_ALL:
        return "none"
    return "all" if threshold <= BELOW_ALL else "from_threshold"
