"""Mistakes that only two keys together tell, each with its place."""

from collections.abc import Mapping

import pytest

from config.load import parse
from config.problems import ConfigError

COLD = "command: 'x {port}'"
API = "api: {url: http://h/v1}"


def mistakes(text: str, env: Mapping[str, str] | None = None) -> list[str]:
    """Without the name of the file."""
    try:
        parse(f"version: 1\n{text}", "f", env or {})
    except ConfigError as error:
        return [str(problem).removeprefix("f:") for problem in error.problems]
    return []


def of_cold(keys: str, top: str = "") -> list[str]:
    return mistakes(f"{top}\nmodels: {{a: {{cold: {{{COLD}, {keys}}}}}}}")


def of_model(keys: str, top: str = "") -> list[str]:
    return mistakes(f"{top}\nmodels: {{a: {{{keys}}}}}")


# --- overflow -----------------------------------------------------------------------------------


def overflow(of_a: str, of_b: str = "") -> list[str]:
    models = (
        f"  a: {{overflow: [{of_a}], aliases: [al], {API}}}\n  b: {{overflow: [{of_b}], {API}}}"
    )
    return mistakes(f"models:\n{models}")


@pytest.mark.parametrize(
    ("of_b", "message"),
    [
        ("c", "4:18: unknown model 'c' in models.b.overflow"),
        ("al", "4:18: unknown model 'al' in models.b.overflow; it is an alias: write 'a'"),
        ("b", "4:7: models.b.overflow names the model itself; take it out"),
        ("b, b", "4:7: models.b.overflow names the model itself; take it out"),
        ("a, a, a", "4:7: models.b.overflow names 'a' more than once; take it out"),
    ],
)
def test_overflow_that_cannot_be_says_so(of_b: str, message: str) -> None:
    assert overflow("b", of_b) == [message]


def test_overflow_may_go_in_a_circle_because_it_is_not_followed() -> None:
    assert overflow("b", "a") == []


# --- placement ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "pins"),
    [
        (API, {"api"}),
        (f"cold: {{{COLD}}}", {"always_on", "on_demand"}),
        ("hot: {urls: [http://h/v1]}", {"always_on"}),
        (f"cold: {{{COLD}}}, {API}", {"always_on", "on_demand", "api"}),
    ],
)
@pytest.mark.parametrize("pin", ["always_on", "on_demand", "api"])
def test_a_pin_needs_what_it_pins_to(model: str, pins: set[str], pin: str) -> None:
    needs = {"always_on": "hot or cold", "on_demand": "cold", "api": "api"}[pin]
    own, default = f"placement: {{pin: {pin}}}, {model}", f"defaults: {{placement: {{pin: {pin}}}}}"
    says = f"{pin} needs {needs}, which models.a does not have; "
    assert of_model(own) == ([] if pin in pins else [f"3:31: models.a.placement.pin: {says}add it"])
    assert of_model(model, default) == (
        [] if pin in pins else [f"2:29: defaults.placement.pin: {says}give it a pin of its own"]
    )


def test_the_pin_of_a_model_wins_over_that_of_the_defaults() -> None:
    default = "defaults: {placement: {pin: on_demand}}"
    assert of_model(f"placement: {{pin: api}}, {API}", default) == []


def test_a_model_without_any_server_is_told_that_alone() -> None:
    assert of_model("placement: {pin: api}") == [
        "3:10: models.a has no server; give it at least one of hot, cold, api"
    ]


CROSSED = "must be at most hot_above_qps"


@pytest.mark.parametrize(
    ("outer", "inner", "message"),
    [
        ("cold_below_qps: 5, hot_above_qps: 5", "", None),
        ("cold_below_qps: 8", "hot_above_qps: 9", None),
        (
            "cold_below_qps: 20",
            "cold_below_qps: 1",
            f"2:40: defaults.placement.cold_below_qps: cold_below_qps, 20, {CROSSED}, 10",
        ),
        (
            "hot_above_qps: 0.5",
            "hot_above_qps: 2",
            f"2:39: defaults.placement.hot_above_qps: cold_below_qps, 1, {CROSSED}, 0.5",
        ),
        (
            "",
            "cold_below_qps: 20",
            f"3:42: models.a.placement.cold_below_qps: cold_below_qps, 20, {CROSSED}, 10",
        ),
        (
            "cold_below_qps: 8",
            "hot_above_qps: 7",
            f"3:41: models.a.placement.hot_above_qps: cold_below_qps, 8, {CROSSED}, 7",
        ),
        (
            "cold_below_qps: x",
            "hot_above_qps: 0.5",
            "2:40: defaults.placement.cold_below_qps: must be a number",
        ),
    ],
)
def test_the_two_rates_of_the_rule_must_not_cross(
    outer: str, inner: str, message: str | None
) -> None:
    found = of_model(f"placement: {{{inner}}}, {API}", f"defaults: {{placement: {{{outer}}}}}")
    assert found == ([message] if message else [])


def test_a_rate_from_the_environment_is_a_number_here_too() -> None:
    text = f"models: {{a: {{placement: {{cold_below_qps: '${{env.LOW}}'}}, {API}}}}}"
    assert mistakes(text, {"LOW": "9"}) == []
    assert len(mistakes(text, {"LOW": "11"})) == 1


@pytest.mark.parametrize("where", ["defaults", "models"])
def test_a_class_and_a_p99_wait_in_one_map_are_one_too_many(where: str) -> None:
    both = "placement: {class: batch, p99_wait: 3s}"
    found = of_model(
        f"{both if where == 'models' else ''}, {API}".lstrip(", "),
        f"defaults: {{{both if where == 'defaults' else ''}}}",
    )
    assert len(found) == 1
    assert found[0].endswith("placement.p99_wait: stands in place of class; take one of them out")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("clas: batch", "unknown key 'clas' in models.a.placement; did you mean 'class'?"),
        ("class_: batch", "unknown key 'class_' in models.a.placement; did you mean 'class'?"),
        ("class_: ", "unknown key 'class_' in models.a.placement; did you mean 'class'?"),
        ("class: slow", "models.a.placement.class: must be interactive or batch"),
        ("every: 10ms", "models.a.placement.every: must be at least 1s"),
        ("hysteresis: 2", "models.a.placement.hysteresis: must be at most 1"),
        ("pin: cold", "models.a.placement.pin: must be always_on, on_demand or api"),
        ("class: , p99_wait: 1s, pin: , rule: , every: ", None),
    ],
)
def test_keys_of_placement_are_checked_by_the_names_of_the_file(
    keys: str, message: str | None
) -> None:
    found = [line.partition(": ")[2] for line in of_model(f"placement: {{{keys}}}, {API}")]
    assert found == ([message] if message else [])


# --- start times, sleep, warm -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{p50: 20s, p90: 10s}", "p90: must be at least p50, which is 20s"),
        ("{p50: 20s, p99: 10s}", "p99: must be at least p50, which is 20s"),
        ("{p50: 1m, p90: 90, p99: 80s}", "p99: must be at least p90, which is 1m30s"),
        ("{p50: 20s, p90: 20s, p99: 20s}", None),
        ("{p50: x, p90: 10s}", "p50: 'x' is not a duration; write a number and a unit, such as"
         " 500ms, 10s, 5m, 2h or 1h30m"),
    ],
)  # fmt: skip
def test_points_of_a_start_time_do_not_fall(written: str, message: str | None) -> None:
    found = [line.partition("start_time.")[2] for line in of_cold(f"start_time: {written}")]
    assert found == ([message] if message else [])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("5 minutes", "models.a.cold.start_time: '5 minutes' is not a duration; write a number and"
         " a unit, such as 500ms, 10s, 5m, 2h or 1h30m"),
        ("0s", "models.a.cold.start_time: must be longer than 0s"),
        ("true", "models.a.cold.start_time: 'True' is not a duration; write a number and a unit,"
         " such as 500ms, 10s, 5m, 2h or 1h30m"),
        ("[1s]", "models.a.cold.start_time: must be a map of keys and values"),
        ("{p90: 1s}", "key 'p50' is missing in models.a.cold.start_time"),
        ("{p50: }", "key 'p50' has no value"),
        ("{p50: 1s, p95: 2s}", "unknown key 'p95' in models.a.cold.start_time; did you mean"
         " 'p99'?"),
    ],
)  # fmt: skip
def test_a_start_time_that_is_none_says_what_to_write(written: str, message: str) -> None:
    found = [line.partition(": ")[2] for line in of_cold(f"start_time: {written}")]
    assert found == [message.replace("'p50' has no", "'models.a.cold.start_time.p50' has no")]


@pytest.mark.parametrize(
    ("deep", "messages"),
    [
        ("share: 0.1, wake: 2s", []),
        ("share: 0.05, wake: 3s", []),
        (
            "share: 0.2, wake: 1s",
            [
                "share: must be at most that of level_1, 0.1: the deeper sleep holds less",
                "wake: must be at least that of level_1, 2s: the deeper sleep has more to read",
            ],
        ),
    ],
)
def test_the_deeper_sleep_is_cheaper_and_slower(deep: str, messages: list[str]) -> None:
    sleep = f"sleep: {{level_1: {{share: 0.1, wake: 2s}}, level_2: {{{deep}}}}}"
    assert [line.partition("level_2.")[2] for line in of_cold(sleep)] == messages


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{at: '08:30'}", "key 'for' is missing in models.a.cold.warm[0]"),
        ("{at: '08:30', for: }", "key 'models.a.cold.warm[0].for' has no value"),
        ("{for: 1h}", "key 'at' is missing in models.a.cold.warm[0]"),
        ("{at: '08:30', for: 8d}", "models.a.cold.warm[0].for: must be at most 7d"),
        ("{at: '08:30', for: 0s}", "models.a.cold.warm[0].for: must be longer than 0s"),
        ("{at: '08:30', fro: 1h, for: 1h}", "unknown key 'fro' in models.a.cold.warm[0]; did you"
         " mean 'for'?"),
        ("{at: '08:30', for_: 1h, for: 1h}", "unknown key 'for_' in models.a.cold.warm[0]; did you"
         " mean 'for'?"),
        ("{at: '08:30', for: 1h, class: 1}", "unknown key 'class' in models.a.cold.warm[0]; known"
         " keys are at, for, tz"),
        ("{at: '08:30', for: 1h, tz: Europe/Berln}", "models.a.cold.warm[0].tz: 'Europe/Berln' is"
         " no time zone; did you mean 'Europe/Berlin'?"),
        ("{at: 8, for: 1h}", "models.a.cold.warm[0].at: '8' is not a day and a time, such as"
         " Mon-Fri 08:30"),
        ("{at: 08:30, for: 7d, tz: }", None),
    ],
)  # fmt: skip
def test_a_warm_time_that_is_none_says_what_to_write(written: str, message: str | None) -> None:
    found = [line.partition(": ")[2] for line in of_cold(f"warm: [{written}]")]
    assert found == ([message] if message else [])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("idle: clampd", "idle: 'clampd' is not a duration; write a number and a unit, such as"
         " 500ms, 10s, 5m, 2h or 1h30m; did you mean 'clamped'?"),
        ("idle: 400d", "idle: a duration must be between 0s and 366d; write never for no limit; or"
         " one of clamped, empirical, ski_rental"),
        ("idle: 0s", "idle: must be longer than 0s"),
        ("lease: 1s", "lease: must be at least 5s"),
        ("jitter: 1.1", "jitter: must be at most 1"),
        ("speed: {requests: 0}", "speed.requests: must be more than 0"),
        ("sleep: {level_1: {share: 0.1, wake: 0s}}",
         "sleep.level_1.wake: must be longer than 0s"),
    ],
)  # fmt: skip
def test_other_keys_of_a_cold_server_have_their_limits(keys: str, message: str) -> None:
    assert [line.partition("models.a.cold.")[2] for line in of_cold(keys)] == [message]


# --- devices ------------------------------------------------------------------------------------

GPU0 = "devices: {gpu0: {memory: 80GiB, host_memory: 32GiB}}"
SLEEPS = "sleep: {level_1: {share: 0.1, wake: 2s}}"


@pytest.mark.parametrize(
    ("keys", "messages"),
    [
        ("device: gpu0, memory: 80GiB", []),
        ("device: gpu0, memory: 80GiB, max_instances: 2, max_concurrency: 1", []),
        (f"device: gpu0, memory: 80GiB, host_memory: 32GiB, {SLEEPS}", []),
        (f"device: gpu0, memory: 32GiB, {SLEEPS}", []),
        ("device: gpu0, memory: 80GiB, host_memory: 33GiB", []),
        (
            "device: gpu, memory: 1GiB",
            ["3:50: models.a.cold.device: unknown device 'gpu'; did you mean 'gpu0'?"],
        ),
        (
            "device: card, memory: 1GiB",
            ["3:50: models.a.cold.device: unknown device 'card'; name it under devices"],
        ),
        (
            "device: gpu0",
            [
                "3:50: models.a.cold.device: needs memory beside it, which is what a running server"
                " takes of the device"
            ],
        ),
        (
            "memory: 1GiB, host_memory: 1GiB",
            [
                "3:50: models.a.cold.memory: counts only on a device; name it under device",
                "3:69: models.a.cold.host_memory: counts only on a device; name it under device",
            ],
        ),
        (
            "device: gpu0, memory: 81GiB",
            [
                "3:64: models.a.cold.memory: running it takes 81GiB, and devices.gpu0.memory is"
                " 80GiB; it would never fit"
            ],
        ),
        (
            f"device: gpu0, memory: 40GiB, {SLEEPS}",
            [
                "3:64: models.a.cold.memory: asleep it takes 40GiB, and devices.gpu0.host_memory is"
                " 32GiB; it would never fit"
            ],
        ),
        (
            f"device: gpu0, memory: 40GiB, host_memory: 33GiB, {SLEEPS}",
            [
                "3:84: models.a.cold.host_memory: asleep it takes 33GiB, and"
                " devices.gpu0.host_memory is 32GiB; it would never fit"
            ],
        ),
        (
            "device: gpu0, memory: 1x",
            [
                "3:64: models.a.cold.memory: '1x' is not a size; write a number and a unit, such as"
                " 64KiB, 32MiB or 1GB, or plain bytes"
            ],
        ),
    ],
)
def test_a_model_must_fit_into_its_device(keys: str, messages: list[str]) -> None:
    assert of_cold(keys, GPU0) == messages


def test_a_device_is_named_in_the_file_and_has_memory() -> None:
    assert of_cold("device: gpu0, memory: 1GiB") == [
        "3:50: models.a.cold.device: unknown device 'gpu0'; name it under devices"
    ]
    assert of_cold("device: gpu0, memory: 1GiB", "devices: {gpu0: }") == [
        "2:17: devices.gpu0: must be a map of keys and values"
    ]
    assert of_cold("device: gpu0, memory: 1GiB", "devices: {gpu0: {}}") == [
        "2:11: key 'memory' is missing in devices.gpu0"
    ]


def test_the_name_of_a_device_from_the_environment_is_not_in_a_message() -> None:
    text = f"models: {{a: {{cold: {{{COLD}, device: '${{env.D}}', memory: 1}}}}}}"
    assert mistakes(text, {"D": "hunter2"}) == [
        "2:50: models.a.cold.device: unknown device '${env.D}'; name it under devices"
    ]


# --- budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "priced"),
    [
        (f"cold: {{{COLD}}}", False),
        (f"cold: {{{COLD}, gpu_hour: 0}}", False),
        (f"cold: {{{COLD}, gpu_hour: 2.5}}", True),
        ("hot: {urls: [http://h/v1, {url: http://i/v1}]}", False),
        ("hot: {urls: [http://h/v1, {url: http://i/v1, gpu_hour: 1}]}", True),
        (API, False),
        ("api: {url: http://h/v1, price: {input: 0}}", False),
        ("api: {url: http://h/v1, price: {output: 0.1}}", True),
        (f"price: {{input: 1}}, {API}", False),
        (f"hot: {{urls: [http://h/v1]}}, cold: {{{COLD}, gpu_hour: 1}}", True),
    ],
)
def test_a_budget_needs_a_price(model: str, priced: bool) -> None:
    needs = "; set cold.gpu_hour, hot.urls[].gpu_hour or api.price"
    own = "3:36: models.a.budget.usd_per_day: counts what has a price, and the model has none"
    top = "2:23: budget.usd_per_day: counts what has a price, and no model has one"
    assert of_model(f"budget: {{usd_per_day: 5}}, {model}") == ([] if priced else [own + needs])
    assert of_model(model, "budget: {usd_per_day: 5}") == ([] if priced else [top + needs])


def test_one_model_with_a_price_is_enough_for_the_budget_of_all() -> None:
    models = f"a: {{{API}}}, b: {{cold: {{{COLD}, gpu_hour: 1}}}}"
    assert mistakes(f"budget: {{usd_per_day: 5}}\nmodels: {{{models}}}") == []


@pytest.mark.parametrize(
    ("gpu_hour", "count"), [("${env.P}", 0), ("${env.ZERO}", 1), ("${env.NONE}", 1)]
)
def test_a_price_from_the_environment_is_a_price(gpu_hour: str, count: int) -> None:
    text = f"budget: {{usd_per_day: 5}}, cold: {{{COLD}, gpu_hour: '{gpu_hour}'}}"
    assert len(mistakes(f"models: {{a: {{{text}}}}}", {"P": "2", "ZERO": "0"})) == count


def test_of_a_price_in_what_cannot_be_read_nothing_is_said() -> None:
    text = "models: {a: {budget: {usd_per_day: 5}, cold: '${env.NONE}'}}"
    assert [line[:32] for line in mistakes(text)] == ["2:46: environment variable NONE "]


@pytest.mark.parametrize("written", ["0", "-1", "x"])
def test_a_budget_is_more_than_nothing(written: str) -> None:
    found = of_model(f"budget: {{usd_per_day: {written}}}, cold: {{{COLD}, gpu_hour: 1}}")
    assert len(found) == 1
    assert "models.a.budget.usd_per_day: must be" in found[0]


def test_empty_maps_are_as_good_as_none() -> None:
    top = "budget: \ndevices: \nstore: \ndefaults: {placement: }"
    cold = f"cold: {{{COLD}, sleep: , start_time: , warm: , speed: , device: , memory: }}"
    assert of_model(f"budget: {{usd_per_day: }}, placement: {{}}, overflow: , {cold}", top) == []
