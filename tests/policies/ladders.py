"""Ladders and gaps to try rules on, and what a rule costs over them."""

from collections.abc import Sequence

from hypothesis import strategies as st

from policies.gaps import Gaps
from policies.keep_alive import Learned, Rule, descend, floor_s
from policies.rungs import Ladder, Rung, RungName, break_even_s, gap_usd, ladder, least_usd

LOWER: tuple[RungName, ...] = ("sleep_1", "sleep_2", "off")
CREDIT = 20.0 + 3.0  # wakes that `clamped` may lose beyond twice the clairvoyant


def two(wake_s: float, hold_usd_s: float = 1.0) -> Ladder:
    """Hot and off; a wake costs as much as holding hot meanwhile, so that B is `wake_s`."""
    return (
        Rung("hot", hold_usd_s, 0.0, 0.0),
        Rung("off", 0.0, wake_s, wake_s * hold_usd_s),
    )


THREE: Ladder = (
    Rung("hot", 1.0, 0.0, 0.0),
    Rung("sleep_1", 0.05, 5.0, 5.0),
    Rung("off", 0.0, 120.0, 120.0),
)


@st.composite
def some_rungs(draw: st.DrawFn) -> list[Rung]:
    """Hot and one to three lower ones, in any order of price."""
    hold_usd_s = draw(st.floats(1e-5, 10.0))
    rungs = [Rung("hot", hold_usd_s, 0.0, 0.0)]
    for name in LOWER[-draw(st.integers(1, 3)) :]:
        share = 0.0 if name == "off" else draw(st.just(0.0) | st.floats(1e-6, 1.0))
        wake_s = draw(st.floats(0.5, 1000.0))
        dearer = draw(st.floats(1.0, 10.0))  # who waits
        rungs.append(Rung(name, share * hold_usd_s, wake_s, wake_s * hold_usd_s * dearer))
    return rungs


LADDERS = some_rungs().map(ladder)


def breaks_s(rungs: Ladder) -> list[float]:
    """The break-even times, from hot downwards."""
    return [break_even_s(*pair) for pair in zip(rungs, rungs[1:], strict=False)]


class Gone:
    """One rule over one model's gaps; costs in USD."""

    def __init__(self, rule: Rule, rungs: Ladder) -> None:
        self.rule = rule
        self.rungs = rungs
        self.gaps = Gaps(floor_s(rungs))
        self.learned = Learned()
        self.paid_usd = self.least_usd = 0.0

    @property
    def steps(self) -> tuple[tuple[float, RungName], ...]:
        return descend(self.rule, self.rungs, self.gaps, self.learned).steps

    @property
    def lost_wakes(self) -> float:
        """What was paid beyond twice the clairvoyant, in wakes from the last rung."""
        return (self.paid_usd - 2 * self.least_usd) / self.rungs[-1].wake_usd

    @property
    def ratio(self) -> float:
        return self.paid_usd / self.least_usd

    def gap(self, gap_s: float) -> None:
        self.paid_usd += gap_usd(self.rungs, self.steps, gap_s)
        self.least_usd += least_usd(self.rungs, gap_s)
        self.learned.saw(self.rungs, self.gaps, gap_s)
        self.gaps.add(gap_s)

    def through(self, gaps_s: Sequence[float]) -> "Gone":
        for gap_s in gaps_s:
            self.gap(gap_s)
        return self
