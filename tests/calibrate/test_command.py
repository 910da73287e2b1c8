"""`lamplighter calibrate` as people call it."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from policies.calibration import decode
from proxy.cli import main
from router.calibrate.files import load
from router.calibrate.labelled import Labelled
from router.labels import Label
from tests.calibrate.world import answers

OWN = """
version: 1
models:
  small: {hot: {urls: ["http://127.0.0.1:1/v1"]}}
  large: {hot: {urls: ["http://127.0.0.1:2/v1"]}}
policies:
  chat:
    first_match:
      - when: {tools: true}
        use: large
      - use: {cascade: [small, large]}
"""
TWO = OWN + "  code: {first_match: [{use: {cascade: [small, large]}}]}\n"
NONE = OWN.replace("{cascade: [small, large]}", "small")
NAMED = OWN.replace("large]}", "large], accept: {max_wrong: 0.07, calibration: ./judge.json}}")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in {"own": OWN, "two": TWO, "none": NONE}.items():
        Path(f"{name}.yaml").write_text(text)
    Path("labels.jsonl").write_bytes(b"\n".join(map(as_line, answers(120, 1))))
    return tmp_path


def as_line(label: Labelled) -> bytes:
    small = {"right": label.small_right, "signals": label.signals, "usd": label.small_usd}
    large = {"right": label.large_right, "usd": label.large_usd}
    return msgspec.json.encode({"small": small, "large": large, "policy": label.policy})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["calibrate", *arguments])


def test_file_is_written_and_described():
    done = run("own.yaml", "--data", "labels.jsonl", "--out", "judge.json")
    assert done.exit_code == 0, done.output
    fitted = decode(Path("judge.json").read_bytes())
    assert (fitted.policy, fitted.small, fitted.large) == ("chat", "small", "large")
    assert fitted.labels == 120
    said = " ".join(done.output.split())
    for words in (
        "labels 120",
        "mean_logprob",
        "AUROC",
        "ECE",
        "recover 90% of the large",
        "escalated",
        "wrongly kept",
        "relative to always asking the large model",
        "written to judge.json",
    ):
        assert words in said


def test_file_that_was_there_is_replaced_and_nothing_is_left_over(folder: Path):
    before = set(folder.iterdir())
    Path("judge.json").write_text("old")
    assert run("own.yaml", "--data", "labels.jsonl", "--out", "judge.json").exit_code == 0
    assert load(Path("judge.json")).labels == 120
    assert set(folder.iterdir()) - before == {folder / "judge.json"}


def test_policy_names_file_and_bound():
    assert run("own.yaml", "--data", "labels.jsonl", "--out", "judge.json").exit_code == 0
    Path("named.yaml").write_text(NAMED)
    done = run("named.yaml", "--data", "labels.jsonl")
    assert done.exit_code == 0, done.output
    assert "max_wrong 0.07, 95% sure" in " ".join(done.output.split())
    other = run("named.yaml", "--data", "labels.jsonl", "--max-wrong", "0.0001")
    assert "no answer is kept" in other.output


def test_one_of_several_policies_must_be_named():
    done = run("two.yaml", "--data", "labels.jsonl", "--out", "judge.json")
    assert done.exit_code == 2
    assert "which one? There are cascades in chat, code" in done.output
    named = run("two.yaml", "--data", "labels.jsonl", "--out", "judge.json", "--policy", "code")
    assert named.exit_code == 0
    assert load(Path("judge.json")).policy == "code"


def test_labels_in_a_store_are_learnt_from():
    with closing(sqlite3.connect("store.sqlite")) as database:
        database.execute(f"CREATE TABLE labels ({', '.join(Label.__struct_fields__)})")
        for number, each in enumerate(answers(90, 2)):
            row = {name: None for name in Label.__struct_fields__} | {
                "time": number,
                "policy": "chat",
                "small": "small",
                "large": "large" if number < 80 else "other",
                "source": "judge",
                "kept": 1,
                "small_right": int(each.small_right),
                "large_right": int(bool(each.large_right)),
                "signals": msgspec.json.encode(each.signals).decode(),
            }
            database.execute(
                f"INSERT INTO labels VALUES ({', '.join('?' * len(row))})", tuple(row.values())
            )
        database.commit()
    done = run("own.yaml", "--store", "store.sqlite", "--out", "judge.json")
    assert done.exit_code == 0, done.output
    assert load(Path("judge.json")).labels == 80
    both = run("own.yaml", "--store", "store.sqlite", "--data", "labels.jsonl", "--out", "j.json")
    assert both.exit_code == 0
    assert load(Path("j.json")).labels == 200


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["own.yaml", "--out", "j.json"], 2, "there is nothing to learn from"),
        (["own.yaml", "--data", "labels.jsonl"], 2, "--out: say which file to write"),
        (["none.yaml", "--data", "labels.jsonl", "--out", "j.json"], 2, "no policy with a cascade"),
        (
            ["own.yaml", "--data", "labels.jsonl", "--out", "j.json", "--policy", "speech"],
            2,
            "there is no cascade in speech, but in chat",
        ),
        (["gone.yaml", "--data", "labels.jsonl", "--out", "j.json"], 1, "gone.yaml:1:1: cannot"),
        (["own.yaml", "--data", "gone.jsonl", "--out", "j.json"], 1, "gone.jsonl: cannot read it"),
        (["own.yaml", "--data", "own.yaml", "--out", "j.json"], 1, "own.yaml: line 2: "),
        (["own.yaml", "--data", "empty.jsonl", "--out", "j.json"], 1, "there are no labels"),
        (["own.yaml", "--data", "few.jsonl", "--out", "j.json"], 1, "10 requests have a label"),
        (["own.yaml", "--store", "gone.sqlite", "--out", "j.json"], 1, "cannot read the labels"),
        (["own.yaml", "--data", "labels.jsonl", "--out", "no/j.json"], 1, "cannot write no/j.json"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(arguments: list[str], code: int, words: str):
    Path("empty.jsonl").write_text("\n")
    Path("few.jsonl").write_bytes(b"\n".join(map(as_line, answers(10, 1))))
    done = run(*arguments)
    assert done.exit_code == code
    assert words in " ".join(done.output.split())
    assert not Path("j.json").exists()


def test_without_the_extra_the_command_names_it(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("router.calibrate")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.split(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = run("own.yaml", "--data", "labels.jsonl", "--out", "j.json")
    assert done.exit_code == 1
    assert "pip install 'lamplighter[calibrate]'" in done.output
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0


def test_gateway_reads_what_was_written():
    assert run("own.yaml", "--data", "labels.jsonl", "--out", "judge.json").exit_code == 0
    Path("named.yaml").write_text(NAMED)
    done = CliRunner().invoke(main, ["check", "named.yaml"])
    assert done.exit_code == 0, done.output
    Path("judge.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(ValueError, match=r"judge.json: this is no calibration"):
        load(Path("judge.json"))
