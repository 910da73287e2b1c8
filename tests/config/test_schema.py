import math
from typing import Any

import pytest
from pydantic import ValidationError

from config.load import parse
from config.masked import written_out
from config.schema import Cold, Config, Device, Model, Part, Queue, Settings, part_at, secret_text
from config.settings import Defaults, Placement
from config.sources import Endpoint, Quantiles, Sleep, Warm


def config(text: str) -> Config:
    return parse(f"version: 1\n{text}", "f.yaml", {})


COLD = "command: [x, '{port}']"
DEVICE = "devices: {gpu0: {memory: 80GiB, host_memory: 64GiB}}\n"


def test_settings_merge_leaf_by_leaf_model_first() -> None:
    merged = config(
        "defaults: {retries: 0, timeouts: {connect: 1s, idle: 3s}, stream_usage: false}\n"
        "models:\n"
        "  a: {timeouts: {idle: never}, queue: {bytes: 1MiB}, api: {url: http://h/v1}}\n"
        "  b: {api: {url: http://h/v1}}\n"
    )
    a, b = merged.settings("a"), merged.settings("b")
    assert (a.timeouts.connect, a.timeouts.idle, a.timeouts.first_byte) == (1.0, math.inf, 600.0)
    assert (a.queue.requests, a.queue.bytes) == (1000, 2**20)
    assert (a.retries, a.stream_usage, a.max_wait) == (0, False, 240.0)
    assert (b.timeouts.idle, b.queue.bytes) == (3.0, 2**28)
    assert merged.settings("a") is a


def test_built_in_settings_are_those_the_schema_names() -> None:
    plain = config("models: {a: {api: {url: http://h/v1}}}").settings("a")
    assert plain == Settings()
    shown = written_out(plain).model_dump(mode="json", exclude_none=True)
    assert shown == built_in(Defaults)
    assert shown["placement"]["class"] == "batch"


def built_in(part: type[Part]) -> dict[str, Any]:
    """The defaults that the JSON Schema shows."""
    out: dict[str, Any] = {}
    for key, field in part.keys().items():
        inner = part_at(("defaults", key)) if part is Defaults else None
        extra = field.json_schema_extra
        if inner is not None:
            out[key] = built_in(inner)
        elif isinstance(extra, dict):
            out[key] = extra["default"]
    return out


def test_settings_of_an_alias_are_a_key_error() -> None:
    plain = config("models: {a: {aliases: [b], api: {url: http://h/v1}}}")
    with pytest.raises(KeyError):
        plain.settings("b")


def test_names_are_resolved_with_aliases_and_near_ones_found() -> None:
    plain = config("models: {org/small: {aliases: [mini], api: {url: http://h/v1}}}")
    assert plain.resolve("mini") == plain.resolve("org/small") == "org/small"
    assert plain.resolve("other") is None
    assert plain.near("org/smal") == ["org/small"]
    assert plain.near("minni") == ["mini"]
    assert plain.near("x" * 100_000) == []


def test_names_at_the_servers_default_to_the_name() -> None:
    plain = config(
        "models:\n  a: {api: {url: http://h/v1}}\n  b: {served_as: s, api: {url: http://h/v1}}\n"
        "  c: {served_as: s, api: {url: http://h/v1, model: m}}\n"
    )
    assert [plain.served_as(name) for name in "abc"] == ["a", "s", "s"]
    assert [plain.api_model(name) for name in "abc"] == ["a", "s", "m"]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("idle: 1s", True),
        ("start_within: 1s", True),
        ("stop_within: 1s", True),
        ("max_concurrency: 5", True),
        ("gpu_hour: 5", True),
        ("idle: clamped", True),
        ("jitter: 0", True),
        ("lease: 1h", True),
        ("start_time: 5s", True),
        ("speed: {requests: 1}", True),
        ("warm: [{at: '8:00', for: 1h}]", True),
        ("sleep: {level_1: {share: 0.1, wake: 1s}}", False),
        ("device: gpu0, memory: 1GiB", False),
        ("env: {A: 1}", False),
        ("base_path: /v2", False),
        ("ready: {canary: false}", False),
    ],
)
def test_launch_identity_changes_with_what_needs_a_new_server(change: str, same: bool) -> None:
    before = config(f"{DEVICE}models: {{a: {{cold: {{{COLD}}}}}}}")
    after = config(f"{DEVICE}models: {{a: {{cold: {{{COLD}, {change}}}}}}}")
    assert (before.launch_identity("a") == after.launch_identity("a")) is same
    hash(after.launch_identity("a"))


@pytest.mark.parametrize("key", ["memory: 2GiB", "host_memory: 2GiB"])
def test_launch_identity_stays_when_a_model_takes_more_memory(key: str) -> None:
    same = f"{COLD}, device: gpu0, memory: 1GiB"
    first = config(f"{DEVICE}models: {{a: {{cold: {{{same}, host_memory: 1GiB}}}}}}")
    changed = {"memory": f"{COLD}, device: gpu0, {key}", "host_memory": f"{same}, {key}"}
    then = config(f"{DEVICE}models: {{a: {{cold: {{{changed[key.partition(':')[0]]}}}}}}}")
    assert first.launch_identity("a") == then.launch_identity("a")


def test_launch_identity_stays_when_a_wake_or_the_price_of_waiting_changes() -> None:
    cold = f"{COLD}, sleep: {{level_1: {{share: 0.1, wake: WAKE}}}}"
    text = f"models: {{a: {{delay_hour: 1, cold: {{{cold}}}}}}}"
    first = config(text.replace("WAKE", "1s"))
    then = config(text.replace("WAKE", "2s").replace("hour: 1", "hour: 2"))
    assert first.launch_identity("a") == then.launch_identity("a")


def test_launch_identity_counts_served_as_and_is_none_without_cold() -> None:
    before = config(f"models: {{a: {{cold: {{{COLD}}}}}}}")
    after = config(f"models: {{a: {{served_as: x, cold: {{{COLD}}}}}}}")
    assert before.launch_identity("a") != after.launch_identity("a")
    assert config("models: {a: {api: {url: http://h/v1}}}").launch_identity("a") is None


def test_a_key_without_a_value_is_no_key() -> None:
    plain = config(
        "server:\ndefaults:\nadmin: {key: }\n"
        f"models: {{a: {{queue: , hot: , cold: {{{COLD}, idle: }}}}}}"
    )
    assert plain.server.port == 8080
    assert plain.models["a"].hot is None
    assert plain.models["a"].cold == Cold(command=("x", "{port}"))


def test_secrets_are_not_in_a_repr() -> None:
    plain = config(
        "admin: {key: hunter2hunter2}\nmodels:\n  a:\n"
        "    hot: {urls: [{url: http://h/v1, key: hunter2}]}\n"
        "    api: {url: http://h/v1, key: hunter2}\n"
        "    cold: {command: 'x --api-key hunter2 {port}', env: {HF_TOKEN: hunter2}}\n"
    )
    assert "hunter2" not in repr(plain)
    assert secret_text(plain.admin.key) == "hunter2hunter2"
    assert secret_text(None) is None


def test_a_config_cannot_be_changed() -> None:
    plain = config("models: {a: {api: {url: http://h/v1}}}")
    with pytest.raises(ValidationError, match="frozen"):
        plain.server.port = 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), Config),
        (("models", "x"), Model),
        (("models", "x", "queue"), Queue),
        (("models", "x", "aliases"), None),
        (("models", "x", "placement"), Placement),
        (("models", "x", "hot", "urls", 0), Endpoint),
        (("models", "x", "cold", "start_time"), Quantiles),
        (("models", "x", "cold", "sleep", "level_2"), Sleep),
        (("models", "x", "cold", "warm"), None),
        (("models", "x", "cold", "warm", 0), Warm),
        (("models", "x", "cold", "warm", 0, "for"), None),
        (("devices", "x"), Device),
        (("devices", "x", "memory"), None),
        (("nothing", "x"), None),
    ],
)
def test_part_at_finds_the_map(path: tuple[str, ...], expected: type[Part] | None) -> None:
    assert part_at(path) is expected


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("class: batch", "", ("batch", None)),
        ("p99_wait: 5s", "", ("batch", 5.0)),
        ("p99_wait: 5s", "class: batch", ("batch", None)),
        ("class: batch", "p99_wait: 5s", ("batch", 5.0)),
        ("p99_wait: 5s", "dwell: 1m", ("batch", 5.0)),
        ("class: batch", "class: ", ("batch", None)),
    ],
)
def test_the_class_and_the_p99_wait_of_the_inner_map_hold(
    outer: str, inner: str, expected: tuple[str, float | None]
) -> None:
    merged = config(
        f"defaults: {{placement: {{{outer}}}}}\n"
        f"models: {{a: {{placement: {{{inner}}}, api: {{url: http://h/v1}}}}}}"
    ).settings("a")
    assert (merged.placement.class_, merged.placement.p99_wait) == expected


@pytest.mark.parametrize(
    ("written", "points"),
    [
        ("20s", (20.0, 20.0, 20.0)),
        ("20", (20.0, 20.0, 20.0)),
        ("{p50: 20s}", (20.0, 20.0, 20.0)),
        ("{p50: 20s, p90: 30s}", (20.0, 30.0, 30.0)),
        ("{p50: 20s, p99: 40s, p90: }", (20.0, 20.0, 40.0)),
    ],
)
def test_start_times_are_a_duration_or_three_points(
    written: str, points: tuple[float, float, float]
) -> None:
    cold = config(f"models: {{a: {{cold: {{{COLD}, start_time: {written}}}}}}}").models["a"].cold
    assert cold is not None
    assert cold.start_time is not None
    assert cold.start_time.points == points
