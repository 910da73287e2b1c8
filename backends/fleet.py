"""All model servers of a configuration, and how one configuration follows another.

A reload builds the new set whole and swaps one reference. What did not change keeps its
endpoints, connections, health and instances; what went drains; requests in flight keep the
snapshot that they began with.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from backends.cold import ColdModel, OnChange, Readiness
from backends.devices import Device, Limits
from backends.endpoint import Endpoint
from backends.evictions import Eviction
from backends.health import HealthCheck
from backends.holding import Held, Holding, Rung
from backends.instance import ColdSettings
from backends.launchers import Launcher, LaunchSpec
from backends.lease import Lease, NoEndpoint, Room
from backends.memory import Unshared
from backends.pool import Pool
from backends.sleep import ENV
from backends.tasks import TaskSet
from backends.upstream import Origin
from config import schema
from config.schema import Api, Cold, Config, Hot, secret_text

log = logging.getLogger("lamplighter.fleet")

DEFAULT_IDLE_S = 300.0
START_GUESS_S = 20.0

Clock = Callable[[], float]
Changes = list[Callable[[], object]]  # to what runs, once everything new is built
Kind = Literal["hot", "cold", "api"]


@dataclass(frozen=True)
class ModelBackends:
    """Where one model can be answered; at least one of the three is there."""

    room: Room
    hot: Pool | None = None
    cold: ColdModel | None = None
    api: Pool | None = None

    def pool(self, kind: Kind) -> Pool | None:
        """The always-on pool or the outside API; None for what is started on demand."""
        return self.hot if kind == "hot" else self.api if kind == "api" else None

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
    """Owns the model servers. `apply` and `close` are never called at the same time."""

    def __init__(
        self,
        launchers: Mapping[str, Launcher],
        clock: Clock,
        on_change: OnChange,
        holding: Callable[[str], Holding] | None = None,
        *,
        eviction: Eviction,
    ) -> None:
        """`holding` is asked once for each cold model, and again when it is built anew."""
        self._launchers = launchers
        self._clock = clock
        self._on_change = on_change
        self._holding = holding or partial(_ByConfiguration, self)
        self._eviction = eviction
        self._devices: dict[str, Device] = {}
        self._tasks = TaskSet()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._retired: list[ColdModel] = []
        self._numbers: dict[str, Iterator[int]] = {}  # of instances, by model
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The configuration in force. An error before the first `apply`."""
        assert self._snapshot is not None
        return self._snapshot

    def apply(self, config: Config) -> None:
        """Put a configuration in force, keeping what it shares with the one before.

        Everything is built first; only then is anything that runs touched.
        """
        old = self._snapshot
        changes: Changes = []
        backends = {name: self._build(name, config, old, changes) for name in config.models}
        self._snapshot = Snapshot(config, backends)
        for change in changes:
            change()
        self._follow_devices(config)
        if old is not None:
            self._retire(old.backends, backends)
        self._watch_health(config, backends)

    async def close(self, drain_within_s: float) -> None:
        """Drain and stop every instance; after `drain_within_s` stop what is still at work."""
        for check in self._checks.values():
            check.cancel()
        for cold in self.all_cold():
            cold.post(cold.lifecycle.retire)
        try:
            async with asyncio.timeout(drain_within_s):
                await self._until_gone()
        except TimeoutError:
            for cold in self.all_cold():
                cold.post(cold.lifecycle.stop)
            await self._until_gone()
        for backends in self._snapshot.backends.values() if self._snapshot else ():
            for pool in backends.pools:
                pool.close()
        await self._tasks.close()

    def hurry(self) -> None:
        """Every server that is stopped, now or from now on, is killed at once."""
        for cold in self.all_cold():
            cold.hurry()

    def all_cold(self) -> list[ColdModel]:
        """Every cold model with, perhaps, an instance: those too that left the configuration."""
        current = self._snapshot.backends.values() if self._snapshot else ()
        return self._retired + [b.cold for b in current if b.cold is not None]

    def devices(self) -> Mapping[str, Device]:
        """Those that are configured, and those that models still use."""
        return self._devices

    async def _until_gone(self) -> None:
        await asyncio.gather(*(cold.ended.wait() for cold in self.all_cold()))

    # --- building ------------------------------------------------------------------------------

    def _build(
        self, name: str, config: Config, old: Snapshot | None, changes: Changes
    ) -> ModelBackends:
        """The backends of one model; what must happen to running parts is put into `changes`."""
        model, queue = config.models[name], config.settings(name).queue
        before = old.backends.get(name) if old else None
        room = before.room if before else Room(queue.requests, queue.bytes)
        changes.append(partial(room.resize, queue.requests, queue.bytes))
        hot = api = cold = None
        if model.hot is not None:
            always_on = _hot_endpoints(model.hot, config.served_as(name))
            hot = self._pool(always_on, before.hot if before else None, room, changes)
        if model.api is not None:
            outside = _api_endpoints(model.api, config.api_model(name))
            api = self._pool(outside, before.api if before else None, room, changes)
        if model.cold is not None:
            running = before.cold if before is not None else None
            same = (
                old is not None and running is not None and _same_server(name, old.config, config)
            )
            if running is not None and same:
                reconfigure = running.lifecycle.reconfigure
                changes.append(partial(running.post, reconfigure, _cold_settings(model.cold)))
                changes.append(partial(running.follow, _launch_spec(name, config, model.cold)))
                cold = running
            else:
                cold = self._new_cold(name, config, model.cold, room)
                changes.append(partial(self._tasks.start, cold.run(), f"model {name}"))
        return ModelBackends(room, hot=hot, cold=cold, api=api)

    def _pool(
        self, wanted: Sequence[Endpoint], old: Pool | None, room: Room, changes: Changes
    ) -> Pool:
        """A new pool; or the old one, which keeps those of its endpoints that stay."""
        if old is None:
            return Pool(wanted, room, self._clock)
        changes.append(partial(old.follow, wanted))
        return old

    def _new_cold(self, name: str, config: Config, cold: Cold, room: Room) -> ColdModel:
        return ColdModel(
            _launch_spec(name, config, cold),
            _cold_settings(cold),
            self._holding(name),
            Readiness(cold.ready.path, cold.ready.canary),
            room,
            self._launchers[cold.launcher],
            self._clock,
            self._on_change,
            self._numbers.setdefault(name, itertools.count(1)),
            self._device(cold.device, config) if cold.device is not None else Unshared(),
        )

    def _device(self, name: str, config: Config) -> Device:
        if name not in self._devices:
            limits = _limits(config.devices[name])
            self._devices[name] = Device(
                name, limits, self._eviction, self._clock, self._call_later
            )
        return self._devices[name]

    def _call_later(self, delay_s: float, callback: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_later(delay_s, callback)

    def _follow_devices(self, config: Config) -> None:
        """Sizes as configured; a device that left the configuration lives while models use it."""
        for name, device in list(self._devices.items()):
            if name in config.devices:
                device.resize(_limits(config.devices[name]))
            elif not device.tenants:
                del self._devices[name]
        for name in config.devices:
            self._device(name, config)

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
            if pool is not None and model.hot is not None:
                check = HealthCheck(pool, name, model.hot.check.every, self._clock)
                self._checks[name] = self._tasks.task(check.run(), f"health of {name}")


def _hot_endpoints(hot: Hot, served_as: str) -> list[Endpoint]:
    return [
        Endpoint(
            _host_and_port(item.url),
            Origin(item.url),
            served_as=served_as,
            key=secret_text(item.key),
            weight=item.weight,
            max_concurrency=item.max_concurrency,
        )
        for item in hot.urls
    ]


def _api_endpoints(api: Api, served_as: str) -> list[Endpoint]:
    key = secret_text(api.key)
    origin = Origin(api.url)
    origin.peer = origin.peer.by_environment()
    return [Endpoint(_host_and_port(api.url), origin, served_as=served_as, outside=True, key=key)]


def _same_server(name: str, old: Config, new: Config) -> bool:
    """Whether a running instance is just what the new configuration would start."""
    return old.launch_identity(name) == new.launch_identity(name)


def _limits(device: schema.Device) -> Limits:
    host_memory = math.inf if device.host_memory is None else device.host_memory
    return Limits(device.memory, host_memory, device.max_wait)


def _launch_spec(name: str, config: Config, cold: Cold) -> LaunchSpec:
    command = tuple(cold.command)
    env = {**ENV, **cold.env} if _sleep_rungs(cold) else cold.env
    return LaunchSpec(
        name, config.served_as(name), command, env, cold.base_path, lease_s=cold.lease
    )


def _cold_settings(cold: Cold) -> ColdSettings:
    return ColdSettings(
        start_within_s=cold.start_within,
        stop_within_s=cold.stop_within,
        max_instances=cold.max_instances,
        max_concurrency=cold.max_concurrency,
        sleep_rungs=_sleep_rungs(cold),
        memory=cold.memory or 0,
        host_memory=cold.memory or 0 if cold.host_memory is None else cold.host_memory,
        start_guess_s=cold.start_time.p50 if cold.start_time is not None else START_GUESS_S,
    )


def _sleep_rungs(cold: Cold) -> tuple[Rung, ...]:
    levels: dict[Rung, object] = {"sleep_1": cold.sleep.level_1, "sleep_2": cold.sleep.level_2}
    return tuple(rung for rung, level in levels.items() if level is not None)


class _ByConfiguration:
    """Satisfies `Holding` where nobody decides by money: `cold.idle`, or five minutes."""

    def __init__(self, fleet: Fleet, model: str) -> None:
        self._fleet = fleet
        self._model = model

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        model = self._fleet.snapshot.config.models.get(self._model)
        idle = model.cold.idle if model is not None and model.cold is not None else 0.0
        return Held(DEFAULT_IDLE_S if isinstance(idle, str) else idle).descent(now_s)


def _host_and_port(url: str) -> str:
    """How an endpoint is named to people: its address, without the scheme and the path."""
    return url.split("://", 1)[-1].split("/", 1)[0]
