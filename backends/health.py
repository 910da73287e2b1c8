"""Active health checks of a hot pool, so that a dead server is known before a caller finds it."""

import asyncio
import logging

import httpx2

from backends.endpoint import Endpoint
from backends.pool import Clock, Pool
from backends.upstream_dial import default_tls

log = logging.getLogger("lamplighter.health")

CHECK_TIMEOUT_S = 5.0


class HealthCheck:
    """Asks each endpoint of a pool for its models, every `every_s` seconds."""

    def __init__(self, pool: Pool, model: str, every_s: float, clock: Clock) -> None:
        self._pool = pool
        self._model = model
        self._every_s = every_s
        self._clock = clock

    async def run(self) -> None:
        # A context of its own for each model would stop the event loop for 25 ms a model.
        async with httpx2.AsyncClient(
            timeout=CHECK_TIMEOUT_S, trust_env=False, verify=default_tls()
        ) as client:
            while True:
                await asyncio.gather(*(self._check(client, e) for e in self._pool.endpoints))
                await asyncio.sleep(self._every_s)

    async def _check(self, client: httpx2.AsyncClient, endpoint: Endpoint) -> None:
        was_closed = endpoint.breaker.closed
        if await self._answers(client, endpoint):
            endpoint.breaker.reachable()
            self._pool.wake()
        else:
            endpoint.breaker.unreachable(self._clock(), self._every_s + CHECK_TIMEOUT_S)
        if endpoint.breaker.closed != was_closed:
            state = "does not answer its check" if was_closed else "answers again"
            log.warning("model %s: endpoint %s %s", self._model, endpoint.id, state)

    async def _answers(self, client: httpx2.AsyncClient, endpoint: Endpoint) -> bool:
        headers = {"authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        try:
            response = await client.get(f"{endpoint.origin.url}/models", headers=headers)
        except Exception as error:  # whatever a strange server makes the client raise
            log.debug("check of %s: %r", endpoint.id, error)
            return False
        return response.status_code < 500
