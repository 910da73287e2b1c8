"""The measure of cascades over graded answers, on made-up ones."""

import csv
import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from load_tests.cascade import confidence

COLUMNS = ("dataset", "query", "signal", "model", "correct", "conf_logp", "cost_usd")


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    path = tmp_path / "graded.csv.gz"
    chance = np.random.default_rng(0)
    with gzip.open(path, "wt", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        for query in range(200):
            ease = chance.standard_normal()
            for model, lead, usd in (("gpt-4o-mini", 0.0, 1.0), ("gpt-4o", 2.0, 10.0)):
                right = chance.random() < 1 / (1 + np.exp(-1 - 2 * ease - lead))
                sure = "" if query % 50 == 0 else -float(np.exp(-2 * ease - 1))
                values = ("mmlu", query, "logprob_of_answer_token", model, right, sure, usd)
                rows.writerow(dict(zip(COLUMNS, values, strict=True)))
    return path


def test_halves_are_all_of_the_labels_and_never_the_same(graded: Path):
    (problem,) = confidence.problems(graded, ["mmlu"])
    for seed in (None, 1, 2):
        one, other = confidence.halves(problem, seed)
        assert len(one) == len(other) == 100
        assert set(map(id, one)).isdisjoint(map(id, other))
    even, _ = confidence.halves(problem, None)
    assert even == list(problem.labels[::2])


def test_applied_figures_are_those_of_the_kept_answers(graded: Path):
    (problem,) = confidence.problems(graded, ["mmlu"])
    (done,) = confidence.split([problem], 1, None)
    assert 0 < done.escalated < 1
    assert done.cost == pytest.approx(0.1 + done.escalated)
    assert done.recovered is not None
    assert done.enough == (done.recovered >= 0.9)
    assert done.lead > 0


def test_everything_is_reported(
    graded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    more = ["--splits", "2", "--resamples", "2", "--sets", "mmlu"]
    monkeypatch.setattr(sys, "argv", ["confidence", "--data", str(graded), *more])
    confidence.main()
    said = capsys.readouterr().out
    for words in ("1 of 1 recover 90%", "2 random splits", "max_wrong 0.05: held in", "ECE"):
        assert words in said
