"""Models as somebody says they are: what is stated is what an explanation goes by."""

import pytest

from config.load import parse
from router.planner import Planner
from router.stated import STATES, Impossible, Stated, stated_router
from tests.explain.scenes import CONFIG, chat, explained, router


def seen(model: str, state: Stated) -> tuple[str, float | None, str | None]:
    """State and wait of the model's own servers, and who answers."""
    found = explained(chat(model), {model: state})
    one, choice = found.candidates[0], found.choice
    return one.state, one.wait_s, None if choice is None else f"{choice.model} {choice.kind}"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("ready", ("ready", 0.0, "large cold")),
        ("full", ("full", None, "large cold")),
        ("starting", ("starting", 40.0, "large cold")),
        ("asleep", ("asleep", 5.0, "large cold")),
        ("off", ("off", 40.0, "large cold")),
        ("failed", ("failed", None, "large cold")),
    ],
)
def test_a_model_that_is_started_on_demand(
    state: Stated, expected: tuple[str, float | None, str]
) -> None:
    assert seen("large", state) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("ready", ("ready", 0.0, "small hot")),
        ("full", ("full", None, "small hot")),
        ("off", ("down", None, None)),
    ],
)
def test_a_model_that_is_always_on(
    state: Stated, expected: tuple[str, float | None, str | None]
) -> None:
    assert seen("small", state) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [("ready", ("ready", 0.0, "outside api")), ("off", ("down", None, "small hot"))],
)
def test_a_model_that_is_outside(state: Stated, expected: tuple[str, float | None, str]) -> None:
    assert seen("outside", state) == expected


BOTH = """\
version: 1
models:
  both:
    hot: {urls: [{url: "http://127.0.0.1:9/v1", max_concurrency: 3}]}
    cold: {command: "no-such-program --port {port}", start_time: 7s}
    api: {url: "http://127.0.0.1:9/v1"}
"""


@pytest.mark.parametrize(
    ("states", "hot", "cold", "api"),
    [
        ({}, "ready", "off", "ready"),
        ({"both": "ready"}, "ready", "off", "ready"),
        ({"both": "full"}, "full", "off", "ready"),
        ({"both": "starting"}, "down", "starting", "ready"),
        ({"both": "off"}, "down", "off", "ready"),
    ],
)
def test_a_state_is_that_of_a_models_own_servers(
    states: dict[str, Stated], hot: str, cold: str, api: str
) -> None:
    view = stated_router(parse(BOTH, "both.yaml", {}), {}, states, 0.0).fleet.snapshot
    both = view.backends["both"]
    assert both.hot is not None
    assert both.cold is not None
    assert both.api is not None
    assert both.hot.view().healthy == (0 if hot == "down" else 1)
    assert both.hot.view().free == (3 if hot == "ready" else 0)
    assert (both.cold.view().starting_for_s is not None) is (cold == "starting")
    assert both.api.view().healthy == (1 if api == "ready" else 0)


@pytest.mark.parametrize(
    ("model", "state", "why"),
    [
        ("small", "starting", "has no 'cold' part, so it cannot be starting"),
        ("small", "asleep", "has no 'cold' part, so it cannot be asleep"),
        ("outside", "failed", "has no 'cold' part, so it cannot be failed"),
        ("busy", "asleep", "has no cold.sleep, so it cannot be asleep"),
        ("outside", "full", "has only an outside API, which is never full"),
    ],
)
def test_a_state_that_a_model_cannot_be_in_is_said_to_be_impossible(
    model: str, state: Stated, why: str
) -> None:
    with pytest.raises(Impossible, match=f"model '{model}' {why}"):
        router({model: state})


@pytest.mark.parametrize("state", STATES)
def test_nothing_that_is_stated_has_learned_anything(state: Stated) -> None:
    planner = router({"large": state}).planners.get("large")
    assert isinstance(planner, Planner)
    assert (planner.active, planner.overspent_usd, planner.allowance.stance) == (0, 0.0, "normal")


def test_every_model_of_the_file_is_there() -> None:
    assert set(router().fleet.snapshot.backends) == set(CONFIG.models)
