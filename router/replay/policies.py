"""The policies that a replay compares: a file's own, and what everybody else does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec.structs import replace

from policies.rungs import Ladder
from router.economics import Economics
from router.planner import Planner
from router.replay.bounds import best_fixed_s
from router.replay.histogram import Histogram
from router.replay.keepers import Fixed, Keeper, Planned
from router.replay.work import Work

Kind = Literal["keeper", "always_on", "api", "clairvoyant"]


@dataclass(frozen=True)
class Policy:
    """`keeper` makes who decides for one model, from its work and the ladder at true times."""

    name: str
    kind: Kind
    keeper: Callable[[Work, Ladder], Keeper] | None = None
    own: bool = False  # a file's own, with all that it says of a model


def planned(name: str) -> Policy:
    """The file's own."""
    return Policy(name, "keeper", _own, own=True)


def _own(work: Work, rungs: Ladder) -> Keeper:
    return Planned(Planner(work.economics, 0.0))


def _fixed(name: str, idle_s: float) -> Policy:
    return Policy(name, "keeper", lambda work, rungs: Fixed(((idle_s, "off"),)))


def _best_fixed(work: Work, rungs: Ladder) -> Keeper:
    hold = work.economics.hold_usd_s
    return Fixed(((best_fixed_s(work.gaps_s(), rungs[-1].wake_usd, hold), "off"),))


def _by_qps(work: Work, rungs: Ladder) -> Keeper:
    return Planned(Planner(_qps_rule(work.economics), 0.0))


def _qps_rule(facts: Economics) -> Economics:
    """By the rate of requests alone; on demand with the idle time that tools begin with."""
    rules = replace(facts.rules, pin=None, by_qps=True)
    return replace(facts, rules=rules, idle=300.0, jitter=0.0, api_usd=None)


def baselines() -> Sequence[Policy]:
    """Those that need no file; the clairvoyant is last."""
    return (
        Policy("always on", "always_on"),
        Policy("outside API", "api"),
        _fixed("unload at once", 0.0),
        _fixed("TTL 60 s", 60.0),
        _fixed("TTL 300 s", 300.0),
        _fixed("TTL 3600 s", 3600.0),
        Policy("QPS rule", "keeper", _by_qps),
        Policy("hybrid histogram", "keeper", lambda work, rungs: Histogram()),
        Policy("best TTL in hindsight", "keeper", _best_fixed),
        CLAIRVOYANT,
    )


CLAIRVOYANT = Policy("clairvoyant", "clairvoyant")
