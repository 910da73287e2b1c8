"""The states that a model can be held in, from hot to off, and what each costs.

Money is USD, time is seconds. A ladder runs from the rung that is dearest to hold and wakes at
once to the one that costs nothing and wakes slowest; it has no rung that another one beats at
every length of a gap, so the break-even times between its rungs ascend.
"""

import math
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

RungName = Literal["hot", "sleep_1", "sleep_2", "off"]


class Rung(Struct, frozen=True):
    """`wake_usd` is all that one return to hot costs: the device meanwhile, and who waits."""

    name: RungName
    hold_usd_s: float
    wake_s: float
    wake_usd: float


class Descent(Struct, frozen=True):
    """When an idle model goes down: (idle seconds, rung to be in from then on), ascending."""

    steps: tuple[tuple[float, RungName], ...]
    reason: str


Ladder = tuple[Rung, ...]


def ladder(rungs: Sequence[Rung]) -> Ladder:
    """The lower envelope of the rungs' costs over the length of a gap (multislope ski rental).

    The first must be the one that is dearest to hold. A rung that is never the cheapest, or only
    as cheap as another, is left out.
    """
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda r: (-r.hold_usd_s, r.wake_usd)):
        if kept and math.isinf(break_even_s(kept[-1], rung)):
            continue
        while len(kept) > 1 and break_even_s(kept[-1], rung) <= break_even_s(kept[-2], kept[-1]):
            kept.pop()
        kept.append(rung)
    return tuple(kept)


def break_even_s(upper: Rung, lower: Rung) -> float:
    """The gap at which both cost the same; `inf` when the lower one saves nothing."""
    saved_usd_s = upper.hold_usd_s - lower.hold_usd_s
    if saved_usd_s <= 0:
        return math.inf
    return max(lower.wake_usd - upper.wake_usd, 0.0) / saved_usd_s


def spend_gap(
    rungs: Ladder, descent: Sequence[tuple[float, RungName]], gap_s: float
) -> tuple[Rung, float]:
    """The rung that the end of a gap meets, and the USD that holding has cost until then.

    Who comes at the very moment of a step comes before it.
    """
    by_name = {rung.name: rung for rung in rungs}
    here, since_s, held_usd = rungs[0], 0.0, 0.0
    for after_s, name in descent:
        if after_s >= gap_s:
            break
        held_usd += here.hold_usd_s * (after_s - since_s)
        here, since_s = by_name[name], after_s
    return here, held_usd + here.hold_usd_s * (gap_s - since_s)


def gap_usd(rungs: Ladder, descent: Sequence[tuple[float, RungName]], gap_s: float) -> float:
    """What one gap costs: holding on the way down, and the wake at its end."""
    met, held_usd = spend_gap(rungs, descent, gap_s)
    return held_usd + met.wake_usd


def least_usd(rungs: Ladder, gap_s: float) -> float:
    """What the gap costs to who knows its length: the best rung from its first moment."""
    return min(rung.hold_usd_s * gap_s + rung.wake_usd for rung in rungs)
