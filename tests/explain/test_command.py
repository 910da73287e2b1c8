"""`lamplighter explain` at the command line: what it prints, and what it says of mistakes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from tests.explain.scenes import TEXT, as_json, chat, explained

AT = ("--at", "2026-11-21T09:30Z")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def body(tmp_path: Path) -> Path:
    path = tmp_path / "body.json"
    path.write_bytes(chat("chat", max_tokens=20))
    return path


def run(*words: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, words)], input=stdin)


def test_json_is_the_object(file: Path, body: Path) -> None:
    result = run(file, "--request", body, *AT, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == as_json(explained(body.read_bytes()))


def test_a_body_may_come_from_stdin(file: Path, body: Path) -> None:
    words = (*AT, "--json", "--header", "x-team: red", "--header", "x-token: open-sesame")
    result = run(file, "--request", "-", *words, stdin=body.read_bytes())
    more = {"x_team": "red", "x_token": "open-sesame"}
    assert json.loads(result.output) == as_json(explained(body.read_bytes(), **more))


def test_states_and_path_are_taken(file: Path, tmp_path: Path) -> None:
    body = tmp_path / "prompt.json"
    body.write_text(json.dumps({"model": "night", "prompt": "once upon a time"}))
    words = ("--state", "big=ready", "--at", "2026-11-23T22:30", "--json")
    found = json.loads(run(file, "--request", body, *words).output)
    assert (found["request"]["path"], found["request"]["dialect"]) == (
        "/v1/completions",
        "completions",
    )
    assert (found["at"], found["choice"]["model"]) == ("2026-11-23T22:30:00Z", "large")
    rerank = json.loads(run(file, "--request", body, "--path", "/v1/rerank", "--json").output)
    assert (rerank["request"]["path"], rerank["request"]["dialect"]) == ("/v1/rerank", "other")


TABLES = """\
chat: a policy, asked at /v1/chat/completions, 108 bytes, 2026-11-21T09:30:00Z

RULE  LINE  MATCHED  WHY
long    28  no       input_tokens is {tokens} (estimate), not above 1000
2       32  no       the text has none of the keywords
team    34  no       there is no header x-team
4       37  yes      it has no condition
"""


def test_tables_say_the_same_for_people(file: Path, body: Path) -> None:
    result = run(file, "--request", body, *AT)
    assert result.exit_code == 0
    tokens = explained(body.read_bytes()).candidates[0].input_tokens
    assert result.output.startswith(TABLES.format(tokens=tokens))
    assert ">   37 |       - use: small\n" in result.output
    assert result.output.endswith("\nsmall answers (hot) at once; 1e-05 USD\n")


@pytest.mark.parametrize("model", ["chat", "careful", "night", "busy", "outside", "large"])
@pytest.mark.parametrize("word", ["refund", "word " * 2000])
def test_no_line_is_longer_than_100_columns(
    file: Path, tmp_path: Path, model: str, word: str
) -> None:
    body = tmp_path / "long.json"
    body.write_bytes(chat(model, word))
    result = run(file, "--request", body, "--state", "large=off", "--state", "small=full")
    assert result.exit_code == 0
    own = [line for line in result.output.splitlines() if " | " not in line]  # not of the file
    assert max(map(len, own)) <= 100


@pytest.mark.parametrize("long", ["m" * 60, "org/" + "name-" * 12])
def test_a_long_name_is_folded_and_nothing_is_lost(tmp_path: Path, long: str) -> None:
    file, body = tmp_path / "long.yaml", tmp_path / "body.json"
    api = "api: {url: http://127.0.0.1:9/v1}"
    file.write_text(f"version: 1\nmodels:\n  {long}: {{{api}}}\n")
    body.write_bytes(chat(long))
    result = run(file, "--request", body)
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 100
    head = next(line for line in lines if line.startswith("CANDIDATE"))
    below = lines[lines.index(head) + 1 :]
    column = [line[: head.index("AS")].strip() for line in below[: below.index("")]]
    assert "".join(column) == long


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--state", "large"), "'large': write MODEL=STATE, one of ready, full, starting, asleep"),
        (("--state", "large=hot"), "'large=hot': write MODEL=STATE"),
        (("--state", "lrage=off"), "has no model 'lrage'; did you mean 'large'?"),
        (("--state", "chat=off"), "has no model 'chat'"),
        (("--state", "small=asleep"), "model 'small' has no 'cold' part, so it cannot be asleep"),
        (("--at", "tomorrow"), "'tomorrow' is no time: write it as 2026-11-21T09:30"),
        (("--at", "2026-13-01"), "is no time"),
        (("--header", "x-team"), "'x-team' is no header: write 'name: value'"),
    ],
)
def test_a_wrong_option_is_said_to_be_so(
    file: Path, body: Path, words: tuple[str, ...], message: str
) -> None:
    result = run(file, "--request", body, *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is not valid JSON"),
        (b"{nonsense", "the body is not valid JSON"),
        (b"[]", "the body must be a JSON object"),
        (b'{"messages": []}', "the body has no 'model'"),
        (b'{"model": "lrage"}', "model 'lrage' does not exist; did you mean 'large'?"),
        (b'{"model": 7}', "'model' must be a string"),
    ],
)
def test_a_wrong_body_is_said_to_be_so(
    file: Path, tmp_path: Path, raw: bytes, message: str
) -> None:
    path = tmp_path / "wrong.json"
    path.write_bytes(raw)
    result = run(file, "--request", path)
    assert result.exit_code == 1
    assert f"Error: {path}: {message}" in result.output


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/models", "/v1/models is no inference"),
        ("/admin/models", "/admin/models is no inference"),
        ("/v1/sleep", "/v1/sleep steers a model server"),
        ("/chat/completions", "did you mean /v1/chat/completions?"),
        ("/v1/responses/abc/cancel", "only a call that names a model is explained"),
        ("/nowhere", "there is no /nowhere"),
        ("no path", "the target of the request is no URL"),
    ],
)
def test_a_path_that_answers_nothing_is_said_to_be_so(
    file: Path, body: Path, path: str, message: str
) -> None:
    result = run(file, "--request", body, "--path", path)
    assert result.exit_code == 1
    assert message in result.output


def test_a_file_that_is_not_there_is_said_to_be_so(tmp_path: Path, body: Path) -> None:
    missing = tmp_path / "missing.yaml"
    result = run(missing, "--request", body)
    assert result.exit_code == 1
    assert f"{missing}:1:1: cannot read the file: No such file or directory" in result.output


def test_a_request_that_is_not_there_is_said_to_be_so(file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    result = run(file, "--request", missing)
    assert result.exit_code == 1
    assert f"Error: {missing}: cannot read it: No such file or directory" in result.output


def test_a_file_with_mistakes_tells_all_of_them(tmp_path: Path, body: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("version: 1\nmodels:\n  a: {cold: {comand: x}}\n  b: {}\n")
    result = run(file, "--request", body)
    assert result.exit_code == 1
    assert f"{file}:3:" in result.output
    assert f"{file}:4:" in result.output
