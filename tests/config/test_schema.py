import math

import pytest
from pydantic import ValidationError

from config.load import parse
from config.schema import Cold, Config, Model, Part, Queue, Settings, part_at, secret_text


def config(text: str) -> Config:
    return parse(f"version: 1\n{text}", "f.yaml", {})


COLD = "command: [x, '{port}']"


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
    shown = plain.as_defaults().model_dump(mode="json")
    assert shown.pop("stream_usage") is True
    for name, field in type(plain.as_defaults()).model_fields.items():
        extra = field.json_schema_extra
        if name in shown and isinstance(extra, dict):
            assert extra["default"] == shown[name]
    for name in ("queue", "timeouts", "keepalive"):
        part = part_at(("defaults", name))
        assert part is not None
        for key, leaf in part.model_fields.items():
            assert isinstance(leaf.json_schema_extra, dict)
            assert leaf.json_schema_extra["default"] == shown[name][key]


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
        ("env: {A: 1}", False),
        ("base_path: /v2", False),
        ("ready: {canary: false}", False),
    ],
)
def test_launch_identity_changes_with_what_needs_a_new_server(change: str, same: bool) -> None:
    before = config(f"models: {{a: {{cold: {{{COLD}}}}}}}")
    after = config(f"models: {{a: {{cold: {{{COLD}, {change}}}}}}}")
    assert (before.launch_identity("a") == after.launch_identity("a")) is same
    hash(after.launch_identity("a"))


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
        (("nothing", "x"), None),
    ],
)
def test_part_at_finds_the_map(path: tuple[str, ...], expected: type[Part] | None) -> None:
    assert part_at(path) is expected
