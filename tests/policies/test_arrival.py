"""The order of places: what is ready first; then time and money say who waits and who is paid."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.arrival import ApiState, ColdState, HotState, Step, Terms, choose
from policies.budget import NORMAL, Allowance

OFF = ColdState(ready=0, free=0, starting=False, refusing_for_s=0, eta_s=30.0)
STARTING = ColdState(ready=0, free=0, starting=True, refusing_for_s=0, eta_s=20.0)
ASLEEP = ColdState(ready=0, free=0, starting=False, refusing_for_s=0, eta_s=3.0, asleep=True)
READY = ColdState(ready=1, free=4, starting=False, refusing_for_s=0)
FULL = ColdState(ready=1, free=0, starting=False, refusing_for_s=0)
FAILED = ColdState(ready=0, free=0, starting=False, refusing_for_s=5, eta_s=30.0)

API = ApiState(True, usd=0.01)
ILL_API = ApiState(False)
SAVING = Allowance("saving", "it has spent 9 of 10 USD today")
LATE = Terms(left_s=10.0, start_usd=0.05)  # than a start, not than a wake


def kinds(steps: tuple[Step, ...]) -> list[str]:
    """With a `+` where it would wait for room or for a start."""
    return [step.kind + "+" * step.wait for step in steps]


# --- without terms: by state alone ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("hot", "cold", "api", "places"),
    [
        (HotState(2, 3), OFF, API, ["hot", "cold+", "api"]),
        (HotState(2, math.inf), None, None, ["hot"]),
        (HotState(2, 0), OFF, None, ["cold+", "hot+"]),
        (HotState(2, 0), READY, API, ["cold+", "api", "hot+"]),
        (HotState(2, 0), None, API, ["api", "hot+"]),
        (HotState(2, 0), None, ILL_API, ["hot+"]),
        (HotState(2, 0), FAILED, API, ["api", "hot+"]),
        (HotState(0, 0), OFF, None, ["cold+"]),
        (HotState(0, 0), None, API, ["api"]),
        (HotState(0, 0), None, ILL_API, []),
        (HotState(0, 0), FAILED, None, ["cold+"]),  # asked for the reason
        (None, OFF, API, ["cold+", "api"]),
        (None, FULL, API, ["cold+", "api"]),
        (None, FAILED, API, ["api"]),
        (None, FAILED, None, ["cold+"]),
        (None, None, API, ["api"]),
        (None, None, ILL_API, []),
        (None, None, None, []),
    ],
)
def test_choose_by_state(
    hot: HotState | None, cold: ColdState | None, api: ApiState | None, places: list[str]
):
    assert kinds(choose(hot, cold, api)) == places


# --- who can wait ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_s", "places"),
    [(30.0, ["cold+", "api"]), (29.9, ["api", "cold+"]), (math.inf, ["cold+", "api"])],
)
def test_choose_holds_who_has_the_time_that_a_start_needs(left_s: float, places: list[str]):
    assert kinds(choose(None, OFF, API, Terms(left_s=left_s, start_usd=0.05))) == places


def test_choose_holds_who_has_nowhere_else_to_go():
    assert kinds(choose(None, OFF, None, LATE)) == ["cold+"]
    assert kinds(choose(None, OFF, ILL_API, LATE)) == ["cold+"]
    assert kinds(choose(HotState(1, 0), OFF, None, LATE)) == ["cold+", "hot+"]


def test_choose_waits_for_room_where_there_soon_is_some():
    full = ColdState(ready=1, free=0, starting=True, refusing_for_s=0, eta_s=30.0)
    assert kinds(choose(None, full, API, LATE)) == ["cold+", "api"]


def test_choose_wakes_what_wakes_in_time():
    steps = choose(None, ASLEEP, API, LATE)
    assert kinds(steps) == ["cold+", "api"]
    assert "asleep" in steps[0].reason


def test_choose_says_how_long_the_start_and_the_caller_have():
    held = choose(None, OFF, API, Terms(left_s=45.0))[0].reason
    assert "30 s" in held
    assert "45 s" in held
    sent = choose(None, OFF, API, LATE)[0].reason
    assert "30 s" in sent
    assert "10 s" in sent


def test_choose_overflows_to_a_model_when_there_is_no_api():
    steps = choose(None, OFF, None, Terms(left_s=10.0, overflow=True))
    assert kinds(steps) == ["overflow", "cold+"]
    assert steps[0].start is True
    assert kinds(choose(None, OFF, API, Terms(left_s=10.0, overflow=True))) == [
        "api",
        "overflow",
        "cold+",
    ]


def test_choose_names_whoever_it_overflows_to():
    for cold, terms in ((OFF, LATE), (FAILED, LATE), (READY, LATE), (OFF, Terms())):
        both = Terms(left_s=terms.left_s, overflow=True)
        to = {step.kind: step.reason for step in choose(None, cold, API, both)}
        assert "outside API" in to["api"]
        assert "another model" in to["overflow"]


# --- rent or buy ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("overspent_usd", "start"), [(0.0, False), (0.039, False), (0.04, True)])
def test_choose_starts_when_what_was_paid_elsewhere_is_worth_a_start(
    overspent_usd: float, start: bool
):
    terms = Terms(left_s=10.0, start_usd=0.05, overspent_usd=overspent_usd)
    assert choose(None, OFF, API, terms)[0].start is start


@given(st.lists(st.floats(1e-6, 0.2), min_size=1, max_size=50), st.floats(1e-3, 1.0))
def test_choose_never_rents_for_more_than_a_start_and_one_request(
    prices: list[float], start_usd: float
):
    spent_usd = 0.0
    for usd in prices:
        terms = Terms(left_s=10.0, start_usd=start_usd, overspent_usd=spent_usd)
        step = choose(None, OFF, ApiState(True, usd), terms)[0]
        assert step.kind == "api"
        spent_usd += usd
        if step.start:
            assert start_usd <= spent_usd <= start_usd + usd
            return
        assert spent_usd < start_usd


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.5), st.floats(0.0, 1.0))
def test_choose_starts_no_later_when_more_was_paid(
    one: float, other: float, usd: float, start_usd: float
):
    less, more = (
        choose(None, OFF, ApiState(True, usd), Terms(1.0, start_usd=start_usd, overspent_usd=spent))
        for spent in sorted((one, other))
    )
    assert less[0].start is not None
    assert more[0].start or not less[0].start


def test_choose_starts_once():
    terms = Terms(left_s=10.0, start_usd=0.05, overspent_usd=9.0, priority="high")
    assert choose(None, STARTING, API, terms)[0].start is False


def test_choose_starts_at_once_for_high_priority_and_for_what_is_to_be_always_on():
    assert choose(None, OFF, API, Terms(10.0, priority="high", start_usd=9.0))[0].start is True
    placed = Terms(10.0, placement="always_on", start_usd=9.0)
    assert choose(None, OFF, API, placed)[0].start is True
    for priority in ("low", "normal"):
        terms = Terms(10.0, priority=priority, start_usd=9.0)
        assert choose(None, OFF, API, terms)[0].start is False


# --- placed at the outside API --------------------------------------------------------------------

BY_API = Terms(left_s=math.inf, placement="api")


def test_choose_pays_the_api_where_it_is_cheaper():
    steps = choose(None, OFF, API, BY_API)
    assert kinds(steps) == ["api", "cold+"]
    assert steps[0].start is None
    assert "cheaper" in steps[0].reason


def test_choose_lets_what_is_ready_fall_idle_where_the_api_is_cheaper():
    steps = choose(None, READY, API, BY_API)
    assert kinds(steps) == ["api", "cold+"]
    assert "ready with room" in steps[1].reason
    assert kinds(choose(HotState(1, 1), OFF, API, BY_API)) == ["hot", "api", "cold+"]


def test_choose_holds_where_the_cheaper_api_is_ill():
    overflow = Terms(left_s=math.inf, placement="api", overflow=True)
    assert kinds(choose(None, OFF, ILL_API, overflow)) == ["cold+", "overflow"]
    assert kinds(choose(None, OFF, ILL_API, BY_API)) == ["cold+"]


def test_choose_near_the_budget_pays_no_api_that_can_be_waited_for():
    saving = Terms(left_s=10.0, start_usd=0.05, allowance=SAVING)
    assert kinds(choose(None, OFF, API, saving)) == ["cold+"]
    assert kinds(choose(HotState(1, 0), OFF, API, saving)) == ["cold+", "hot+"]
    assert kinds(choose(None, FAILED, API, saving)) == ["api"]
    assert kinds(choose(None, None, API, saving)) == ["api"]


def test_choose_near_the_budget_still_uses_what_costs_nothing_or_less():
    saving = Terms(left_s=10.0, start_usd=0.05, allowance=SAVING, overflow=True)
    assert kinds(choose(None, OFF, API, saving)) == ["overflow", "cold+"]
    placed = Terms(left_s=10.0, placement="api", allowance=SAVING)
    assert kinds(choose(None, OFF, API, placed)) == ["api", "cold+"]


# --- whatever the state ---------------------------------------------------------------------------

hots = st.none() | st.builds(
    HotState, st.integers(0, 5), st.integers(0, 9) | st.just(math.inf)
).filter(lambda h: h.healthy or not h.free)
colds = st.none() | st.builds(
    ColdState,
    ready=st.integers(0, 3),
    free=st.integers(0, 9),
    starting=st.booleans(),
    refusing_for_s=st.just(0.0) | st.floats(0.1, 60),
    eta_s=st.floats(0, 600),
    asleep=st.booleans(),
).map(lambda c: c if c.ready else ColdState(0, 0, c.starting, c.refusing_for_s, c.eta_s, c.asleep))
apis = st.none() | st.builds(ApiState, st.booleans(), st.floats(0, 1))
terms_any = st.builds(
    Terms,
    left_s=st.floats(0, 600) | st.just(math.inf),
    priority=st.sampled_from(["low", "normal", "high"]),
    placement=st.sampled_from(["always_on", "on_demand", "api"]),
    allowance=st.sampled_from([NORMAL, SAVING, Allowance("refusing", "all is spent")]),
    overspent_usd=st.floats(0, 2),
    start_usd=st.floats(0, 2),
    overflow=st.booleans(),
)


@given(hots, colds, apis, terms_any)
def test_choose_is_sensible(
    hot: HotState | None, cold: ColdState | None, api: ApiState | None, terms: Terms
):
    steps = choose(hot, cold, api, terms)
    assert steps == choose(hot, cold, api, terms)
    assert all(step.reason for step in steps)
    assert len({step.kind for step in steps}) == len(steps)
    have = {
        "hot": hot is not None and hot.healthy > 0,
        "cold": cold is not None,
        "api": api is not None and api.healthy,
        "overflow": terms.overflow,
    }
    assert all(have[step.kind] for step in steps)
    assert bool(steps) == any(have.values())
    assert all(step.start is None or step.kind in ("api", "overflow") for step in steps)
    assert all(step.wait for step in steps if step.kind == "cold")
    places = [step.kind for step in steps]
    if hot is not None and hot.free >= 1:
        assert steps[0] == choose(hot, None, None)[0]
    by_api = terms.placement == "api" and "api" in places
    if cold is not None and cold.free >= 1 and cold.refusing_for_s <= 0 and not by_api:
        assert [place for place in places if place != "hot"][0] == "cold"
    starts = {step.start for step in steps if step.start is not None}
    assert len(starts) <= 1
    if True in starts:
        assert cold is not None
        assert not cold.starting
        assert not cold.ready
        assert cold.eta_s > terms.left_s


@given(hots, colds, apis, terms_any)
def test_choose_holds_just_when_the_start_is_over_in_time(
    hot: HotState | None, cold: ColdState | None, api: ApiState | None, terms: Terms
):
    if cold is None or cold.refusing_for_s > 0 or cold.ready:
        return
    steps = [step for step in choose(hot, cold, api, terms) if step.kind != "hot"]
    others = [step for step in steps if step.kind != "cold"]
    cheaper = terms.placement == "api" and any(step.kind == "api" for step in others)
    holds = steps[0].kind == "cold"
    assert holds == (not others or (cold.eta_s <= terms.left_s and not cheaper))


@given(hots, colds, apis, terms_any, st.floats(0, 600))
def test_choose_never_sends_away_who_has_more_time(
    hot: HotState | None,
    cold: ColdState | None,
    api: ApiState | None,
    terms: Terms,
    other_s: float,
):
    orders = []
    for left_s in sorted((terms.left_s, other_s)):
        asked = Terms(
            left_s,
            terms.priority,
            terms.placement,
            terms.allowance,
            terms.overspent_usd,
            terms.start_usd,
            terms.overflow,
        )
        places = [step.kind for step in choose(hot, cold, api, asked)]
        orders.append(places.index("cold") if "cold" in places else 0)
    assert all(more <= less for less, more in itertools.pairwise(orders))
