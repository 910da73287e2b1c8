"""Every dollar is charged once, to one kind and one day, whatever the order of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.spend import DAYS_KEPT, KINDS, PICO, Amount, Rates, Spend

DAY_S = 86400.0
NOON = 20_000 * DAY_S + DAY_S / 2
STATES = ["provisioning", "loading", "warming", "ready", "sleeping", "waking", "draining"]


def spend(rates: Rates, model: str = "m", now_s: float = 0.0, epoch_s: float = NOON) -> Spend:
    made = Spend(now_s, epoch_s)
    made.follow({model: rates}, now_s)
    return made


def usd(spend: Spend, kind: str | None = None) -> float:
    return sum(usd for (_, k), usd in spend.totals_usd().items() if kind in (None, k))


def test_life_of_an_instance_is_charged_by_kind() -> None:
    found = spend(Rates(instance=3600.0, asleep={"sleep_1": 0.25}))
    life = [
        ("provisioning", "hot", 10),
        ("loading", "hot", 20),
        ("ready", "hot", 30),  # holding, but for the 5 s below
        ("sleeping", "sleep_1", 40),
        ("waking", "sleep_1", 50),
        ("ready", "hot", 60),
        ("draining", "hot", 70),
        ("off", "off", 75),
        ("off", "off", 80),
    ]
    for state, rung, at_s in life[:3]:
        found.instance_changed("m", "m@1", state, rung, float(at_s))
    found.busy("m@1", True, 32.0)
    found.busy("m@1", True, 33.0)
    found.busy("m@1", False, 37.0)
    for state, rung, at_s in life[3:]:
        found.instance_changed("m", "m@1", state, rung, float(at_s))
    found.settle(100.0, NOON + 100)
    assert usd(found, "starting") == pytest.approx(30.0)
    assert usd(found, "serving") == pytest.approx(5.0)
    assert usd(found, "holding") == pytest.approx(5.0 + 0.25 * 10 + 10 + 5)


def test_draining_instance_that_is_still_at_work_serves() -> None:
    found = spend(Rates(instance=3600.0))
    found.instance_changed("m", "m@1", "ready", "hot", 0.0)
    found.busy("m@1", True, 0.0)
    found.instance_changed("m", "m@1", "draining", "hot", 1.0)
    found.busy("m@1", False, 3.0)
    found.instance_changed("m", "m@1", "off", "off", 4.0)
    assert (usd(found, "serving"), usd(found, "holding")) == pytest.approx((3.0, 1.0))


def test_failed_start_costs_what_it_took() -> None:
    found = spend(Rates(instance=3600.0))
    found.instance_changed("m", "m@1", "provisioning", "hot", 0.0)
    found.instance_changed("m", "m@1", "failed", "hot", 7.0)
    found.instance_changed("m", "m@1", "off", "hot", 9.0)
    found.settle(20.0, NOON)
    assert found.totals_usd() == {("m", "starting"): pytest.approx(7.0)}


def test_rung_without_a_stated_share_costs_all() -> None:
    found = spend(Rates(instance=3600.0, asleep={"sleep_1": 0.1}))
    found.instance_changed("m", "m@1", "sleeping", "sleep_2", 0.0)
    found.settle(2.0, NOON)
    assert usd(found, "holding") == pytest.approx(2.0)


def test_always_on_pool_is_held_all_the_time_at_the_price_of_the_moment() -> None:
    found = spend(Rates(always_on=3600.0))
    found.settle(10.0, NOON + 10)
    found.follow({"m": Rates(always_on=7200.0)}, 20.0)
    found.settle(25.0, NOON + 25)
    found.follow({"other": Rates()}, 30.0)  # it left the configuration
    found.settle(1000.0, NOON + 1000)
    assert usd(found, "holding") == pytest.approx(20 + 2 * 10)


def test_instance_whose_model_left_costs_on_until_it_is_gone() -> None:
    found = spend(Rates(instance=3600.0))
    found.instance_changed("m", "m@1", "ready", "hot", 0.0)
    found.follow({"other": Rates()}, 5.0)
    found.instance_changed("m", "m@1", "off", "off", 8.0)
    assert usd(found) == pytest.approx(8.0)


def test_midnight_divides_what_runs_over_it() -> None:
    midnight = 20_001 * DAY_S
    found = spend(Rates(instance=3600.0), epoch_s=midnight - 10)
    found.instance_changed("m", "m@1", "ready", "hot", 0.0)
    found.settle(4.0, midnight - 6)
    assert found.today_usd() == pytest.approx(4.0)
    found.settle(12.0, midnight + 2)
    assert found.today_usd() == found.today_usd("m") == pytest.approx(2.0)
    assert found.day_usd(20_000)["m"]["holding"] == pytest.approx(10.0)


def test_today_begins_with_nothing_when_nothing_runs() -> None:
    found = spend(Rates())
    found.api("m", 5 * PICO, 1.0)
    assert found.today_usd() == 5.0
    assert found.today_usd("other") == 0.0
    found.settle(DAY_S, NOON + DAY_S)
    assert found.today_usd() == 0.0


def test_wall_clock_that_jumps_neither_loses_nor_invents_money() -> None:
    found = spend(Rates(instance=3600.0))
    found.instance_changed("m", "m@1", "ready", "hot", 0.0)
    for now_s, epoch_s in ((5.0, NOON + 3 * DAY_S), (9.0, NOON - 2 * DAY_S), (10.0, NOON)):
        found.settle(now_s, epoch_s)
    assert usd(found) == pytest.approx(10.0)


def test_restored_spend_counts_for_today_and_is_not_saved_again() -> None:
    found = spend(Rates())
    found.restore([Amount(20_000, "m", "api", PICO), Amount(19_999, "m", "api", PICO)])
    assert found.today_usd("m") == 1.0
    assert found.days == [19_999, 20_000]
    assert found.take_unsaved() == []
    found.api("m", 2 * PICO, 0.0)
    assert found.take_unsaved() == [Amount(20_000, "m", "api", 2 * PICO)]
    assert found.take_unsaved() == []
    assert found.today_usd() == 3.0


def test_days_are_forgotten_after_a_month() -> None:
    found = spend(Rates())
    for day in range(3 * DAYS_KEPT):
        found.settle(day * DAY_S, NOON + day * DAY_S)
        found.api("m", 1, day * DAY_S)
    assert len(found.days) == DAYS_KEPT


def test_a_million_cents_of_a_cent_lose_nothing() -> None:
    found = spend(Rates())
    for _ in range(1_000_000):
        found.api("m", 100_000, 0.0)
    assert found.today_usd() == 0.1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("state"), st.integers(1, 3), st.sampled_from([*STATES, "off", "failed"])),
        st.tuples(st.just("busy"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("settle"), st.just(0), st.just(0)),
        st.tuples(st.just("follow"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 2e5), steps), max_size=20),
    price=st.floats(0.01, 100.0),
    begin_s=st.floats(0.0, 1e6),
)
def test_kinds_add_up_to_price_times_time_for_any_order_of_events(
    steps: list[tuple[float, list[tuple[str, int, object]]]], price: float, begin_s: float
) -> None:
    """Three instances that never sleep, at one price; time passes between bursts of events."""
    rates = Rates(instance=price)
    found = spend(rates, now_s=begin_s)
    now_s, alive, instance_s, events = begin_s, set[int](), 0.0, 0
    for passed_s, burst in steps:
        now_s += passed_s
        instance_s += passed_s * len(alive)
        for what, number, value in burst:
            events += 1
            if what == "state":
                state = "ready" if value == "sleeping" else str(value)
                found.instance_changed("m", f"m@{number}", state, "hot", now_s)
                (alive.discard if state in ("off", "failed") else alive.add)(number)
            elif what == "busy":
                found.busy(f"m@{number}", bool(value), now_s)
            elif what == "settle":
                found.settle(now_s, NOON + now_s - begin_s)
            else:
                found.follow({"m": rates}, now_s)
    found.settle(now_s, NOON + now_s - begin_s)
    expected = price * instance_s / 3600
    assert usd(found) == pytest.approx(expected, rel=1e-9, abs=(events + 200) * 2 / PICO)
    unsaved = found.take_unsaved()
    assert sum(a.pico for a in unsaved) / PICO == pytest.approx(usd(found), rel=1e-12)
    assert {a.kind for a in unsaved} <= set(KINDS)
