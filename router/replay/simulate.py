"""Every model of a trace under every policy, and the sums of it.

Models without a common budget are replayed one after the other, so that memory holds one at a
time. Devices are not simulated: a model of one is replayed as if it had it to itself.
"""

import dataclasses
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from config.schema import Config
from policies.keep_alive import floor_s
from policies.rungs import Ladder, RungName
from router.economics import Economics, economics
from router.replay.bounds import clairvoyant, clairvoyant_early_usd, ladder_of
from router.replay.outcome import HOUR_S, Outcome, total
from router.replay.policies import Policy
from router.replay.requests import Requests
from router.replay.run import Placed, Run
from router.replay.server import Draw, Happened
from router.replay.starts import drawing
from router.replay.together import run_together
from router.replay.traces import Trace
from router.replay.work import Work, to_tick_s, work_of

SHORTEST_FLOOR_S = 1.0
MINUTE_S = 60.0


@dataclass(frozen=True)
class Setting:
    """One configuration, and what of it the trace's models are taken for.

    `deadline_s` is how long a caller of the trace waits who does not say.
    """

    config: Config
    like: Mapping[str, str]  # by model of the trace: the model of the file
    seed: int = 0
    deadline_s: float = math.inf
    measured_s: Mapping[str, Sequence[float]] = field(default_factory=dict)  # starts, by model

    def facts(self, model: str) -> Economics:
        return replace(economics(self.config, self.like[model]), model=model)

    def warm(self, model: str, epoch_s: float) -> bool:
        cold = self.config.models[self.like[model]].cold
        return cold is not None and cold.is_warm_at(epoch_s)

    def held_s(self, model: str) -> float:
        return min(self.deadline_s, self.config.settings(self.like[model]).max_wait)

    def tick_s(self, model: str) -> float:
        """How often something may happen without a request; warm times and budgets by minutes."""
        facts = self.facts(model)
        cold = self.config.models[self.like[model]].cold
        limited = facts.usd_per_day or self.config.budget.usd_per_day
        if limited or (cold is not None and cold.warm):
            return min(facts.place_every_s, MINUTE_S)
        return facts.place_every_s


@dataclass
class Found:
    """What came of one model under one policy; `early_usd` only of the clairvoyant."""

    outcome: Outcome
    early_usd: float = 0.0


def prepare(setting: Setting, trace: Trace, model: str) -> Work:
    """The model's work."""
    facts = setting.facts(model)
    rise_s = drawing(facts, setting.measured_s.get(model, ()), "")[1]
    rungs = ladder_of(facts, rise_s)
    requests = trace.requests(model, max(floor_s(rungs), SHORTEST_FLOOR_S))
    if not requests.tells_tokens:
        requests, facts = _guessed(requests, facts)
    settings = setting.config.settings(setting.like[model])
    return work_of(
        requests,
        facts,
        trace.end_s(model),
        setting.held_s(model),
        setting.tick_s(model),
        settings.priority,
        trace.epoch_s,
    )


def _guessed(requests: Requests, facts: Economics) -> tuple[Requests, Economics]:
    """Tokens that no trace tells: from durations, or else an outside API has no price."""
    if requests.durations_s is None:
        return requests, replace(facts, api_usd=None)
    outputs = array("d", (took_s * facts.output_tokens_s for took_s in requests.durations_s))
    return dataclasses.replace(requests, outputs=outputs), facts


class Replay:
    """All of it for one configuration."""

    def __init__(self, setting: Setting, trace: Trace) -> None:
        self.setting = setting
        self.trace = trace

    def one(self, work: Work, policy: Policy) -> Found | None:
        """None when the policy is impossible for it: an outside API that has no price."""
        match policy.kind:
            case "always_on":
                return Found(always_on(work))
            case "api":
                return Found(all_api(work)) if work.economics.api_usd is not None else None
            case "clairvoyant":
                rungs = self._rungs(work)
                return Found(clairvoyant(work, rungs), clairvoyant_early_usd(work, rungs))
            case "keeper":
                settled = self._settled(work) if policy.own else None
                return Found(settled or self.run(self.begin(work, policy)))

    def _settled(self, work: Work) -> Outcome | None:
        """Of a model for which nothing is decided: always-on servers, or an outside API alone."""
        configured = self.setting.config.models[self.setting.like[work.economics.model]]
        if configured.hot is not None:
            return pool(work, sum(endpoint.gpu_hour for endpoint in configured.hot.urls))
        return all_api(work) if configured.cold is None else None

    def together(self, works: Mapping[str, Work], policy: Policy) -> dict[str, Found]:
        """All models under a policy that looks at the budget of all of them."""
        found: dict[str, Found] = {}
        runs: dict[str, Run] = {}
        for model, work in works.items():
            settled = self._settled(work) if policy.own else None
            if settled is not None:
                found[model] = Found(settled)
            else:
                runs[model] = self.begin(work, policy)
        limit_usd = self.setting.config.budget.usd_per_day
        assert limit_usd is not None
        ticks_s = {model: list(self._ticks(run.work)) for model, run in runs.items()}
        outcomes = run_together(runs, ticks_s, limit_usd, self.trace.epoch_s, self.setting.warm)
        return found | {model: Found(outcome) for model, outcome in outcomes.items()}

    def begin(
        self,
        work: Work,
        policy: Policy,
        happened: Happened | None = None,
        placed: Placed | None = None,
        draw_s: Draw | None = None,
    ) -> Run:
        """One model under a policy that decides; `draw_s` in place of what the setting draws."""
        assert policy.keeper is not None
        keeper = policy.keeper(work, self._rungs(work))
        return Run(work, keeper, draw_s or self._drawing(work)[0], happened, placed)

    def run(self, begun: Run) -> Outcome:
        """To the end of the trace."""
        model = begun.work.economics.model
        if begun.planned is not None:  # others do nothing without a request
            for now_s in self._ticks(begun.work):
                begun.until(now_s)
                epoch_s = self.trace.epoch_s + now_s
                begun.tick(now_s, epoch_s, None, warm=self.setting.warm(model, epoch_s))
        begun.finish()
        return begun.outcome

    def _drawing(self, work: Work) -> tuple[Draw, Mapping[RungName, float]]:
        model = work.economics.model
        measured_s = self.setting.measured_s.get(model, ())
        return drawing(work.economics, measured_s, f"{self.setting.seed}/{model}/starts")

    def _rungs(self, work: Work) -> Ladder:
        return ladder_of(work.economics, self._drawing(work)[1])

    def _ticks(self, work: Work) -> Iterator[float]:
        every_s = self.setting.tick_s(work.economics.model)
        return ticks(every_s, work.end_s, self.trace.epoch_s)


def ticks(every_s: float, end_s: float, epoch_s: float) -> Iterator[float]:
    """From the beginning, which is at `epoch_s`: the multiples of `every_s` by the wall clock."""
    now_s = to_tick_s(0.0, every_s, epoch_s)
    while now_s < end_s:
        yield now_s
        now_s += every_s


def always_on(work: Work) -> Outcome:
    """As many servers as its busiest minute needs, from the first request's day to the last's."""
    hold = work.economics.hold_usd_s
    out = Outcome(requests=work.total, gaps=max(len(work.begins_s) - 1, 0))
    out.serving_usd = work.busy_s * hold
    out.holding_usd = work.peak * work.end_s * hold - out.serving_usd
    out.warm_idle_h = (work.end_s - work.busy_s) / HOUR_S
    out.missed = work.unserved
    return out


def pool(work: Work, gpu_hour: float) -> Outcome:
    """Always-on servers that are taken to carry everything; `gpu_hour` is that of all of them."""
    out = Outcome(requests=work.total, gaps=max(len(work.begins_s) - 1, 0))
    out.holding_usd = gpu_hour * work.end_s / HOUR_S
    return out


def all_api(work: Work) -> Outcome:
    out = Outcome(requests=work.total, gaps=max(len(work.begins_s) - 1, 0))
    out.api_usd = work.api_usd
    out.overflowed = work.total
    return out


def sums(found: Mapping[str, Mapping[str, Found]]) -> dict[str, Found]:
    """By policy, from what was found by policy and model."""
    return {
        policy: Found(
            total(f.outcome for f in by_model.values()), sum(f.early_usd for f in by_model.values())
        )
        for policy, by_model in found.items()
    }
