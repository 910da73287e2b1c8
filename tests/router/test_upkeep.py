"""What is decided without a request, told to instances that only note what they are told."""

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import parse
from config.schema import Config
from router.planner import Planner
from router.planners import Planners
from router.upkeep import LOOK_EVERY_S, Upkeep

# A Monday, 00:00 UTC; a multiple of five minutes, as every midnight is.
MIDNIGHT = 1_795_996_800.0
API = "api: {url: http://h/v1, price: {input: 10, output: 10}}"


class Instances:
    """A cold model that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []

    def view(self) -> SimpleNamespace:
        return SimpleNamespace(rungs=("hot", "sleep_1", "sleep_2", "off"))

    def hold(self, until_s: float) -> None:
        self.told.append(("hold", until_s))

    def hold_instances(self, number: int) -> None:
        self.told.append(("instances", number))

    def take(self) -> list[tuple[str, float]]:
        """What it was told since this was asked last."""
        told, self.told = self.told, []
        return told


class World:
    """A fleet whose instances only listen, and clocks that go where they are set."""

    def __init__(self, models: str, top: str = "") -> None:
        self.now_s = 1000.0
        self.spent: dict[str | None, float] = {}
        self.cold: dict[str, Instances] = {}
        self.planners = Planners(lambda: self.now_s)
        self.fleet = SimpleNamespace(snapshot=None)
        self.upkeep = Upkeep(
            cast(Any, self.fleet),
            self.planners,
            lambda: self.now_s,
            lambda: MIDNIGHT + self.now_s - 1000.0,
            lambda model: self.spent.get(model, 0.0),
        )
        self.apply(models, top)

    def apply(self, models: str, top: str = "") -> None:
        config: Config = parse(f"version: 1\n{top}\nmodels:\n{models}", "f", {})
        self.planners.follow(config)
        backends = {}
        for name, model in config.models.items():
            cold = self.cold.setdefault(name, Instances()) if model.cold is not None else None
            backends[name] = SimpleNamespace(cold=cold)
        self.fleet.snapshot = SimpleNamespace(config=config, backends=backends)

    def at(self, passed_s: float) -> dict[str, list[tuple[str, float]]]:
        """Let upkeep look so long after midnight; what it told whom, if anything."""
        self.now_s = 1000.0 + passed_s
        self.upkeep.look()
        told = {name: cold.take() for name, cold in self.cold.items()}
        return {name: what for name, what in told.items() if what}

    def planner(self, name: str) -> Planner:
        planner = self.planners.get(name)
        assert planner is not None
        return planner

    def ask(self, name: str, passed_s: float, took_s: float = 1.0) -> float:
        self.planner(name).arrived(1000.0 + passed_s)
        self.planner(name).finished(1000.0 + passed_s + took_s, 1000.0, 1000.0)
        return passed_s + took_s


def model(name: str, keys: str = "", more: str = "") -> str:
    return f"  {name}: {{cold: {{command: 'x {{port}}', {keys}}}, {more}}}\n"


HOUR_S = 3600.0


# --- holding --------------------------------------------------------------------------------------


def test_warm_times_hold_one_instance_and_let_it_go():
    world = World(model("m", "warm: [{at: '08:30', for: 2h}]"))
    assert world.at(0.0) == {"m": [("instances", 0)]}
    assert world.at(8.4 * HOUR_S) == {}
    assert world.at(8.5 * HOUR_S) == {"m": [("instances", 1)]}
    assert world.at(10 * HOUR_S) == {}
    assert world.at(10.5 * HOUR_S) == {"m": [("instances", 0)]}
    assert world.at((24 + 8.5) * HOUR_S) == {"m": [("instances", 1)]}


def test_an_always_on_model_is_held_as_large_as_it_was_needed():
    keys = "max_instances: 4, max_concurrency: 8, gpu_hour: 1, speed: {requests: 8}"
    world = World(model("m", keys, "placement: {pin: always_on}"))
    assert world.at(1.0) == {"m": [("instances", 1)]}
    world.planner("m").flowed(1001.0, 1201.0, 20 * 200.0, 0.0, 0.0)
    assert world.at(250.0) == {"m": [("instances", 3)]}
    world.apply(model("m"))  # no price to choose by any more
    assert world.at(251.0) == {"m": [("instances", 0)]}


def test_a_server_that_was_built_anew_is_told_again():
    world = World(model("m", "", "placement: {pin: always_on}"))
    assert world.at(1.0) == {"m": [("instances", 1)]}
    world.cold["m"] = Instances()
    world.apply(model("m", "", "placement: {pin: always_on}"))
    assert world.at(2.0) == {"m": [("instances", 1)]}
    assert world.at(3.0) == {}


# --- placements -----------------------------------------------------------------------------------


def test_a_placement_is_chosen_every_five_minutes_by_the_wall_clock():
    world = World(model("m", "gpu_hour: 1"))
    began_s = []
    for second in range(100, 1600):
        world.at(second + 0.3)
        began_s.append(world.planner("m").periods.now.began_s - 1000.0)
    assert sorted(set(began_s)) == pytest.approx([0.0, 300.0, 600.0, 900.0, 1200.0, 1500.0])


def test_upkeep_looks_again_when_something_is_due():
    world = World(model("m"))
    world.now_s = 1000.0 + 10.0
    assert world.upkeep.look() == LOOK_EVERY_S
    world.now_s = 1000.0 + 299.75
    assert world.upkeep.look() == pytest.approx(0.25)
    assert World("  a: {api: {url: http://h/v1}}").upkeep.look() == LOOK_EVERY_S


def test_a_placement_moves_and_says_so(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "lamplighter.upkeep")
    world = World(model("m", "", "placement: {rule: qps}"))
    world.at(0.0)
    for period in (1, 2, 3):
        began_s = 1000.0 + 300.0 * (period - 1)
        world.planner("m").flowed(began_s + 1.0, began_s + 299.0, 20 * 300.0, 0.0, 0.0)
        told = world.at(300.0 * period)
    assert told == {}
    assert world.planner("m").placement.name == "always_on"
    assert caplog.messages == [
        "model m: on_demand -> always_on: 20 requests/s, over 10",
    ]


def test_what_is_idle_is_told_when_its_model_moves_to_the_api():
    """At a thousandth of what the server costs, and after a stay of ten minutes."""
    world = World(model("m", "gpu_hour: 100, start_time: 60s, idle: never", API.replace("10", "1")))
    passed_s, told = 0.0, []
    for _ in range(4):
        passed_s = world.ask("m", passed_s + 240.0)
        told.append(world.at((passed_s // 300 + 1) * 300.0))
    assert world.planner("m").placement.name == "api"
    assert told[0] == {"m": [("instances", 0)]}
    assert [what for what in told[1:] if what] == [{"m": [("hold", 0.0)]}]


# --- early starts ---------------------------------------------------------------------------------

HABIT = "gpu_hour: 1, start_time: 60s"


def with_a_habit(**more: str) -> tuple[World, float]:
    """A model that is asked every hour; when its last request ended."""
    world = World(model("m", more.get("keys", HABIT), more.get("model", "delay_hour: 50")))
    passed_s = 0.0
    for _ in range(15):
        passed_s = world.ask("m", passed_s + HOUR_S)
    world.at(passed_s)
    return world, passed_s


def test_an_early_start_is_made_once_in_a_gap():
    world, idle_s = with_a_habit()
    assert world.at(idle_s + HOUR_S - 65.0) == {}
    (what, until_s), *others = world.at(idle_s + HOUR_S - 59.0)["m"]
    assert what == "hold"
    assert until_s >= 1000.0 + idle_s + HOUR_S + 30.0
    assert not others
    for later_s in (58.0, 30.0, 0.0, -30.0, -900.0):
        assert world.at(idle_s + HOUR_S - later_s) == {}
    idle_s = world.ask("m", idle_s + HOUR_S)
    assert world.at(idle_s + HOUR_S - 59.0).keys() == {"m"}


def test_an_early_start_is_due_to_the_moment():
    world, idle_s = with_a_habit()
    world.now_s = 1000.0 + idle_s + HOUR_S - 60.4
    assert world.upkeep.look() == pytest.approx(0.4, abs=0.05)


def test_an_early_start_whose_time_is_over_is_not_made():
    world, idle_s = with_a_habit()
    assert world.at(idle_s + 2 * HOUR_S) == {}  # the machine slept


def test_no_early_start_while_somebody_is_served():
    world, idle_s = with_a_habit()
    world.planner("m").arrived(1000.0 + idle_s + HOUR_S / 2)
    assert world.at(idle_s + HOUR_S - 59.0) == {}


@pytest.mark.parametrize(
    "more",
    [
        {"model": "delay_hour: 0"},
        {"keys": f"{HABIT}, idle: never"},
        {"model": "delay_hour: 50, placement: {pin: always_on}"},
    ],
)
def test_no_early_start_where_it_would_serve_nobody(more: dict[str, str]):
    world, idle_s = with_a_habit(**more)
    assert world.at(idle_s + HOUR_S - 59.0) == {}


def test_no_early_start_of_what_is_held_anyway():
    world = World(model("m", f"{HABIT}, warm: [{{at: '10:00', for: 12h}}]", "delay_hour: 50"))
    passed_s = 0.0
    for _ in range(15):
        passed_s = world.ask("m", passed_s + HOUR_S)
    assert world.at(passed_s) == {"m": [("instances", 1)]}
    assert world.at(passed_s + HOUR_S - 59.0) == {}


# --- budgets --------------------------------------------------------------------------------------


def test_at_the_budget_what_is_held_is_let_go_and_what_is_idle_is_told():
    world = World(
        model("m", "gpu_hour: 1", "budget: {usd_per_day: 10}, placement: {pin: always_on}")
    )
    assert world.at(1.0) == {"m": [("instances", 1)]}
    world.spent["m"] = 8.0
    assert world.at(2.0) == {"m": [("hold", 0.0)]}
    assert world.planner("m").allowance.stance == "saving"
    world.spent["m"] = 10.0
    assert world.at(3.0) == {"m": [("hold", 0.0), ("instances", 0)]}
    assert world.planner("m").descent().steps == ((0.0, "off"),)
    assert world.at(4.0) == {}
    world.spent["m"] = 0.0  # midnight
    assert world.at(5.0) == {"m": [("hold", 0.0), ("instances", 1)]}


def test_a_budget_that_is_spent_ends_warm_times_and_early_starts():
    world = World(
        model("m", "gpu_hour: 1, warm: [{at: '00:00', for: 2h}]", "budget: {usd_per_day: 10}")
    )
    assert world.at(1.0) == {"m": [("instances", 1)]}
    world.spent["m"] = 99.0
    assert world.at(2.0) == {"m": [("hold", 0.0), ("instances", 0)]}
    assert world.planner("m").prestart() is None


def test_the_budget_of_all_holds_for_each_and_the_stricter_counts():
    world = World(
        model("a", "gpu_hour: 1", "budget: {usd_per_day: 10}") + model("b", "gpu_hour: 1"),
        "budget: {usd_per_day: 50}",
    )
    world.spent = {None: 40.0, "a": 10.0, "b": 30.0}
    world.at(1.0)
    stances = {name: planner.allowance.stance for name, planner in world.planners.items()}
    assert stances == {"a": "refusing", "b": "saving"}
    assert "model 'a'" in world.planner("a").allowance.reason
    assert "the gateway" in world.planner("b").allowance.reason


def test_a_budget_of_an_api_alone_is_looked_at_too():
    world = World(f"  m: {{{API}, budget: {{usd_per_day: 1}}}}\n")
    world.spent["m"] = 1.5
    world.at(1.0)
    assert world.planner("m").allowance.stance == "refusing"


@given(st.lists(st.sampled_from([0.0, 5.0, 8.0, 9.9, 10.0, 20.0]), max_size=20))
def test_instances_are_told_only_what_is_new(spent: list[float]):
    world = World(
        model("m", "gpu_hour: 1", "budget: {usd_per_day: 10}, placement: {pin: always_on}")
    )
    held, stance = None, "normal"
    for n, spent_usd in enumerate(spent):
        world.spent["m"] = spent_usd
        told = world.at(float(n)).get("m", [])
        now = "refusing" if spent_usd >= 10 else "saving" if spent_usd >= 8 else "normal"
        wanted = 0 if now == "refusing" else 1
        expected = [("hold", 0.0)] if now != stance else []
        expected += [("instances", wanted)] if wanted != held else []
        assert told == expected
        held, stance = wanted, now


# --- reloads and faults ---------------------------------------------------------------------------


def test_a_model_that_left_is_told_nothing_more():
    world = World(model("a") + model("b", "", "placement: {pin: always_on}"))
    assert world.at(1.0) == {"a": [("instances", 0)], "b": [("instances", 1)]}
    world.apply(model("a"))
    assert world.at(2.0) == {}
    world.apply(model("a") + model("b", "", "placement: {pin: always_on}"))
    assert world.at(3.0) == {"b": [("instances", 1)]}


def test_models_without_decisions_are_left_alone():
    world = World("  hot: {hot: {urls: [{url: http://h/v1}]}}\n  api: {api: {url: http://h/v1}}\n")
    assert world.at(1.0) == {}
    assert world.planners.items() == []


def test_one_model_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture):
    world = World(model("a") + model("b", "", "placement: {pin: always_on}"))
    del world.fleet.snapshot.backends["a"]
    assert world.at(1.0) == {"b": [("instances", 1)]}
    assert caplog.messages == ["model a: upkeep failed"]
