"""What was decided, live or in a replay, and how far two such records agree."""

from collections.abc import Sequence
from dataclasses import dataclass, field

WITHIN_S = 1.0  # two decisions are the same if they fell no further apart


@dataclass(frozen=True)
class Event:
    """A start, a wake, a descent to a rung or a move to a placement; `at_s` from the beginning."""

    at_s: float
    what: str
    why: str = ""


@dataclass(frozen=True)
class Served:
    """Where a request went (empty: nowhere), and whether it met a start."""

    at_s: float
    where: str
    met_start: bool
    why: str = ""


@dataclass
class Decisions:
    """Of one model, in order of time."""

    events: list[Event] = field(default_factory=list)
    requests: list[Served] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """`live` and `replayed` say in words what each did."""

    model: str
    at_s: float
    what: str
    live: str
    replayed: str
    why: str = ""


@dataclass
class Agreement:
    """Of one model: how many decisions by kind were the same, of how many live ones."""

    model: str
    same: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    replayed: dict[str, int] = field(default_factory=dict)
    offsets_s: list[float] = field(default_factory=list)  # of the events that agree
    differences: list[Difference] = field(default_factory=list)

    def count(self, kind: str, live: int, replayed: int, same: int) -> None:
        for counts, number in ((self.live, live), (self.replayed, replayed), (self.same, same)):
            counts[kind] = counts.get(kind, 0) + number


def agreement(model: str, live: Decisions, replayed: Decisions) -> Agreement:
    """Decision by decision."""
    found = Agreement(model)
    _compare_requests(found, live.requests, replayed.requests)
    _compare_events(found, live.events, replayed.events)
    found.differences.sort(key=lambda difference: difference.at_s)
    return found


def _compare_requests(found: Agreement, live: Sequence[Served], replayed: Sequence[Served]) -> None:
    for one, other in zip(live, replayed, strict=True):
        found.count("requests", 1, 1, one.where == other.where)
        found.count(
            "met a start", one.met_start, other.met_start, one.met_start and other.met_start
        )
        if (one.where, one.met_start) != (other.where, other.met_start):
            found.differences.append(
                Difference(found.model, one.at_s, "request", _words(one), _words(other), one.why)
            )


def _words(served: Served) -> str:
    return (served.where or "nowhere") + (", met a start" if served.met_start else "")


def _compare_events(found: Agreement, live: Sequence[Event], replayed: Sequence[Event]) -> None:
    pairs = paired(live, replayed)
    for event in live:
        found.count(event.what, 1, 0, 0)
    for event in replayed:
        found.count(event.what, 0, 1, 0)
    for n, m in pairs:
        found.count(live[n].what, 0, 0, 1)
        found.offsets_s.append(replayed[m].at_s - live[n].at_s)
    alone = [(live[n], True) for n in range(len(live)) if n not in {n for n, _ in pairs}]
    alone += [(replayed[m], False) for m in range(len(replayed)) if m not in {m for _, m in pairs}]
    for event, is_live in alone:
        nearest = _nearest(event, replayed if is_live else live)
        words = (event.what, nearest) if is_live else (nearest, event.what)
        found.differences.append(
            Difference(found.model, event.at_s, event.what, *words, why=event.why)
        )


def _nearest(event: Event, others: Sequence[Event]) -> str:
    away_s = [other.at_s - event.at_s for other in others if other.what == event.what]
    if not away_s:
        return "never"
    return f"nearest {min(away_s, key=abs):+.3f} s"


def paired(live: Sequence[Event], replayed: Sequence[Event]) -> list[tuple[int, int]]:
    """The longest common subsequence: the same decisions in the same order, at the same time."""
    longest = [[0] * (len(replayed) + 1) for _ in range(len(live) + 1)]
    for n in reversed(range(len(live))):
        for m in reversed(range(len(replayed))):
            longest[n][m] = max(longest[n + 1][m], longest[n][m + 1])
            if same(live[n], replayed[m]):
                longest[n][m] = max(longest[n][m], 1 + longest[n + 1][m + 1])
    pairs, n, m = [], 0, 0
    while n < len(live) and m < len(replayed):
        if same(live[n], replayed[m]) and longest[n][m] == 1 + longest[n + 1][m + 1]:
            pairs.append((n, m))
            n, m = n + 1, m + 1
        elif longest[n + 1][m] >= longest[n][m + 1]:
            n += 1
        else:
            m += 1
    return pairs


def same(one: Event, other: Event) -> bool:
    return one.what == other.what and abs(one.at_s - other.at_s) <= WITHIN_S
