"""Several policies, and the policies of several files, over one trace."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from config.schema import Config
from router.replay.outcome import Outcome
from router.replay.policies import CLAIRVOYANT, Policy, baselines, planned
from router.replay.simulate import Found, Replay, Setting, prepare, sums
from router.replay.traces import Trace


@dataclass(frozen=True)
class Contender:
    """A policy under a configuration. `name` is what the table calls it."""

    name: str
    policy: Policy
    setting: Setting

    @property
    def shares(self) -> bool:
        """Whether what one model spends changes what others do."""
        return self.policy.own and self.setting.config.budget.usd_per_day is not None


@dataclass
class Comparison:
    """What was found, by contender and by model of the trace."""

    by_model: dict[str, dict[str, Found]] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)  # models for which it is impossible

    def totals(self) -> dict[str, Found]:
        """Without those that are impossible for a model: their sum would flatter them."""
        return {n: f for n, f in sums(self.by_model).items() if not self.absent.get(n)}

    def as_json(self) -> dict[str, Any]:
        best = self.totals()[CLAIRVOYANT.name]
        return {
            "policies": {
                name: {
                    **found.outcome.as_json(),
                    **ratios(found.outcome, best.outcome),
                    **({"early_usd": found.early_usd} if name == CLAIRVOYANT.name else {}),
                }
                for name, found in self.totals().items()
            },
            "impossible": self.absent,
            "models": {
                model: {
                    name: found[model].outcome.as_json()
                    for name, found in self.by_model.items()
                    if model in found
                }
                for model in self.by_model[CLAIRVOYANT.name]
            },
        }


def ratios(outcome: Outcome, best: Outcome) -> dict[str, float | None]:
    """Against the clairvoyant: all costs, and those of the gaps alone. None without a cost."""
    return {
        "of_clairvoyant": outcome.total_usd / best.total_usd if best.total_usd else None,
        "gaps_of_clairvoyant": outcome.gap_usd / best.gap_usd if best.gap_usd else None,
    }


def contenders(
    own: Setting, others: Mapping[str, Setting], *, all_baselines: bool
) -> list[Contender]:
    """The file's own policy, those of other files, and what they are measured against."""
    found = [Contender("this file", planned("this file"), own)]
    found += [Contender(name, planned(name), setting) for name, setting in others.items()]
    wanted: Sequence[Policy] = baselines() if all_baselines else (CLAIRVOYANT,)
    return [*found, *(Contender(policy.name, policy, own) for policy in wanted)]


def compare(
    trace: Trace, rivals: Sequence[Contender], progress: Callable[[int, str], None]
) -> Comparison:
    """Model by model, so that memory holds one's requests; together if they share a budget."""
    out = Comparison({rival.name: {} for rival in rivals})
    alone = [rival for rival in rivals if not rival.shares]
    for number, model in enumerate(trace.models):
        progress(number, model)
        for setting, group in _by_setting(alone):
            work = prepare(setting, trace, model)
            replay = Replay(setting, trace)
            for rival in group:
                found = replay.one(work, rival.policy)
                if found is None:
                    out.absent[rival.name] = out.absent.get(rival.name, 0) + 1
                else:
                    out.by_model[rival.name][model] = found
    for setting, group in _by_setting([rival for rival in rivals if rival.shares]):
        works = {model: prepare(setting, trace, model) for model in trace.models}
        for rival in group:
            out.by_model[rival.name] = Replay(setting, trace).together(works, rival.policy)
    return out


def _by_setting(rivals: Sequence[Contender]) -> Iterator[tuple[Setting, list[Contender]]]:
    settings: list[Setting] = []
    for rival in rivals:
        if not any(setting is rival.setting for setting in settings):
            settings.append(rival.setting)
    for setting in settings:
        yield setting, [rival for rival in rivals if rival.setting is setting]


class Unmatched(Exception):
    """Models of the trace that no model of the file stands for; the text says what to do."""


def match(trace: Trace, config: Config, like: str | None, file: str) -> dict[str, str]:
    """For each model of the trace the model of the file that it is treated as."""
    only = next(iter(config.models)) if len(config.models) == 1 else None
    stand_in = config.resolve(like) if like is not None else only
    if like is not None and stand_in is None:
        raise Unmatched(f"--like: {file} has no model {like}, but {', '.join(config.models)}")
    matched: dict[str, str] = {}
    missing: list[str] = []
    for model in trace.models:
        name = config.resolve(model) or stand_in
        if name is None:
            missing.append(model)
        else:
            matched[model] = name
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise Unmatched(
            f"{file} has no model for {len(missing)} of the trace ({shown}): say with --like which"
            f" of its models they are to be treated like ({', '.join(config.models)})"
        )
    return matched
