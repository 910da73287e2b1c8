"""How well the cascade's own parts route RouteLLM's two graded files, by cross-validation.

    python -m load_tests.cascade.routellm [--data ../shared/data] [--vectors FILE] [--seeds 5]

MMLU before generation: the gain that neighbours of the prompt predict, P(large right) - P(small
right). GSM8K after generation: the same, with P(small right) from the text of the small answer.
Five folds, all rows in each figure; every fold is fitted on the other four alone. APGR is the area
under PGR(share of calls that go to the large model); CPT(x) the share at which PGR reaches x.
Needs the extra `embeddings`; embedding takes eight minutes of one core, once with --vectors.
"""

import argparse
import asyncio
import csv
import gzip
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from policies.reply import Reply
from policies.signals import Signals, signals
from router.calibrate.fit import fit
from router.calibrate.labelled import Labelled
from router.embedder import Embedder, embedder
from router.neighbours import Neighbours, Vector

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Gain = Callable[[Rows, Rows], Floats]  # of the second rows, fitted on the first

FOLDS = 5
BUDGETS = {"MMLU": 0.636, "GSM8K": 0.667}  # kNN-100; text features and the embedding of the answer


class Graded(NamedTuple):
    prompts: list[str]
    answers: list[str]  # the small model's; empty where none are known
    small: Floats
    large: Floats


def mmlu(folder: Path) -> Graded:
    with gzip.open(folder / "routellm_mmlu.csv.gz", "rt", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["contaminated"] == "0"]
    right = [
        [float(row[k]) for row in rows] for k in ("weak_mixtral_correct", "strong_gpt4_correct")
    ]
    return Graded([row["prompt"] for row in rows], [], *(np.array(column) for column in right))


def gsm8k(folder: Path) -> Graded:
    with gzip.open(folder / "routellm_gsm8k.jsonl.gz", "rt") as file:
        rows = [row for row in map(json.loads, file) if not row["contaminated"]]
    right = [[float(row[k]) for row in rows] for k in ("weak_correct", "strong_correct")]
    prompts, answers = ([row[k] for row in rows] for k in ("prompt", "weak_response"))
    return Graded(prompts, answers, *(np.array(column) for column in right))


# --- the measure --------------------------------------------------------------------------------


class Routed(NamedTuple):
    apgr: float
    cpt50: float
    cpt80: float


def routed(gain: Floats, graded: Graded) -> Routed:
    """What comes of sending those with the largest predicted gain to the large model first."""
    order = np.argsort(-gain, kind="stable")
    won = np.concatenate([[0.0], np.cumsum((graded.large - graded.small)[order])])
    recovered = won / won[-1]
    shares = np.linspace(0, 1, len(won))
    reached = [float(shares[np.argmax(recovered >= part)]) for part in (0.5, 0.8)]
    return Routed(float(np.trapezoid(recovered, shares)), *reached)


def cross_validated(gain: Gain, graded: Graded, seed: int) -> Routed:
    order = np.random.default_rng(seed).permutation(len(graded.small))
    found = np.zeros(len(order))
    for fold in range(FOLDS):
        found[order[fold::FOLDS]] = gain(np.delete(order, np.s_[fold::FOLDS]), order[fold::FOLDS])
    return routed(found, graded)


# --- what is measured ---------------------------------------------------------------------------


class Use(NamedTuple):
    """Whether neighbours of the prompt tell of the small model, and of the large one."""

    small: bool = False
    large: bool = False


def known(embedder: Embedder, vectors: Vector, graded: Graded, rows: Rows) -> Neighbours:
    outcomes = np.array([graded.small, graded.large, 1 - graded.small], dtype=np.float32).T
    return Neighbours(embedder.name, vectors[rows], outcomes[rows])


def before(embedder: Embedder, vectors: Vector, graded: Graded) -> Gain:
    def gain(train: Rows, test: Rows) -> Floats:
        neighbours = known(embedder, vectors, graded, train)
        found = [neighbours.estimate(vectors[row]) for row in test]
        return np.array([estimate.large_right - estimate.small_right for estimate in found])

    return gain


def after(embedder: Embedder, vectors: Vector, graded: Graded, use: Use) -> Gain:
    texts = [
        signals(Reply(answer), prompt=prompt)
        for prompt, answer in zip(graded.prompts, graded.answers, strict=True)
    ]

    def gain(train: Rows, test: Rows) -> Floats:
        neighbours = known(embedder, vectors, graded, train)
        near = dict(zip(train, neighbours.left_out(), strict=True))
        near.update({row: neighbours.estimate(vectors[row]) for row in test})

        def seen(row: int) -> Signals:
            return replace(texts[row], neighbours=near[row].small_right if use.small else None)

        labels = [
            Labelled(seen(row), bool(graded.small[row]), bool(graded.large[row])) for row in train
        ]
        calibration = fit(labels)
        small = np.array([calibration.probability(seen(row)) for row in test])
        return np.array([near[row].large_right if use.large else 1.0 for row in test]) - small

    return gain


# --- the report ---------------------------------------------------------------------------------


def report(name: str, graded: Graded, gain: Gain, seeds: int) -> float:
    found = [cross_validated(gain, graded, seed) for seed in range(seeds)]
    means = [statistics.fmean(values) for values in zip(*found, strict=True)]
    spread = [min(f.apgr for f in found), max(f.apgr for f in found)]
    print(
        f"{name:44} {means[0]:.3f}  {spread[0]:.3f} to {spread[1]:.3f}"
        f"  {means[1]:6.1%} {means[2]:6.1%}",
        flush=True,
    )
    return means[0]


async def embedded(embedder: Embedder, graded: dict[str, Graded]) -> dict[str, Vector]:
    return {name: await embedder.embed(each.prompts) for name, each in graded.items()}


def vectors_of(
    embedder: Embedder, graded: dict[str, Graded], kept: Path | None
) -> dict[str, Vector]:
    if kept is not None and kept.exists():
        with np.load(kept) as stored:
            return {name: stored[name] for name in graded}
    found = asyncio.run(embedded(embedder, graded))
    if kept is not None:
        np.savez(kept, **found)
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, default=Path("../shared/data"))
    options.add_argument("--vectors", type=Path, help="npz in which the prompts' vectors are kept")
    options.add_argument("--seeds", type=int, default=5, help="how often the folds are drawn anew")
    given = options.parse_args()
    made_by = embedder()
    if made_by is None:
        raise SystemExit("pip install 'lamplighter[embeddings]'")
    graded = {"MMLU": mmlu(given.data), "GSM8K": gsm8k(given.data)}
    vectors = vectors_of(made_by, graded, given.vectors)
    print(f"{'':44} APGR   over seeds       CPT50  CPT80")
    short = [
        f"{name} {reached:.3f} is not above {BUDGETS[name]}"
        for name, reached in (
            ("MMLU", of_mmlu(made_by, vectors["MMLU"], graded["MMLU"], given.seeds)),
            ("GSM8K", of_gsm8k(made_by, vectors["GSM8K"], graded["GSM8K"], given.seeds)),
        )
        if reached <= BUDGETS[name]
    ]
    if short:
        raise SystemExit("; ".join(short))


def of_mmlu(embedder: Embedder, vectors: Vector, whole: Graded, seeds: int) -> float:
    name = f"MMLU, neighbours of the prompt ({len(whole.small)})"
    found = report(name, whole, before(embedder, vectors, whole), seeds)
    for seed in range(seeds):
        rows = np.random.default_rng(1000 + seed).permutation(len(whole.small))[:6000]
        part = Graded([], [], whole.small[rows], whole.large[rows])
        report(f"  of 6000 alone, draw {seed}", part, before(embedder, vectors[rows], part), 1)
    return found


def of_gsm8k(embedder: Embedder, vectors: Vector, whole: Graded, seeds: int) -> float:
    report("GSM8K, neighbours of the prompt", whole, before(embedder, vectors, whole), seeds)
    for name, use in (
        ("GSM8K, text of the answer", Use()),
        ("  and neighbours, of the small model", Use(small=True)),
    ):
        report(name, whole, after(embedder, vectors, whole, use), seeds)
    both = after(embedder, vectors, whole, Use(small=True, large=True))
    return report("  and of the large one", whole, both, seeds)


if __name__ == "__main__":
    main()
