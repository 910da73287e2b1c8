"""What rules may ask beyond the request: the state of models, budgets, counts, meanings."""

import asyncio
from collections.abc import Callable

from backends.fleet import Snapshot
from config.policy import Similar
from config.schema import Config
from policies.facts import Count
from router.examples import Examples
from router.languages import Languages
from router.places import answers_now
from router.planners import Planners
from router.record import Record
from router.request import Request
from router.tokenize import tokens_at_server
from router.tokens import Ratios, Tokens


class Readers:
    """What reads texts for rules, and learns: one of each for a gateway."""

    def __init__(self) -> None:
        self.ratios = Ratios()
        self.languages = Languages()
        self.examples = Examples()

    def finished(self, record: Record) -> None:
        """A server counted the tokens of a request."""
        usage = record.usage
        if usage is not None and record.bytes_in:
            self.ratios.learned(record.answered_by, record.bytes_in, usage.input)

    async def load(self, config: Config) -> None:
        """Load what the policies will ask for: the first request need not wait for it."""
        policies = config.policies.values()
        conditions = [when for policy in policies for when in policy.conditions()]
        if any(when.language for when in conditions):
            await asyncio.to_thread(self.languages.load)
        await self.examples.load([w.similar_to for w in conditions if w.similar_to is not None])


class LiveWorld:
    """That of a gateway, now; satisfies `router.facts.World`.

    `asks_servers`: model servers may be asked to count tokens.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        planners: Planners,
        spent_usd: Callable[[str | None], float],
        readers: Readers,
        *,
        asks_servers: bool,
    ) -> None:
        self._asks_servers = asks_servers
        self._snapshot = snapshot
        self._planners = planners
        self._spent_usd = spent_usd
        self._readers = readers

    def count(self, request: Request, model: str) -> Count:
        return self._tokens.count(request, model)

    async def exact(self, request: Request, model: str) -> Count:
        return await self._tokens.exact(request, model)

    async def language(self, text: str) -> str | None:
        return await self._readers.languages.language(text)

    async def similarity(self, text: str, to: Similar) -> float | None:
        return await self._readers.examples.similarity(text, to)

    def hot(self, model: str) -> bool:
        backends = self._snapshot.backends.get(model)
        return backends is not None and answers_now(backends)

    def budget_left(self, model: str | None) -> float | None:
        config = self._snapshot.config
        budget = config.budget if model is None else config.models[model].budget
        if budget.usd_per_day is None:
            return None
        return max(1.0 - self._spent_usd(model) / budget.usd_per_day, 0.0)

    @property
    def _tokens(self) -> Tokens:
        ask = self._counted_there if self._asks_servers else None
        return Tokens(self._readers.ratios, self._called, ask)

    def _called(self, model: str) -> str:
        """By its own servers, else by its API."""
        config = self._snapshot.config
        body = config.models.get(model)
        if body is None:
            return model
        own = body.hot is not None or body.cold is not None
        return config.served_as(model) if own else config.api_model(model)

    async def _counted_there(self, request: Request, model: str) -> int | None:
        backends = self._snapshot.backends.get(model)
        return await tokens_at_server(backends, request) if backends is not None else None
