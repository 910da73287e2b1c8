"""All model servers of a configuration, and how one configuration follows another.

A reload builds the new set whole and swaps one reference. What did not change keeps its
endpoints, connections, health and instances; what went drains; requests in flight keep the
snapshot that they began with.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from backends.cold import ColdModel, OnChange, Readiness
from backends.endpoint import Endpoint
from backends.launchers import Launcher, LaunchSpec
from backends.lease import Lease, NoEndpoint, Room
from backends.lifecycle import ColdSettings
from backends.pool import HealthCheck, Pool
from backends.tasks import TaskSet
from backends.upstream import Origin
from config.schema import Api, Cold, Config, Hot, Model, secret_text

log = logging.getLogger("lamplighter.fleet")

Clock = Callable[[], float]
Kind = Literal["hot", "cold", "api"]


@dataclass(frozen=True)
class ModelBackends:
    """Where one model can be answered; at least one of the three is there."""

    room: Room
    hot: Pool | None = None
    cold: ColdModel | None = None
    api: Pool | None = None

    @property
    def pools(self) -> list[Pool]:
        return [pool for pool in (self.hot, self.api) if pool is not None]

    @property
    def in_flight(self) -> int:
        """Requests at its servers now."""
        at_pools = sum(e.in_flight for pool in self.pools for e in pool.endpoints)
        return at_pools + (self.cold.view().in_flight if self.cold is not None else 0)

    async def lease_at(self, endpoint_id: str, size: int, timeout_s: float) -> tuple[Kind, Lease]:
        """A lease at one certain endpoint, without regard to its load. Raises Unavailable."""
        kinds: tuple[tuple[Kind, Pool | None], ...] = (("hot", self.hot), ("api", self.api))
        for kind, pool in kinds:
            lease = pool.lease_at(endpoint_id) if pool is not None else None
            if lease is not None:
                return kind, lease
        if self.cold is not None:
            return "cold", await self.cold.lease(size, timeout_s, only=endpoint_id)
        raise NoEndpoint(f"endpoint {endpoint_id} is gone")


@dataclass(frozen=True)
class Snapshot:
    """A configuration and what serves it; a request uses one from its beginning to its end."""

    config: Config
    backends: Mapping[str, ModelBackends]


class Fleet:
    """Owns the model servers. `apply` and `close` are called by one task."""

    def __init__(
        self, launchers: Mapping[str, Launcher], clock: Clock, on_change: OnChange
    ) -> None:
        self._launchers = launchers
        self._clock = clock
        self._on_change = on_change
        self._tasks = TaskSet()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._retired: list[ColdModel] = []
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force. An error before the first `apply`."""
        assert self._snapshot is not None
        return self._snapshot

    def apply(self, config: Config) -> None:
        """Put a configuration in force, keeping what it shares with the one before."""
        old = self._snapshot
        backends = {
            name: self._build(name, model, config, old) for name, model in config.models.items()
        }
        self._snapshot = Snapshot(config, backends)
        if old is not None:
            self._retire(old.backends, backends)
        self._watch_health(config, backends)

    async def close(self, drain_within_s: float) -> None:
        """Drain and stop every instance; after `drain_within_s` stop what is still at work."""
        for check in self._checks.values():
            check.cancel()
        for cold in self._all_cold():
            cold.post(cold.lifecycle.retire)
        try:
            async with asyncio.timeout(drain_within_s):
                await self._until_gone()
        except TimeoutError:
            for cold in self._all_cold():
                cold.post(cold.lifecycle.stop)
            await self._until_gone()
        for backends in self._snapshot.backends.values() if self._snapshot else ():
            for pool in backends.pools:
                pool.close()
        await self._tasks.close()

    def _all_cold(self) -> list[ColdModel]:
        current = self._snapshot.backends.values() if self._snapshot else ()
        return self._retired + [b.cold for b in current if b.cold is not None]

    async def _until_gone(self) -> None:
        await asyncio.gather(*(cold.ended.wait() for cold in self._all_cold()))

    # --- building ------------------------------------------------------------------------------

    def _build(
        self, name: str, model: Model, config: Config, old: Snapshot | None
    ) -> ModelBackends:
        before = old.backends.get(name) if old else None
        queue = config.settings(name).queue
        room = before.room if before else Room(queue.requests, queue.bytes)
        room.max_requests, room.max_bytes = queue.requests, queue.bytes
        return ModelBackends(
            room,
            hot=self._hot(model.hot, before, room),
            cold=self._cold(name, model, config, old, room),
            api=self._api(model.api, before, room),
        )

    def _hot(self, hot: Hot | None, before: ModelBackends | None, room: Room) -> Pool | None:
        if hot is None:
            return None
        wanted = [
            Endpoint(
                _host_and_port(item.url),
                Origin(item.url),
                key=secret_text(item.key),
                weight=item.weight,
                max_concurrency=item.max_concurrency,
            )
            for item in hot.urls
        ]
        return self._pool(wanted, before.hot if before else None, room)

    def _api(self, api: Api | None, before: ModelBackends | None, room: Room) -> Pool | None:
        if api is None:
            return None
        key = secret_text(api.key)
        wanted = [Endpoint(_host_and_port(api.url), Origin(api.url), key=key)]
        return self._pool(wanted, before.api if before else None, room)

    def _pool(self, wanted: Sequence[Endpoint], old: Pool | None, room: Room) -> Pool:
        """A new pool, or the old one with its living endpoints where they are the same."""
        if old is None:
            return Pool(wanted, room, self._clock)
        known = {(e.origin.url, e.key): e for e in old.endpoints}
        merged = []
        for endpoint in wanted:
            kept = known.get((endpoint.origin.url, endpoint.key), endpoint)
            kept.weight = endpoint.weight
            kept.max_concurrency = endpoint.max_concurrency
            merged.append(kept)
        old.adopt(merged)
        return old

    def _cold(
        self, name: str, model: Model, config: Config, old: Snapshot | None, room: Room
    ) -> ColdModel | None:
        cold = model.cold
        if cold is None:
            return None
        before = old.backends[name].cold if old and name in old.backends else None
        settings = _cold_settings(cold)
        same = old is not None and config.launch_identity(name) == old.config.launch_identity(name)
        if before is not None and same:
            before.post(before.lifecycle.reconfigure, settings)
            return before
        fresh = ColdModel(
            LaunchSpec(name, config.served_as(name), tuple(cold.command), cold.env, cold.base_path),
            settings,
            Readiness(cold.ready.path, cold.ready.canary),
            room,
            self._launchers[cold.launcher],
            self._clock,
            self._on_change,
        )
        self._tasks.start(fresh.run(), f"model {name}")
        return fresh

    def _retire(self, old: Mapping[str, ModelBackends], new: Mapping[str, ModelBackends]) -> None:
        kept = {id(part) for b in new.values() for part in (b.hot, b.cold, b.api)}
        for backends in old.values():
            if backends.cold is not None and id(backends.cold) not in kept:
                backends.cold.post(backends.cold.lifecycle.retire)
                self._retired.append(backends.cold)
            for pool in backends.pools:
                if id(pool) not in kept:
                    pool.close()
        self._retired = [cold for cold in self._retired if not cold.ended.is_set()]

    def _watch_health(self, config: Config, backends: Mapping[str, ModelBackends]) -> None:
        for task in self._checks.values():
            task.cancel()
        self._checks.clear()
        for name, model in config.models.items():
            pool = backends[name].hot
            if pool is not None and model.hot is not None and math.isfinite(model.hot.check.every):
                check = HealthCheck(pool, name, model.hot.check.every, self._clock)
                self._checks[name] = self._tasks.task(check.run(), f"health of {name}")


def _cold_settings(cold: Cold) -> ColdSettings:
    return ColdSettings(
        idle_s=cold.idle,
        start_within_s=cold.start_within,
        stop_within_s=cold.stop_within,
        max_instances=cold.max_instances,
        max_concurrency=cold.max_concurrency,
    )


def _host_and_port(url: str) -> str:
    """How an endpoint is named to people: its address, without the scheme and the path."""
    return url.split("://", 1)[-1].split("/", 1)[0]
