"""The pure parts of load_tests.engine: records to answers, answers to one table, the command."""

import math
from pathlib import Path
from typing import Any

import pytest

from load_tests.engine.make_tokenizer import save
from load_tests.engine.table import (
    ALONE,
    DISTURBED,
    THROUGH,
    Answers,
    Turn,
    answers,
    between,
    difference,
    note,
    percentile,
    table,
    together,
)
from load_tests.engine.tool import Load, Tool

ASKED = {"one": 3}


def record(
    first_ms: float, gaps_ms: list[float], phase: str = "profiling", **more: Any
) -> dict[str, Any]:
    metrics = {
        "time_to_first_token": {"value": first_ms},
        "inter_chunk_latency": {"value": gaps_ms},
        "output_sequence_length": {"value": 3},
    }
    about = {"benchmark_phase": phase, "conversation_id": "one"}
    return {"metadata": about, "metrics": metrics, **more}


def test_answers_leave_out_what_warmed_up() -> None:
    got = answers([record(900.0, [9.0, 9.0], "warmup"), record(10.0, [1.0, 2.0])], 1, ASKED)
    assert got == Answers([10.0], [1.0, 2.0], tokens=3, errors=0)


@pytest.mark.parametrize(
    "bad",
    [
        record(10.0, [1.0], error={"code": 502}),
        {**record(10.0, [1.0]), "metrics": {}},
        {**record(10.0, [1.0]), "metrics": {"output_sequence_length": {"value": 2}}},
    ],
    ids=["refused", "empty", "short"],
)
def test_answers_that_did_not_come_whole_are_errors(bad: dict[str, Any]) -> None:
    assert answers([record(10.0, [1.0, 2.0]), bad], 2, ASKED).errors == 1


def test_answers_that_never_came_are_errors() -> None:
    assert answers([record(10.0, [1.0, 2.0])], 4, ASKED).errors == 3


def test_together_is_one_pool_and_no_mean_of_means() -> None:
    pooled = together([Answers([1.0], [1.0, 1.0], 3, 0, 1.0), Answers([9.0], [9.0], 2, 1, 4.0)])
    assert pooled == Answers([1.0, 9.0], [1.0, 1.0, 9.0], 5, 1, 5.0)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 1.0), (50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0)]
)
def test_percentile_is_a_value_that_was_seen(percent: float, value: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == value


def test_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 50))


@pytest.mark.parametrize(
    ("alone", "through", "text"),
    [
        (10.0, 10.5, "+0.5 (+5.0%)"),
        (1000.0, 900.0, "-100.0 (-10.0%)"),
        (0.0, 2.0, "+2.0"),
        (math.nan, 2.0, "none"),
    ],
)
def test_difference_is_told_in_both_ways(alone: float, through: float, text: str) -> None:
    assert difference(alone, through, 1) == text


@pytest.mark.parametrize(
    ("rounds", "text"), [([5.0, 7.5, 6.0], "2.5"), ([5.0], ""), ([5.0, math.nan], "")]
)
def test_between_rounds_is_their_range(rounds: list[float], text: str) -> None:
    assert between(rounds, 1) == text


def test_table_sets_the_gateway_beside_the_engine() -> None:
    turns = [
        Turn("llama.cpp", 4, ALONE, Answers([10.0], [2.0, 2.0], 64, 0, 2.0)),
        Turn("llama.cpp", 4, THROUGH, Answers([11.0], [2.5, 2.5], 62, 1, 2.0)),
        Turn("llama.cpp", 4, ALONE, Answers([12.0], [2.0, 3.0], 64, 0, 2.0)),
    ]
    lines = table(turns).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in lines}) == 1
    name = "llama.cpp, 4"
    assert cells[2] == [name, "first token p50 (ms)", "10.0", "11.0", "+1.0 (+10.0%)", "2.0"]
    assert cells[5] == [name, "between tokens p99 (ms)", "3.00", "2.50", "-0.50 (-16.7%)", "1.00"]
    assert cells[6] == [name, "tokens a second", "32.0", "31.0", "-1.0 (-3.1%)", "0.0"]
    assert cells[7] == [name, "errors", "0", "1", "+1", "0"]
    assert len(lines) == 8


def test_table_without_an_answer_says_so() -> None:
    failed = Answers(errors=6, lasted_s=1.0)
    text = table([Turn("vLLM", 1, ALONE, failed), Turn("vLLM", 1, THROUGH, failed)])
    assert "none" in text
    assert "nan" not in text


def test_disturbed_turns_are_left_out() -> None:
    good, bad = Answers([10.0], [2.0], 64, 0, 2.0), Answers([900.0], [90.0], 3, 4, 2.0)
    turns = [Turn("vLLM", 1, ALONE, good), Turn("vLLM", 1, ALONE, bad, DISTURBED + 0.1)]
    both = [*turns, Turn("vLLM", 1, THROUGH, good, 0.1)]
    *told, errors = table(both).splitlines()
    assert told == table([both[0], both[2]]).splitlines()[:-1]
    assert [cell.strip() for cell in errors.split("|")][3:6] == ["4", "0", "-4 (-100.0%)"]
    assert note(both) == (
        "2 turns with 2 answers; 1 more left out, because other programs used over 15% of a core."
    )


def test_side_that_was_always_disturbed_has_no_number() -> None:
    good = Answers([10.0], [2.0], 64, 0, 2.0)
    turns = [Turn("vLLM", 1, ALONE, good, 0.9), Turn("vLLM", 1, THROUGH, good)]
    cells = [cell.strip() for cell in table(turns).splitlines()[2].strip("|").split("|")]
    assert cells[2:] == ["disturbed", "10.0", "", ""]


def test_command_is_the_same_but_for_the_address() -> None:
    tool = Tool(Path("tool"), Path("tool/home/hub"))
    load = Load(4, 8, ("cache_prompt:false",))
    here, there = (
        tool.command(url, "m", load, Path("out")) for url in ("http://a:1", "http://b:2")
    )
    assert [pair for pair in zip(here, there, strict=True) if pair[0] != pair[1]] == [
        ("http://a:1", "http://b:2")
    ]
    assert tool.env["HF_HUB_OFFLINE"] == "1"
    assert tool.env["HF_HOME"] == "tool/home"


def test_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="llama"):
        save(tmp_path, {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"})
