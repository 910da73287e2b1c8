"""What cascades over real answers would have done: `python -m load_tests.cascade.confidence`.

Fits on one half of a file of graded answers and applies to the other, all through the product's
own `fit` and `judge`. Reports what is recovered of the large model's lead, at what cost, how well
probabilities hold and how often the risk bound does. `--data` takes any file of that form.
"""

import argparse
import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np

from policies.calibration import Calibration
from policies.cascade import Terms, begin, judge
from policies.signals import Signals
from router.calibrate.fit import fit
from router.calibrate.labelled import Labelled
from router.calibrate.report import calibration_error as ece

DATA = Path(__file__).resolve().parents[3] / "shared/data/cascade_confidence_train.csv.gz"
PAIRS = (
    ("llama3.1-8b", "llama3.1-70b"),
    ("llama3.1-8b", "llama3.1-405b"),
    ("llama3.1-70b", "llama3.1-405b"),
    ("gpt-4o-mini", "gpt-4o"),
)
SETS = ("mmlu", "medmcqa", "triviaqa")
ENOUGH = 0.9  # of the large model's lead


@dataclass(frozen=True)
class Problem:
    """One small and one large model on one set of questions, in the order of the file."""

    name: str
    labels: Sequence[Labelled]


@dataclass(frozen=True)
class Applied:
    """What a calibration did on labels that it was not fitted on."""

    name: str
    lead: float
    recovered: float | None
    enough: bool
    escalated: float
    cost: float  # small + escalated large, relative to always the large model
    cost_skipping: float  # the same where the small model is skipped, as `begin` would
    wrong: float
    right: tuple[tuple[float, bool], ...]  # P(right), and whether it was


def problems(path: Path, sets: Sequence[str]) -> list[Problem]:
    with gzip.open(path, "rb") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
    answers: dict[tuple[str, str], dict[int, Mapping[str, str]]] = defaultdict(dict)
    for row in rows:
        answers[row["dataset"], row["model"]][int(row["query"])] = row
    found = []
    for name in sets:
        for small, large in PAIRS:
            ours, theirs = answers[name, small], answers[name, large]
            both = sorted(ours.keys() & theirs.keys())
            labels = [_labelled(ours[query], theirs[query]) for query in both]
            if labels:
                found.append(Problem(f"{name} {small} > {large}", labels))
    return found


def _labelled(small: Mapping[str, str], large: Mapping[str, str]) -> Labelled:
    known = float(small["conf_logp"]) if small["conf_logp"] else None
    checked = small["signal"].startswith("self_check")
    return Labelled(
        signals=Signals(self_check=known) if checked else Signals(span_mean_logprob=known),
        small_right=small["correct"] == "True",
        large_right=large["correct"] == "True",
        small_usd=float(small["cost_usd"]),
        large_usd=float(large["cost_usd"]),
    )


def halves(problem: Problem, seed: int | None) -> tuple[list[Labelled], list[Labelled]]:
    """At random; without a seed, every second row of the file."""
    order = np.arange(len(problem.labels))
    if seed is None:
        order = np.concatenate([order[::2], order[1::2]])
    else:
        order = np.random.default_rng(seed).permutation(order)
    middle = (len(order) + 1) // 2
    one, other = ([problem.labels[number] for number in part] for part in np.split(order, [middle]))
    return one, other


def apply(
    name: str, calibration: Calibration, labels: Sequence[Labelled], max_wrong: float | None
) -> Applied:
    terms = Terms(max_wrong=max_wrong)
    verdicts = [judge(each.signals, calibration, terms) for each in labels]
    keep = np.array([verdict.keep for verdict in verdicts])
    small = np.array([each.small_right for each in labels], dtype=float)
    large = np.array([bool(each.large_right) for each in labels], dtype=float)
    small_usd = np.array([each.small_usd for each in labels], dtype=float)
    large_usd = np.array([each.large_usd for each in labels], dtype=float)
    lead = large.mean() - small.mean()
    gained = np.where(keep, small, large).mean() - small.mean()
    usual = Terms(small_usd=small_usd.mean(), large_usd=large_usd.mean(), max_wrong=max_wrong)
    skips = begin(None, calibration, usual).model == "large"
    cost = float((small_usd.sum() + large_usd[~keep].sum()) / large_usd.sum())
    return Applied(
        name=name,
        lead=float(lead),
        recovered=float(gained / lead) if lead > 0 else None,
        enough=bool(gained >= (ENOUGH * lead if lead > 0 else lead) - 1e-9),
        escalated=float(1 - keep.mean()),
        cost=cost,
        cost_skipping=1.0 if skips else cost,
        wrong=float((keep * (large > small)).mean()),
        right=tuple(
            (v.p_right, each.small_right) for v, each in zip(verdicts, labels, strict=True)
        ),
    )


def calibration_error(right: Sequence[tuple[float, bool]]) -> float:
    return ece(np.array([p for p, _ in right]), np.array([float(right) for _, right in right]))


def split(found: Sequence[Problem], seed: int | None, max_wrong: float | None) -> list[Applied]:
    done = []
    for problem in found:
        one, other = halves(problem, seed)
        done.append(apply(problem.name, fit(one), other, max_wrong))
    return done


# --- reports ------------------------------------------------------------------------------------


def show_split(title: str, done: Sequence[Applied]) -> None:
    print(f"\n{title}\n")
    print("| questions, models | lead | recovered | escalated | cost | ECE |")
    print("|---|---|---|---|---|---|")
    for each in done:
        recovered = "no lead" if each.recovered is None else f"{each.recovered:.2f}"
        print(
            f"| {each.name} | {each.lead:.3f} | {recovered}{'' if each.enough else ' (!)'}"
            f" | {each.escalated:.0%} | {each.cost:.2f} | {calibration_error(each.right):.3f} |"
        )
    together = [pair for each in done for pair in each.right]
    print(
        f"\n{sum(each.enough for each in done)} of {len(done)} recover {ENOUGH:.0%};"
        f" mean cost {fmean(each.cost for each in done):.3f}"
        f" (small model skipped where `begin` would:"
        f" {fmean(each.cost_skipping for each in done):.3f});"
        f" ECE of all together {calibration_error(together):.3f},"
        f" mean of each {fmean(calibration_error(each.right) for each in done):.3f}"
    )


def show_splits(done: Sequence[Sequence[Applied]]) -> None:
    enough = [sum(each.enough for each in one) for one in done]
    cost = [fmean(each.cost for each in one) for one in done]
    skipping = [fmean(each.cost_skipping for each in one) for one in done]
    ece = [calibration_error([pair for each in one for pair in each.right]) for one in done]
    print(f"\n{len(done)} random splits")
    print(f"recover {ENOUGH:.0%}: median {median(enough):g} of {len(done[0])}, {_range(enough)}")
    counts = ", ".join(f"{n}: {enough.count(n)}" for n in sorted(set(enough), reverse=True))
    print(f"  splits by how many do: {counts}")
    print(f"mean cost: {fmean(cost):.3f}, {_range(cost)}; with skipping {fmean(skipping):.3f}")
    print(f"ECE of all together: {fmean(ece):.3f}, {_range(ece)}")
    for number, first in enumerate(done[0]):
        of = [one[number] for one in done]
        print(
            f"  {first.name}: recovers enough in {fmean(each.enough for each in of):.0%},"
            f" cost {fmean(each.cost for each in of):.2f}"
        )


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def show_bounds(found: Sequence[Problem], promised: Sequence[float], resamples: int) -> None:
    """How often the other half of the labels kept what was promised."""
    held: dict[float, list[list[bool]]] = {share: [] for share in promised}
    kept: dict[float, list[float]] = {share: [] for share in promised}
    for seed in range(resamples):
        pairs = [(problem, *halves(problem, seed)) for problem in found]
        fitted = [(problem.name, fit(one), other) for problem, one, other in pairs]
        for share in promised:
            done = [apply(name, one, other, share) for name, one, other in fitted]
            held[share].append([each.wrong <= share for each in done])
            kept[share].append(fmean(1 - each.escalated for each in done))
    for share in promised:
        by_problem = np.array(held[share]).mean(axis=0)
        worst = int(by_problem.argmin())
        print(
            f"\nmax_wrong {share:g}: held in {by_problem.mean():.1%} of {resamples} resamples of"
            f" each, worst {by_problem[worst]:.1%} ({found[worst].name});"
            f" small model's answer kept in {fmean(kept[share]):.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--splits", type=int, default=50, help="random ones")
    parser.add_argument("--resamples", type=int, default=0, help="of the risk bound; 200 are meant")
    parser.add_argument("--max-wrong", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures")
    given = parser.parse_args()
    found = problems(given.data, given.sets)
    stated = split(found, None, None)
    show_split("Fitted on even rows, applied to odd ones", stated)
    done = [split(found, seed, None) for seed in range(given.splits)]
    if done:
        show_splits(done)
    if given.resamples:
        show_bounds(found, given.max_wrong, given.resamples)
    if given.json is not None:
        figures = {"stated": [asdict(each) for each in stated], "splits": len(done)}
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
