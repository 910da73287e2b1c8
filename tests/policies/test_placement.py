"""Which placement: the cheapest that keeps its class, and no flapping."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.placement import Placement, PlacementName, Prospect, Rules, place

NAMES: tuple[PlacementName, ...] = ("always_on", "on_demand", "api")
RULES = Rules(None, False, 10.0, 1.0, 10.0, hysteresis=0.15, dwell_s=600.0)
QPS = Rules(None, True, 10.0, 1.0, 10.0, hysteresis=0.15, dwell_s=600.0)
EVERY_S = 300.0


def at(name: PlacementName, since_s: float = 0.0) -> Placement:
    return Placement(name, since_s, "before")


def costs(always_on: float, on_demand: float, api: float) -> dict[PlacementName, Prospect]:
    prices = zip(NAMES, (always_on, on_demand, api), strict=True)
    return {name: Prospect(usd) for name, usd in prices}


def placed(
    now: Placement,
    prospects: Mapping[PlacementName, Prospect],
    now_s: float = 1000.0,
    rules: Rules = RULES,
    qps: float = 5.0,
) -> Placement:
    return place(now, now_s, prospects, qps, rules)


# --- by money -------------------------------------------------------------------------------------


def test_place_moves_to_the_cheapest_and_says_what_all_cost():
    found = placed(at("on_demand"), costs(2.5, 1.0, 0.2))
    assert (found.name, found.since_s) == ("api", 1000.0)
    assert "api 0.2" in found.reason
    assert "always_on 2.5" in found.reason


def test_place_counts_the_delay():
    prospects = costs(2.0, 1.0, 9.0) | {"on_demand": Prospect(1.0, delay_usd_per_hour=4.0)}
    assert placed(at("on_demand"), prospects).name == "always_on"


@pytest.mark.parametrize(("api", "name"), [(0.86, "on_demand"), (0.84, "api")])
def test_place_moves_only_for_what_is_worth_a_change(api: float, name: str):
    found = placed(at("on_demand"), costs(9.0, 1.0, api))
    assert found.name == name
    assert ("not worth" in found.reason) == (name == "on_demand")


@pytest.mark.parametrize(("now_s", "name"), [(599.0, "on_demand"), (600.0, "api")])
def test_place_stays_its_dwell(now_s: float, name: str):
    found = placed(at("on_demand", since_s=0.0), costs(9.0, 1.0, 0.1), now_s)
    assert found.name == name
    assert ("less than 600 s" in found.reason) == (name == "on_demand")


def test_place_leaves_at_once_what_does_not_keep_its_class():
    prospects = costs(3.0, 0.1, 0.2) | {"on_demand": Prospect(0.1, p99_wait_s=42.0)}
    found = placed(at("on_demand", since_s=999.0), prospects)
    assert (found.name, found.since_s) == ("api", 1000.0)
    assert "on_demand does not keep the p99 wait" in found.reason


def test_place_never_chooses_what_does_not_keep_its_class():
    prospects = costs(3.0, 0.1, 9.0) | {"on_demand": Prospect(0.1, p99_wait_s=42.0)}
    assert placed(at("always_on"), prospects).name == "always_on"
    patient = Rules(None, False, 10.0, 1.0, 60.0, 0.15, 600.0)
    assert placed(at("always_on"), prospects, rules=patient).name == "on_demand"


def test_place_takes_what_waits_least_when_nothing_keeps_its_class():
    prospects = {
        "on_demand": Prospect(0.1, p99_wait_s=42.0),
        "api": Prospect(5.0, p99_wait_s=20.0),
    }
    found = placed(at("on_demand"), prospects)
    assert found.name == "api"
    assert "waits least" in found.reason
    assert placed(at("on_demand", since_s=900.0), prospects).name == "on_demand"


def test_place_stays_while_nothing_is_known():
    assert placed(at("api"), {}) == at("api")


def test_place_leaves_what_the_model_cannot_have_any_more():
    only = {"on_demand": Prospect(1.0)}
    assert placed(at("api", since_s=999.0), only).name == "on_demand"


# --- pins and the rule by requests per second -----------------------------------------------------


@pytest.mark.parametrize("pin", NAMES)
def test_place_pins_win_over_all_and_at_once(pin: PlacementName):
    rules = Rules(pin, True, 10.0, 1.0, 10.0, 0.15, 600.0)
    found = placed(at("on_demand", since_s=999.0), costs(1.0, 2.0, 3.0), rules=rules, qps=99.0)
    assert found.name == pin
    assert found.since_s == (999.0 if pin == "on_demand" else 1000.0)
    assert "pinned" in found.reason
    assert placed(at("on_demand"), {}, rules=rules).name == pin


@pytest.mark.parametrize(
    ("now", "qps", "name"),
    [
        ("on_demand", 10.1, "always_on"),
        ("on_demand", 10.0, "on_demand"),
        ("always_on", 1.0, "always_on"),
        ("always_on", 0.99, "on_demand"),
        ("api", 5.0, "api"),
        ("api", 0.5, "on_demand"),
    ],
)
def test_place_by_qps(now: PlacementName, qps: float, name: str):
    found = placed(at(now), costs(1.0, 1.0, 0.0), rules=QPS, qps=qps)
    assert found.name == name
    assert f"{qps:.3g} requests/s" in found.reason


def test_place_by_qps_only_to_what_the_model_can_have():
    assert placed(at("on_demand"), {"on_demand": Prospect(1.0)}, rules=QPS, qps=99.0).name == (
        "on_demand"
    )


def test_place_by_qps_stays_its_dwell():
    assert placed(at("always_on", since_s=500.0), costs(1, 1, 1), rules=QPS, qps=0.1).name == (
        "always_on"
    )


# --- noise ----------------------------------------------------------------------------------------

prices_any = st.floats(0.0, 10.0)
waits = st.just(0.0) | st.floats(0.0, 60.0)
prospects_any = st.fixed_dictionaries(
    {"on_demand": st.builds(Prospect, prices_any, prices_any, waits)},
    optional={
        "always_on": st.builds(Prospect, prices_any),
        "api": st.builds(Prospect, prices_any),
    },
)


@given(st.lists(prospects_any, max_size=40), st.lists(st.floats(0, 20), min_size=40, max_size=40))
def test_place_moves_at_most_once_a_dwell_unless_its_class_is_at_stake(
    noise: list[dict[PlacementName, Prospect]], qps: list[float]
):
    for rules in (RULES, QPS):
        now = at("on_demand")
        for n, prospects in enumerate(noise):
            now_s = (n + 1) * EVERY_S
            then = place(now, now_s, prospects, qps[n], rules)
            assert then == place(now, now_s, prospects, qps[n], rules)
            assert then.reason
            broken = now.name not in prospects or (
                prospects[now.name].p99_wait_s > rules.p99_wait_s and not rules.by_qps
            )
            if then.name != now.name:
                assert then.name in prospects
                assert then.since_s == now_s
                assert broken or now_s - now.since_s >= rules.dwell_s
            else:
                assert then.since_s == now.since_s
            now = then


@given(st.lists(st.floats(0.0, 0.14), min_size=40, max_size=40))
def test_place_does_not_move_for_noise_within_the_hysteresis(noise: list[float]):
    now = at("on_demand")
    for n, share in enumerate(noise):
        prospects = costs(1.0 - share, 1.0, 1.0 + share)
        now = place(now, (n + 1) * EVERY_S, prospects, 5.0, RULES)
    assert now.name == "on_demand"


@given(prospects_any)
def test_place_settles_when_the_demand_does(prospects: dict[PlacementName, Prospect]):
    first = placed(at("on_demand", since_s=-math.inf), prospects)
    second = place(first, 2000.0, prospects, 5.0, RULES)
    assert second.name == first.name
