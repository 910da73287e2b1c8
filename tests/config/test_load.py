from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from config.load import MAX_FILE, load, parse
from config.problems import ConfigError, Problem
from config.schema import Config

MODEL = "models:\n  a:\n    hot: {urls: [http://h/v1]}\n"


def mistakes(text: str, env: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml", env or {})
    return [str(problem) for problem in caught.value.problems]


def test_parse_of_the_least_file_gives_a_config() -> None:
    config = parse(f"version: 1\n{MODEL}", "f.yaml", {})
    assert config.models["a"].hot is not None
    assert config.models["a"].hot.urls[0].url == "http://h/v1"


WRONG = """\
version: 1
sever: {}
defaults: {retries: 11, keepalive: {every: 20s}}
models:
  a:
    aliases: [b, c]
    hot:
      urls: [http://h:8000, {url: "http://u:hunter2@h/v1", wieght: 2}, http://x/v1, http://x/v1/]
    fallback: [b]
  b:
    timeout: 5
    price: {input: -1}
    fallback: [a, lareg]
    cold:
      command: vllm serve {modle}
      idel: 5m
      idle: 5 minutes
      max_instances: 3
      env: {A: true, HF_TOKEN: "x{foo}"}
    api: {}
  c: {}
  large: foo
  e: {api: {url: "${env.URL}", key: "${env.NOPE}"}}
admin:
  key: ${env.ADMIN}
server: {port: 70000, host: [], max_body: 1x}
"""


def test_parse_reports_all_mistakes_at_once_sorted_by_place() -> None:
    assert mistakes(WRONG, {"ADMIN": "hunter2", "URL": "http://hunter2"}) == [
        "f.yaml:2:1: unknown key 'sever'; did you mean 'server'?",
        "f.yaml:3:21: defaults.retries: must be at most 10",
        "f.yaml:3:44: defaults.keepalive.every: must be at most 15s",
        "f.yaml:8:14: models.a.hot.urls[0]: must end in /v1; did you mean http://h:8000/v1?",
        "f.yaml:8:35: models.a.hot.urls[1].url: must not carry a user name or password;"
        " put the secret under key",
        "f.yaml:8:60: unknown key 'wieght' in models.a.hot.urls[1]; did you mean 'weight'?",
        "f.yaml:8:85: models.a.hot.urls[3]: the same URL as on line 8; use weight for more",
        "f.yaml:9:5: fallback goes in a circle: a -> b -> a; take one of them out",
        "f.yaml:10:3: name 'b' is used twice, on line 6 and on line 10; each name and alias may"
        " stand for one model only",
        "f.yaml:11:5: unknown key 'timeout' in models.b; did you mean 'timeouts'?",
        "f.yaml:12:20: models.b.price.input: must be at least 0",
        "f.yaml:13:19: unknown model 'lareg' in models.b.fallback; did you mean 'large'?",
        "f.yaml:15:16: models.b.cold.command: must contain {port}, which becomes the port the"
        " server is to listen on, such as --port {port}",
        "f.yaml:15:16: models.b.cold.command: unknown placeholder {modle}; did you mean {model}?"
        " write {{modle}} for the characters themselves",
        "f.yaml:16:7: unknown key 'idel' in models.b.cold; did you mean 'idle'?",
        "f.yaml:17:13: models.b.cold.idle: '5 minutes' is not a duration; write a number and a"
        " unit, such as 500ms, 10s, 5m, 2h or 1h30m; or one of clamped, empirical, ski_rental",
        "f.yaml:18:7: models.b.cold: max_instances 3 needs max_concurrency, the most requests at"
        " a time to one server: without it nothing says when another one is needed",
        "f.yaml:19:16: models.b.cold.env.A: must be text; put quotes around it",
        "f.yaml:19:32: models.b.cold.env.HF_TOKEN: contains an unknown placeholder in braces;"
        " known are {port}, {model}, {served_as}, {host}, {key}, {python}",
        "f.yaml:20:5: key 'url' is missing in models.b.api",
        "f.yaml:21:3: models.c has no server; give it at least one of hot, cold, api",
        "f.yaml:21:3: name 'c' is used twice, on line 6 and on line 21; each name and alias may"
        " stand for one model only",
        "f.yaml:22:10: models.large: must be a map of keys and values",
        "f.yaml:23:18: models.e.api.url: must have a path",
        "f.yaml:23:37: environment variable NOPE is not set; set it, or give a default:"
        " ${env.NOPE:-default}",
        "f.yaml:25:8: admin.key: must have at least 8 characters",
        "f.yaml:26:16: server.port: must be at most 65535",
        "f.yaml:26:29: server.host: must be text; put quotes around it",
        "f.yaml:26:43: server.max_body: '1x' is not a size; write a number and a unit, such as"
        " 64KiB, 32MiB or 1GB, or plain bytes",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "1:1: the file: must be a map of keys and values"),
        ("words", "1:1: the file: must be a map of keys and values"),
        ("null", "1:1: the file: must be a map of keys and values"),
        (MODEL, "1:1: key 'version' is missing"),
        (f"version: 2\n{MODEL}", "1:10: version: must be 1, the only version there is"),
        (f"version: true\n{MODEL}", "1:10: version: must be 1, the only version there is"),
        ("version: 1", "1:1: key 'models' is missing"),
        ("version: 1\nmodels:", "2:1: key 'models' has no value"),
        ("version: 1\nmodels: {}", "2:9: models: must not be empty"),
        ("version: 1\nmodels: []", "2:9: models: must be a map of keys and values"),
        (
            f"version: 1\n{MODEL}    retries: '2'",
            "5:14: models.a.retries: must be a whole number",
        ),
        (
            f"version: 1\n{MODEL}    stream_usage: yes",
            "5:19: models.a.stream_usage: must be true or false",
        ),
        (
            f"version: 1\n{MODEL}    fallback: b",
            "5:15: models.a.fallback: must be a list",
        ),
        (
            f"version: 1\n{MODEL}    aliases: [x]\n    fallback: [x]",
            "6:16: unknown model 'x' in models.a.fallback; it is an alias: write 'a'",
        ),
        (
            f"version: 1\n{MODEL}    fallback: [a]",
            "5:5: fallback goes in a circle: a -> a; take one of them out",
        ),
        (
            f"version: 1\n{MODEL}    aliases: ['']",
            "5:15: models.a.aliases[0]: must not be empty",
        ),
        (
            f'version: 1\n{MODEL}  "b\\nc": {{api: {{url: http://h/v1}}}}',
            "5:3: models.b\\x0ac, the name: must be at most 200 printable characters",
        ),
        (
            f"version: 1\n{MODEL}    timeouts: {{total: 0s}}",
            "5:23: models.a.timeouts.total: must be longer than 0s",
        ),
        (
            f"version: 1\n{MODEL}    max_wait: never",
            "5:15: models.a.max_wait: never is not possible here; write a duration such as 30s"
            " or 5m",
        ),
        (
            f"version: 1\n{MODEL}    price: {{input: .inf}}",
            "5:20: models.a.price.input: must be at most 1000000000",
        ),
        (
            f"version: 1\n{MODEL}    cold: {{command: [x, '{{port}}'], launcher: docker}}",
            "5:46: models.a.cold.launcher: must be process",
        ),
        (
            f"version: 1\n{MODEL}    qqqqqqq: 1",
            "5:5: unknown key 'qqqqqqq' in models.a; known keys are aliases, api, budget, cold,"
            " delay_hour, fallback, hot, keepalive, max_wait, overflow, placement, price, priority,"
            " queue, retries, served_as, stream_usage, timeouts",
        ),
    ],
)
def test_parse_of_one_mistake_says_it_in_a_plain_sentence(text: str, message: str) -> None:
    assert mistakes(text) == [f"f.yaml:{message}"]


def test_a_cycle_of_three_is_named_whole() -> None:
    body = "".join(
        f"  {a}: {{fallback: [{b}], api: {{url: http://h/v1}}}}\n" for a, b in ("ab", "bc", "ca")
    )
    assert mistakes(f"version: 1\nmodels:\n{body}") == [
        "f.yaml:3:7: fallback goes in a circle: a -> b -> c -> a; take one of them out"
    ]


def test_fallbacks_that_meet_again_are_no_cycle() -> None:
    edges = {"a": "b, c", "b": "d", "c": "d", "d": ""}
    body = "".join(
        f"  {a}: {{fallback: [{b}], api: {{url: http://h/v1}}}}\n" for a, b in edges.items()
    )
    assert len(parse(f"version: 1\nmodels:\n{body}", "f", {}).models) == 4


def test_a_missing_variable_is_the_only_thing_said_of_its_value() -> None:
    text = f"version: 1\n{MODEL}    retries: ${{env.N}}\n  b: {{api: '${{env.N}}'}}"
    assert [line.split(": ")[1][:26] for line in mistakes(text)] == [
        "environment variable N is ",
        "environment variable N is ",
    ]


def test_numbers_from_the_environment_are_numbers_or_text_as_wanted() -> None:
    text = (
        "version: 1\nserver: {port: '${env.PORT}', max_body: '${env.BODY}'}\n"
        "admin:\n  key: ${env.KEY}\n" + MODEL
    )
    config = parse(text, "f", {"PORT": "9000", "BODY": "1MiB", "KEY": "0012345678"})
    assert (config.server.port, config.server.max_body) == (9000, 2**20)
    assert config.admin.key is not None
    assert config.admin.key.get_secret_value() == "0012345678"


def test_a_command_takes_numbers_as_written_and_env_an_empty_value() -> None:
    text = (
        "version: 1\nmodels:\n  a:\n    cold:\n      command: [x, --n, 010, '{port}']\n"
        "      env: {A: 007, B: , C: 1.50}\n"
    )
    cold = parse(text, "f", {}).models["a"].cold
    assert cold is not None
    assert cold.command == ("x", "--n", "010", "{port}")
    assert cold.env == {"A": "007", "B": "", "C": "1.50"}


def test_a_port_in_the_environment_alone_is_enough() -> None:
    text = "version: 1\nmodels: {a: {cold: {command: x, env: {PORT: '{port}'}}}}"
    assert parse(text, "f", {}).models["a"].cold is not None


@pytest.mark.parametrize("where", ["max_wait", "aliases", "served_as", "retries", "fallback"])
def test_a_value_from_the_environment_is_never_in_a_message(where: str) -> None:
    secret = 'sk-it\'s "hunter2" \\ {x} /'
    text = f"version: 1\n{MODEL}    {where}: ['${{env.S}}', '${{env.S}}']\n"
    text += "  b: {api: {url: '${env.S}'}, max_wait: '${env.S}', fallback: ['${env.S}']}\n"
    text += "  c: {cold: {command: '${env.S}', idle: '${env.S}', env: {A: '${env.S}'}}}\n"
    assert "hunter2" not in "\n".join(mistakes(text, {"S": secret}))


def test_the_error_does_not_carry_the_input_along() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"version: 1\nadmin: {{key: hunter2}}\n{MODEL}", "f", {})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_load_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(f"version: 1\n{MODEL}")
    assert list(load(file, {}).models) == ["a"]


def test_load_of_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f":1:1: cannot read the file: {reason}"):
            load(path, {})
    with pytest.raises(ConfigError, match="cannot read the file: not a path"):
        load("a\0b", {})


def test_load_of_a_file_that_is_not_utf8_names_the_place(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes("version: 1\n# é".encode() + b"\xff\n")
    with pytest.raises(ConfigError, match=":2:4: the file is not UTF-8: byte 0xFF; save it as"):
        load(file, {})


def test_load_of_a_huge_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"#" * (MAX_FILE + 1))
    with pytest.raises(ConfigError, match="the file is larger than 8 MiB"):
        load(file, {})


KEYS = sorted(
    {"version", "models", "server", "defaults", "admin", "a", "b", "<<", "urls", "url"}
    | {"hot", "cold", "api", "command", "env", "idle", "queue", "timeouts", "aliases"}
    | {"fallback", "price", "input", "key", "port", "max_body", "max_instances", "keepalive"}
    | {"overflow", "placement", "pin", "class", "p99_wait", "cold_below_qps", "hot_above_qps"}
    | {"budget", "usd_per_day", "gpu_hour", "device", "devices", "memory", "host_memory", "for"}
    | {"start_time", "p50", "p90", "sleep", "level_1", "level_2", "share", "wake", "warm", "at"}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["a", "b", "http://h/v1", "5m", "never", "api", "1GiB", "${env.A}", "${env.", "{port}", "'"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5),
    ),
    max_leaves=25,
)


def outcome(text: str) -> None:
    problems: list[Problem] = []
    try:
        assert isinstance(parse(text, "f", {"A": "x"}), Config)
    except ConfigError as error:
        problems = error.problems or [Problem("f", 0, 0, "no problems in the error")]
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message.isprintable()
        assert "Extra inputs" not in problem.message
        assert "is not valid here" not in problem.message  # what has no sentence of its own


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text(alphabet="ab:-{}[]&*!|>'\"%@`#,? \n\t$.0123"))
def test_any_text_gives_a_config_or_problems(text: str) -> None:
    outcome(text)


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(st.sampled_from(KEYS), TREES, max_size=5),
    st.dictionaries(st.sampled_from(["hot", "cold", "api", *KEYS]), TREES, max_size=5),
)
def test_any_tree_gives_a_config_or_problems(top: object, model: object) -> None:
    outcome(yaml.safe_dump(top, allow_unicode=True))
    outcome(yaml.safe_dump({"version": 1, "models": {"a": model, "b": top}}, allow_unicode=True))
    outcome(yaml.safe_dump({"version": 1, "models": {"a": {"cold": model, "hot": top}}}))
