"""What rules may ask beyond the request: the state of models, budgets, counts, languages."""

from collections.abc import Callable

from backends.fleet import Snapshot
from config.policy import Similar
from policies.facts import Count
from router.places import answers_now
from router.planner import BYTES_PER_TOKEN
from router.planners import Planners
from router.request import Request


class LiveWorld:
    """That of a gateway, now; satisfies `router.facts.World`."""

    def __init__(
        self,
        snapshot: Snapshot,
        planners: Planners,
        spent_usd: Callable[[str | None], float],
    ) -> None:
        self._snapshot = snapshot
        self._planners = planners
        self._spent_usd = spent_usd

    def hot(self, model: str) -> bool:
        backends = self._snapshot.backends.get(model)
        return backends is not None and answers_now(backends)

    def budget_left(self, model: str | None) -> float | None:
        config = self._snapshot.config
        budget = config.budget if model is None else config.models[model].budget
        if budget.usd_per_day is None:
            return None
        return max(1.0 - self._spent_usd(model) / budget.usd_per_day, 0.0)

    def count(self, request: Request, model: str) -> Count:
        return Count(round(request.size / BYTES_PER_TOKEN), "estimate")

    async def exact(self, request: Request, model: str) -> Count:
        return self.count(request, model)

    async def language(self, text: str) -> str | None:
        return None

    async def similarity(self, text: str, to: Similar) -> float | None:
        return None
