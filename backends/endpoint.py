"""One address that answers OpenAI calls: its connections, its key, its load and its health."""

from collections.abc import Callable

from backends.breaker import Breaker
from backends.upstream import Origin


class Endpoint:
    """A base URL with what routing must know of it. `in_flight` is changed by leases only."""

    def __init__(
        self,
        id: str,
        origin: Origin,
        *,
        served_as: str = "",
        outside: bool = False,
        key: str | None = None,
        weight: float = 1.0,
        max_concurrency: int | None = None,
    ) -> None:
        self.id = id
        self.origin = origin
        self.served_as = served_as  # what this server calls the model
        self.outside = outside  # somebody else's server
        self.key = key
        self.weight = weight
        self.max_concurrency = max_concurrency
        self.in_flight = 0
        self.on_busy: Callable[[bool], None] | None = None  # hears when in_flight leaves 0, is 0
        self.breaker = Breaker()

    @property
    def load(self) -> float:
        """Requests per unit of weight if one more came: the least loaded endpoint is next."""
        return (self.in_flight + 1) / self.weight

    @property
    def free(self) -> float:
        """How many more requests fit; `math.inf` without a limit."""
        if self.max_concurrency is None:
            return float("inf")
        return self.max_concurrency - self.in_flight
