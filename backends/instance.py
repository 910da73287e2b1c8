"""One started model server as its lifecycle sees it, and the states that it goes through."""

from dataclasses import dataclass, field
from enum import StrEnum

from backends.endpoint import Endpoint


class State(StrEnum):
    OFF = "off"
    PROVISIONING = "provisioning"
    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


STARTING = frozenset({State.PROVISIONING, State.LOADING, State.WARMING})


@dataclass(frozen=True)
class ColdSettings:
    """What may change without a new server process. Durations in seconds, `inf` for never."""

    idle_s: float
    start_within_s: float
    stop_within_s: float
    max_instances: int
    max_concurrency: int | None


@dataclass
class Instance:
    """One started model server. `reached` holds the time at which each state was entered."""

    id: str
    began_s: float
    state: State = State.PROVISIONING
    endpoint: Endpoint | None = None
    idle_since_s: float = 0.0
    idle_check_s: float | None = None  # when the one timer that watches for idleness fires
    verifying: bool = False
    reached: dict[State, float] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        return self.endpoint.in_flight if self.endpoint else 0


@dataclass(frozen=True)
class Failure:
    """A start that did not succeed; `message` already ends with the server's last log lines."""

    message: str
    permanent: bool
