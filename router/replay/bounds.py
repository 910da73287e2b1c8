"""What cannot be undercut, and what only hindsight could choose: over the gaps of one model.

The clairvoyant knows when the next request comes and picks the cheapest rung for each gap. Its
wake costs what `policies.rungs.ladder` says, the device and one caller's wait. `early` starts
before the request comes instead: then nobody waits, and nothing that serves everybody at once can
cost less.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from policies.rungs import Ladder, Rung, RungName
from router.economics import Economics
from router.replay.outcome import Outcome
from router.replay.work import Work


def ladder_of(facts: Economics, rise_s: Mapping[RungName, float]) -> Ladder:
    """The rungs at true mean times, as the planner would price them if it knew these."""
    return facts.ladder(rise_s, lambda rung: facts.delay_usd_s)


def clairvoyant(work: Work, rungs: Ladder) -> Outcome:
    """The per-gap lower envelope; delay and device are told apart in what it gives."""
    out = Outcome(requests=work.total)
    hold = work.economics.hold_usd_s
    for gap_s in (*work.gaps_s(), *_extra_gaps(work), float("inf")):
        best = rungs[-1] if gap_s == float("inf") else _best(rungs, gap_s)
        _spend(out, best, gap_s if gap_s < float("inf") else 0.0, hold)
    out.gaps = max(len(work.begins_s) - 1, 0)
    out.serving_usd = (work.busy_s + _extra_busy_s(work)) * hold
    return out


def clairvoyant_early_usd(work: Work, rungs: Ladder) -> float:
    """The same, but started before the request comes: no caller waits."""
    hold = work.economics.hold_usd_s
    usd = (work.busy_s + _extra_busy_s(work)) * hold + rungs[-1].wake_s * hold
    for gap_s in (*work.gaps_s(), *_extra_gaps(work)):
        usd += min(_early_usd(rung, gap_s, hold) for rung in rungs)
    return usd


def _early_usd(rung: Rung, gap_s: float, hold: float) -> float:
    held_s = max(gap_s - rung.wake_s, 0.0)
    return (rung.hold_usd_s * held_s if rung.hold_usd_s else 0.0) + rung.wake_s * hold


def _best(rungs: Ladder, gap_s: float) -> Rung:
    return min(rungs, key=lambda rung: rung.hold_usd_s * gap_s + rung.wake_usd)


def _spend(out: Outcome, rung: Rung, gap_s: float, hold: float) -> None:
    out.holding_usd += rung.hold_usd_s * gap_s
    if rung.name == "hot":
        out.warm_idle_h += gap_s / 3600
        return
    out.starting_usd += rung.wake_s * hold
    out.delay_usd += rung.wake_usd - rung.wake_s * hold
    out.starts += rung.name == "off"
    out.wakes += rung.name != "off"
    out.cold_gaps += 1
    out.cold += 1
    out.waits.add(rung.wake_s)


def _extra_gaps(work: Work) -> Iterable[float]:
    """Of the servers beyond the first; each one's first start counts as a gap without end."""
    idle_since: list[float] = []
    at_work = 1
    for need in work.needs:
        for _ in range(at_work, need.servers):
            yield need.at_s - idle_since.pop() if idle_since else float("inf")
        idle_since.extend(need.at_s for _ in range(need.servers, at_work))
        at_work = need.servers


def _extra_busy_s(work: Work) -> float:
    busy_s, at_s, extra = 0.0, 0.0, 0
    for need in work.needs:
        busy_s += extra * (need.at_s - at_s)
        at_s, extra = need.at_s, need.servers - 1
    return busy_s + extra * max(work.end_s - at_s, 0.0)


def best_fixed_s(gaps_s: Iterable[float], wake_usd: float, hold_usd_s: float) -> float:
    """The one idle time that would have been cheapest over these gaps; 0 or one of them.

    A gap no longer than it is held through, `hold_usd_s` each second; any other costs the idle
    time and a wake.
    """
    ascending = sorted(gaps_s)
    held = accumulate(ascending)
    best_s, least = 0.0, len(ascending) * wake_usd
    for shorter, (gap_s, sum_s) in enumerate(zip(ascending, held, strict=True), 1):
        usd = sum_s * hold_usd_s + (len(ascending) - shorter) * (gap_s * hold_usd_s + wake_usd)
        if usd < least:
            best_s, least = gap_s, usd
    return best_s


def fixed_usd(gaps_s: Sequence[float], idle_s: float, wake_usd: float, hold_usd_s: float) -> float:
    """What a fixed idle time costs over gaps: the closed form."""
    held = sum(min(gap_s, idle_s) for gap_s in gaps_s)
    return held * hold_usd_s + sum(gap_s > idle_s for gap_s in gaps_s) * wake_usd
