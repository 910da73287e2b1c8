"""`lamplighter diff`: requests that another file sends elsewhere, and what that changes."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import astuple

from proxy.cli import main
from router.store import Row, Store
from tests.explain.scenes import PROMPT, TEXT, chat

RULE = "      - use: small\n        priority: low"
NEW = TEXT.replace(RULE, "      - use: outside\n        priority: low").replace(
    "  busy:", "  lazy:"
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(TEXT)
    new.write_text(NEW)
    return old, new


def run(files: tuple[Path, Path], requests: Path, *words: object) -> Result:
    words = (*files, "--requests", requests, *words)
    return CliRunner().invoke(main, ["diff", *map(str, words)])


def figures(files: tuple[Path, Path], requests: Path, *words: object) -> Any:
    result = run(files, requests, "--json", *words)
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.output)


def lines(tmp_path: Path, *items: bytes | dict[str, Any]) -> Path:
    path = tmp_path / "requests.jsonl"
    told = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    path.write_bytes(b"\n".join(told) + b"\n")
    return path


def body(model: str, text: str = PROMPT, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(chat(model, text, **more))
    return found


# --- JSON lines -----------------------------------------------------------------------------------


def test_a_request_that_goes_elsewhere_is_listed_with_the_change(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    found = figures(files, lines(tmp_path, chat("small"), b"", chat("chat", max_tokens=100)))
    (moved,) = found["moved"]
    tokens = round(moved["new"]["usd"] * 1e6 - 100 * 8) / 2
    assert 10 < tokens < 60
    assert moved == {
        "number": 3,  # of its line: the second one is empty
        "asked": "chat",
        "old": {"to": "small (hot)", "rule": "4", "usd": pytest.approx(1e-5), "wait_s": 0.0},
        "new": {
            "to": "outside (api)",
            "rule": "4",
            "usd": pytest.approx((tokens * 2 + 100 * 8) / 1e6),
            "wait_s": 0.0,
        },
        "more_usd": pytest.approx((tokens * 2 + 100 * 8) / 1e6 - 1e-5),
        "longer_s": 0.0,
    }
    assert found["sum"]["moved"]["requests"] == 1
    assert found["sum"]["all"]["requests"] == 2
    assert found["sum"]["all"]["old_usd"] == pytest.approx(2e-5)
    assert found["untold"] == []


def test_the_same_file_sends_nothing_elsewhere(files: tuple[Path, Path], tmp_path: Path) -> None:
    asked = [chat(name) for name in ("chat", "night", "careful", "busy", "large", "outside")]
    result = run((files[0], files[0]), lines(tmp_path, *asked))
    assert result.exit_code == 0
    assert result.output.startswith("0 of 6 requests go elsewhere.\n")


def test_headers_time_and_path_of_a_line_count(files: tuple[Path, Path], tmp_path: Path) -> None:
    team = {"x-team": "red", "x-token": "open-sesame"}
    monday = 1_795_435_200.0  # noon, UTC
    asked = lines(
        tmp_path,
        {"body": body("chat"), "headers": team},  # a split: the same on both sides
        {"body": body("night"), "time": "2026-11-23T22:30Z"},
        {"body": body("night"), "time": monday},
        {"body": {"model": "small", "input": "x"}, "path": "/v1/embeddings"},
    )
    files[1].write_text(TEXT.replace("Mon-Fri 22:00", "Sat 22:00"))
    found = figures(files, asked, "--state", "large=ready")
    assert [(each["number"], each["old"]["to"]) for each in found["moved"]] == [(2, "large (cold)")]
    assert (
        figures(files, asked, "--state", "large=ready", "--at", "2026-11-21T12:00")["moved"] == []
    )


def test_a_model_that_is_gone_is_a_refusal(files: tuple[Path, Path], tmp_path: Path) -> None:
    (moved,) = figures(files, lines(tmp_path, chat("busy")))["moved"]
    assert moved["old"]["to"] == "small (hot)"  # which overflows
    new = moved["new"]
    assert (new["to"], new["usd"], new["wait_s"]) == ("refused: 404 model_not_found", 0.0, None)
    assert moved["longer_s"] is None


def test_a_cascade_is_another_place_than_its_small_model_alone(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    use = "{cascade: [small, large], accept: {right_answer: 0.01}}"
    files[1].write_text(TEXT.replace(use, "small"))
    (moved,) = figures(files, lines(tmp_path, chat("careful")))["moved"]
    assert moved["old"]["to"] == "small (hot), cascade small > large"
    assert moved["new"]["to"] == "small (hot)"


def test_a_state_holds_for_the_file_that_has_the_model(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = lines(tmp_path, chat("large"))
    assert figures(files, asked, "--state", "busy=ready", "--state", "lazy=off")["moved"] == []
    result = run(files, asked, "--state", "lzay=off")
    assert result.exit_code == 2
    assert "has no model 'lzay'" in result.output


def test_tables_for_people_name_each_request_and_the_sums(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    asked = lines(tmp_path, *[chat("chat", max_tokens=100)] * 3, chat("busy"), chat("small"))
    result = run(files, asked)
    assert result.exit_code == 1
    printed = result.output.splitlines()
    assert printed[0].split() == ["REQUEST", "ASKED", "OLD", "NEW", "USD", "WAIT", "S"]
    assert [line.split()[0] for line in printed[1:5]] == ["1", "2", "3", "4"]
    assert "small (hot), rule 4" in printed[1]
    assert "outside (api), rule 4" in printed[1]
    ways = printed[printed.index("") + 1 :]
    assert ways[1].split()[:5] == ["3", "small", "(hot)", "outside", "(api)"]
    assert "4 of 5 requests go elsewhere: +" in result.output
    assert max(map(len, printed)) <= 100


def test_long_names_are_folded_at_100_columns(tmp_path: Path) -> None:
    names = [f"organisation/{'very-' * 12}long-name-{n}" for n in range(2)]
    files = tmp_path / "old.yaml", tmp_path / "new.yaml"
    rule = "{first_match: [{use: %s}]}"
    for file, name in zip(files, names, strict=True):
        models = "".join(f"  {n}: {{api: {{url: http://127.0.0.1:9/v1}}}}\n" for n in names)
        policy = f"policies:\n  {'p' * 70}: {rule % name}\n"
        file.write_text(f"version: 1\nmodels:\n{models}{policy}")
    printed = run(files, lines(tmp_path, chat("p" * 70))).output.splitlines()
    assert max(map(len, printed)) <= 100
    assert "1 of 1 requests go elsewhere" in " ".join(printed)


# --- rows of a store ------------------------------------------------------------------------------


def row(asked: str, **more: Any) -> Row:
    known: dict[str, Any] = {
        "time": 1_795_253_400.0,
        "model": "small",
        "input_tokens": 50,
        "output_tokens": 100,
        "cached_tokens": None,
        "priority": "normal",
        "deadline_s": 240.0,
        "duration_s": 1.0,
        "placement": "hot",
        "cold": False,
        "waited_s": 0.0,
        "first_token_s": None,
        "usd": 0.0,
        "outcome": "ok",
        "answered_by": "small",
        "reasons": "",
        "bytes_in": 200,
        "asked": asked,
    }
    return Row(**{**known, **more})


def stored(tmp_path: Path, *rows: Row) -> Path:
    path = tmp_path / "lamplighter.db"
    store = Store(str(path), 1e9, lambda: None)
    store.open()
    store.rows.extend(rows)
    store.close()
    return path


def test_a_row_is_told_by_what_it_holds(files: tuple[Path, Path], tmp_path: Path) -> None:
    plain = "plain:\n    first_match:\n      - when: {input_tokens: {above: 60}}\n        use: %s\n"
    rest = "      - use: small\n"
    for file, large in zip(files, ("large", "outside"), strict=True):
        file.write_text(f"{TEXT}  {plain % large}{rest}")
    path = stored(tmp_path, row("plain"), row("plain", input_tokens=70), row(""), row("small"))
    found = figures(files, path)
    assert found["sum"]["all"]["requests"] == 3  # the one that nobody asked for is left out
    (moved,) = found["moved"]
    assert (moved["number"], moved["asked"], moved["old"]["to"]) == (2, "plain", "large (cold)")
    assert moved["new"]["usd"] == pytest.approx((70 * 2 + 100 * 8) / 1e6)


@pytest.mark.parametrize(
    ("when", "what"),
    [
        ("{keyword: refund}", "its text"),
        ("{regex: abc}", "its text"),
        ("{language: de}", "its language"),
        ("{header: {x-team: red}}", "its header x-team"),
        ("{key: sha256:" + "5" * 64 + "}", "its key"),
        ("{tools: true}", "its tools"),
        ("{json_schema: true}", "its json_schema"),
        ("{image: true}", "its image"),
        ("{audio: true}", "its audio"),
        ("{output_tokens: {above: 5}}", "its output_tokens"),
        ("{not: {tools: true}}", "its tools"),
        ("{any_of: [{input_tokens: {above: 9000}}, {tools: true}]}", "its tools"),
    ],
)
def test_a_rule_that_asks_for_more_cannot_be_told(
    files: tuple[Path, Path], tmp_path: Path, when: str, what: str
) -> None:
    rules = f"    first_match:\n      - when: {when}\n        use: large\n      - use: small\n"
    for file in files:
        file.write_text(f"{TEXT}  plain:\n{rules}")
    found = figures(files, stored(tmp_path, row("plain")))
    (untold,) = found["untold"]
    assert untold == {
        "number": 1,
        "asked": "plain",
        "why": f"a rule asks for {what}, which no row holds",
    }
    printed = run(files, stored(tmp_path, row("small"))).output
    assert "Of 1 more nobody can tell: a rule asks for" in " ".join(printed.split())


def test_what_fails_before_needs_no_text(files: tuple[Path, Path], tmp_path: Path) -> None:
    when = "{input_tokens: {above: 9000}, tools: true}"
    rules = f"    first_match:\n      - when: {when}\n        use: large\n      - use: small\n"
    for file in files:
        file.write_text(f"{TEXT}  plain:\n{rules}")
    assert figures(files, stored(tmp_path, row("plain")))["untold"] == []


def test_a_row_of_an_older_file_asked_for_its_model(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    path = stored(tmp_path, row("", model="busy"))
    database = sqlite3.connect(path)
    database.execute("ALTER TABLE requests DROP COLUMN asked")
    database.commit()
    database.close()
    assert [each["asked"] for each in figures(files, path)["moved"]] == ["busy"]


def test_tokens_that_no_server_told_are_guessed(files: tuple[Path, Path], tmp_path: Path) -> None:
    untold = row("outside", input_tokens=None, output_tokens=None, bytes_in=400)
    sums = figures(files, stored(tmp_path, untold))["sum"]["all"]
    assert sums["old_usd"] == pytest.approx((100 * 2 + 300 * 8) / 1e6)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{nonsense", "is malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"messages": []}', "the body has no 'model'"),
        (b'{"body": {"model": "small"}, "tme": 5}', "unknown field `tme`"),
        (b'{"body": {"model": "small"}, "time": "noon"}', "'noon' is no time"),
        (b'{"body": {"model": "small"}, "path": "/v1/models"}', "/v1/models is no inference"),
        (b'{"body": {"model": "small"}, "headers": {"x": 1}}', "Expected `str`, got `int`"),
        (b'{"body": []}', "the body must be a JSON object"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(
    files: tuple[Path, Path], tmp_path: Path, line: bytes, message: str
) -> None:
    path = lines(tmp_path, chat("small"), line)
    result = run(files, path)
    assert result.exit_code == 2
    assert f"Error: {path}:2: " in result.output
    assert message in result.output


def test_files_that_cannot_be_used_are_trouble(files: tuple[Path, Path], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    result = run(files, missing)
    assert (result.exit_code, result.output) == (
        2,
        f"Error: {missing}: cannot read it: No such file or directory\n",
    )
    result = run((files[0], missing), lines(tmp_path, chat("small")))
    assert result.exit_code == 2
    assert f"{missing}:1:1: cannot read the file" in result.output
    other = tmp_path / "other.db"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE poems (line)")
    database.commit()
    database.close()
    result = run(files, other)
    assert result.exit_code == 2
    assert f"{other}: not a store of Lamplighter's" in result.output


def test_rows_are_those_of_the_store(tmp_path: Path) -> None:
    """What the reader selects is what the store writes."""
    path = stored(tmp_path, row("chat"))
    database = sqlite3.connect(path)
    assert database.execute("SELECT * FROM requests").fetchall() == [astuple(row("chat"))]
    database.close()
