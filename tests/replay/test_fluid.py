"""Busy windows as spells cost the same, within 1 percent, as drawn request by request."""

from random import Random

import pytest

from policies.placement import Rules
from router.economics import Economics
from router.planner import Planner
from router.replay.arrivals import Form
from router.replay.bounds import clairvoyant, ladder_of
from router.replay.keepers import Fixed, Keeper, Planned
from router.replay.outcome import Outcome
from router.replay.rates import RateTrace, Tokens, Window
from router.replay.run import Run
from router.replay.work import Work, work_of

WINDOW_S = 600.0
WINDOWS = 1500
START_S = 25.0
RULES = Rules("on_demand", False, 10.0, 1.0, 240.0, 0.15, 600.0)
FACTS = Economics(
    "m",
    hold_usd_s=2.5 / 3600,
    priced=True,
    delay_usd_s=2.5 / 3600,
    start_s=(START_S,) * 3,
    requests_s=100.0,
    rules=RULES,
)


def thinned() -> RateTrace:
    """Windows such as ServeGen's busy ones, thinned to up to 3 requests a second."""
    rng, windows = Random(5), []
    for n in range(WINDOWS):
        if rng.random() < 0.6:
            bunched = rng.random() < 0.6
            form = Form("weibull", rng.uniform(0.16, 0.5)) if bunched else Form("gamma", 0.8)
            windows.append(Window(n * WINDOW_S, rng.uniform(1.01, 3.0), form))
    tokens = {"m": Tokens(100.0, 50.0)}  # 1 s a request
    return RateTrace({"m": windows}, {"m": WINDOWS * WINDOW_S}, tokens, WINDOW_S, 1, ())


def work(drawn_up_to_rps: float) -> Work:
    found = thinned()
    trace = RateTrace(
        found.windows, found.lengths_s, found.tokens, WINDOW_S, 1, (), drawn_up_to_rps
    )
    requests = trace.requests("m", 1.0)
    assert (requests.counts is None) is (drawn_up_to_rps > 3.0)
    return work_of(requests, FACTS, trace.end_s("m"), float("inf"), 300.0)


@pytest.fixture(scope="module")
def drawn() -> Work:
    return work(10.0)


@pytest.fixture(scope="module")
def flowing() -> Work:
    return work(0.0)


def outcome(of: Work, keeper: Keeper) -> Outcome:
    run = Run(of, keeper, lambda rung, now_s: START_S)
    run.finish()
    return run.outcome


KEEPERS = {
    "own": lambda: Planned(Planner(FACTS, 0.0)),
    "TTL 60 s": lambda: Fixed(((60.0, "off"),)),
    "TTL 300 s": lambda: Fixed(((300.0, "off"),)),
    "for ever": lambda: Fixed(()),
}


def test_both_have_the_same_requests(drawn, flowing):
    assert len(flowing.requests) < len(drawn.requests) / 3
    assert flowing.total == pytest.approx(drawn.total, rel=1e-3)


@pytest.mark.parametrize("name", KEEPERS)
def test_spells_cost_the_same_as_requests(drawn, flowing, name):
    one, other = outcome(drawn, KEEPERS[name]()), outcome(flowing, KEEPERS[name]())
    assert one.usd > 0
    assert other.usd == pytest.approx(one.usd, rel=0.01)
    # Who comes right after a long gap comes more bunched than the rest: half a second's worth of
    # requests more wait for a start than an even spell says. At 30 a second that is nothing.
    assert other.delay_usd == pytest.approx(one.delay_usd, rel=0.15, abs=1.0)


def test_the_clairvoyant_pays_the_same(drawn, flowing):
    rungs = ladder_of(FACTS, {"hot": 0.0, "off": START_S})
    one, other = clairvoyant(drawn, rungs), clairvoyant(flowing, rungs)
    assert other.total_usd == pytest.approx(one.total_usd, rel=0.01)


def test_without_the_long_gaps_of_its_windows_the_same_trace_costs_more(drawn):
    no_gaps = thinned()
    for window in no_gaps.windows["m"]:
        object.__setattr__(window, "form", Form("gamma", 50.0))
    requests = RateTrace(
        no_gaps.windows, no_gaps.lengths_s, no_gaps.tokens, WINDOW_S, 1, (), 0.0
    ).requests("m", 1.0)
    even = work_of(requests, FACTS, no_gaps.end_s("m"), float("inf"), 300.0)
    keeper = KEEPERS["TTL 60 s"]
    assert outcome(even, keeper()).usd > 1.02 * outcome(drawn, keeper()).usd
