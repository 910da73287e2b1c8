"""Models that share a budget, replayed in step: each up to the next tick, then all look at it."""

from collections.abc import Callable, Mapping

from policies.budget import ALL_MODELS, Purse
from router.replay.outcome import Outcome
from router.replay.run import Run


def run_together(
    runs: Mapping[str, Run],
    ticks_s: Mapping[str, list[float]],
    usd_per_day: float,
    epoch_s: float,
    warm: Callable[[str, float], bool],
) -> dict[str, Outcome]:
    """`ticks_s` by model, ascending; `epoch_s` is when the trace begins."""
    due: dict[float, list[str]] = {}
    for model, times_s in ticks_s.items():
        for now_s in times_s:
            due.setdefault(now_s, []).append(model)
    for now_s, models in sorted(due.items()):
        for model in models:
            runs[model].until(now_s)
        at_s = epoch_s + now_s
        shared = Purse(ALL_MODELS, usd_per_day, sum(run.today_usd(at_s) for run in runs.values()))
        for model in models:
            runs[model].tick(now_s, at_s, shared, warm=warm(model, at_s))
    for run in runs.values():
        run.finish()
    return {model: run.outcome for model, run in runs.items()}
