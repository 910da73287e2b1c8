"""One started model server as its lifecycle sees it, and the states that it goes through."""

from dataclasses import dataclass, field
from enum import StrEnum

from backends.endpoint import Endpoint
from backends.holding import LADDER, Descent, Rung
from backends.lease import NoEndpoint, Room, WaitQueue


class State(StrEnum):
    OFF = "off"
    PROVISIONING = "provisioning"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    SLEEPING = "sleeping"
    WAKING = "waking"
    DRAINING = "draining"
    FAILED = "failed"


STARTING = frozenset({State.PROVISIONING, State.LOADING, State.WARMING})
# Level 1 copies all weights to host memory: 200 GB at 5 GB/s take 40 s. What takes longer than
# this hangs, and keeps waiting who came meanwhile.
SLEEP_WITHIN_S = 60.0
NO_ROOM = Room(0, 0)
ASLEEP = frozenset({State.SLEEPING, State.WAKING})
RISING = STARTING | {State.WAKING}


@dataclass(frozen=True)
class ColdSettings:
    """What may change without a new server process. Durations in seconds, `inf` for never."""

    start_within_s: float
    stop_within_s: float
    max_instances: int
    max_concurrency: int | None
    sleep_rungs: tuple[Rung, ...] = ()  # that the server offers
    sleep_within_s: float = SLEEP_WITHIN_S
    memory: int = 0  # bytes of its device, for each instance
    host_memory: int = 0  # bytes, for each that sleeps at level 1
    start_guess_s: float = 20.0  # until a start was measured


@dataclass
class Instance:
    """One started model server. `reached` holds the time at which each state was last entered.

    It is SLEEPING from the moment in which it is told to sleep; only when it is asleep does its
    `rung` say so, and is the state reported.
    """

    id: str
    began_s: float
    state: State = State.PROVISIONING
    rung: Rung = "hot"  # on which it is; while it wakes the one that it comes from
    falling_to: Rung | None = None  # told to sleep, and not known to be asleep
    going_down: bool = False  # it wakes only to fall asleep on a lower rung
    endpoint: Endpoint | None = None
    descent: Descent = Descent()
    idle_since_s: float = 0.0
    idle_check_s: float | None = None  # when the one timer that watches for idleness fires
    verifying: bool = False
    yields_to: Rung | None = None  # it takes nothing new, and goes there when it has ended
    uses: int = 0  # requests since it was started or woken
    used_clock: float = 0.0  # of its device, at the last of them
    reached: dict[State, float] = field(default_factory=dict)
    pinned: WaitQueue = field(
        default_factory=lambda: WaitQueue(NO_ROOM)
    )  # who can be served by it alone

    @property
    def in_flight(self) -> int:
        return self.endpoint.in_flight if self.endpoint else 0

    def refuse_pinned(self) -> None:
        """It will not serve any more."""
        while waiter := self.pinned.pop():
            waiter.future.set_exception(NoEndpoint(f"instance {self.id} is gone"))

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return self.state is State.READY and self.yields_to is None

    @property
    def asleep(self) -> bool:
        return self.state is State.SLEEPING and self.falling_to is None

    @property
    def falling(self) -> bool:
        return self.state is State.SLEEPING and self.falling_to is not None

    @property
    def nearest_rung(self) -> Rung:
        """From which it becomes ready, or where it is if it is."""
        return "off" if self.state in STARTING else self.falling_to or self.rung

    @property
    def rose_s(self) -> float:
        """When the start or the wake began that made it ready, or will."""
        return self.reached.get(State.WAKING, self.began_s)

    @property
    def idle(self) -> bool:
        """Whether it is to go down the ladder as time passes."""
        return self.asleep or (self.state is State.READY and self.in_flight == 0)


class Instances(dict[str, Instance]):
    """Those of one model, by their id."""

    @property
    def starting(self) -> list[Instance]:
        return [i for i in self.values() if i.state in STARTING]

    @property
    def waking(self) -> list[Instance]:
        return [i for i in self.values() if i.state is State.WAKING]

    @property
    def ready(self) -> list[Instance]:
        return [i for i in self.values() if i.state is State.READY]

    @property
    def coming(self) -> list[Instance]:
        """Those that will serve without another launch; what falls asleep is woken then."""
        return [i for i in self.values() if i.state in RISING or i.falling]

    @property
    def staying(self) -> list[Instance]:
        return [i for i in self.values() if i.state is not State.DRAINING]

    def nearest_asleep(self) -> Instance | None:
        asleep = [i for i in self.values() if i.asleep]
        return min(asleep, key=lambda i: LADDER.index(i.rung), default=None)


@dataclass(frozen=True)
class Failure:
    """A start that did not succeed; `message` already ends with the server's last log lines."""

    message: str
    permanent: bool
