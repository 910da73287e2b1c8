"""Who asks what and when: bursts of small requests, drawn from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

WORDS = ("lamp", "street", "night", "oil", "wick", "ladder", "glass", "dusk", "river", "winter")
STREAMED = 0.4  # share of the requests


@dataclass(frozen=True)
class Phase:
    """So it goes for some time: gaps of about `gap_s` between bursts of about `burst` requests."""

    lasts_s: float
    gap_s: float
    burst: float


@dataclass(frozen=True)
class Habit:
    """What the callers of one model do; phases follow each other in a circle.

    `hurried` is the share of callers who wait for `wait` only; `priorities` are shares.
    """

    model: str
    phases: tuple[Phase, ...]
    hurried: float = 0.0
    wait: str = "400ms"
    priorities: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Ask:
    """One request, `at_s` after the beginning."""

    at_s: float
    model: str
    words: int
    tokens: int
    stream: bool
    headers: tuple[tuple[str, str], ...]

    @property
    def body(self) -> dict[str, object]:
        text = " ".join(WORDS[n % len(WORDS)] for n in range(self.words))
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "stream": self.stream,
        }


HABITS = (
    Habit("plain", (Phase(300, 9, 3), Phase(180, 3, 2), Phase(300, 25, 1.5)), hurried=0.1),
    Habit("rented", (Phase(200, 15, 2), Phase(200, 2, 20), Phase(300, 25, 2)), hurried=0.6),
    Habit(
        "mixed",
        (Phase(300, 6, 3), Phase(300, 22, 2)),
        hurried=0.6,
        priorities=(("low", 0.3), ("high", 0.15)),
    ),
)


def asks(habit: Habit, length_s: float, seed: int) -> Iterator[Ask]:
    """In order of time."""
    rng = Random(f"{seed}/{habit.model}")
    circle_s = sum(phase.lasts_s for phase in habit.phases)
    at_s = rng.uniform(1.0, 5.0)
    while True:
        phase = _phase(habit, at_s % circle_s)
        for _ in range(1 + int(rng.expovariate(1.0 / phase.burst))):
            if at_s >= length_s:
                return
            yield _ask(habit, rng, at_s)
            at_s += rng.expovariate(1.6)
        at_s += phase.gap_s * rng.lognormvariate(-0.3, 0.8)


def _phase(habit: Habit, at_s: float) -> Phase:
    for phase in habit.phases:
        at_s -= phase.lasts_s
        if at_s < 0:
            return phase
    return habit.phases[-1]


def _ask(habit: Habit, rng: Random, at_s: float) -> Ask:
    headers = []
    if rng.random() < habit.hurried:
        headers.append(("x-lamplighter-max-wait", habit.wait))
    drawn = rng.random()
    for priority, share in habit.priorities:
        drawn -= share
        if drawn < 0:
            headers.append(("x-lamplighter-priority", priority))
            break
    stream = rng.random() < STREAMED
    return Ask(at_s, habit.model, rng.randint(3, 30), rng.randint(2, 5), stream, tuple(headers))
