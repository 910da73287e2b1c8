"""The composition root: one configuration, its fleet, its router, and how they begin and end."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol

from backends.fleet import Fleet
from backends.instance import Instance, State
from backends.launchers import Launcher
from backends.tasks import TaskSet
from backends.upstream import Origin
from config.load import load
from config.problems import ConfigError
from config.schema import Config
from config.watch import Watcher
from policies import eviction
from proxy.access_log import AccessLog
from proxy.metrics import Metrics
from router.judges import calibration_files, judges
from router.measures import TICK_S, Measures
from router.planners import Planners, recall
from router.record import Record
from router.request import Request
from router.routing import Heard, Router
from router.upkeep import Upkeep

log = logging.getLogger("lamplighter.gateway")

LOOK_AT_FILE_EVERY_S = 1.0  # inotify misses the link swap by which Kubernetes changes a file


class Call(Protocol):
    """What the gateway must be able to do with a call that it serves."""

    def cut_off(self) -> None: ...


@dataclass
class ReloadStatus:
    """How the last attempt to take over the file ended. `at` is seconds since the epoch."""

    at: float
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Gateway:
    """Everything that one process runs.

    `watcher` looks at the file that the configuration came from and was made before it was read,
    so that no change falls between the two; None means a configuration without a file.
    `owner` is set in a worker process: it answers what this one does not know. `elsewhere` gives
    the requests of a model from other processes, in flight and waiting; `on_change` hears of each
    new configuration, `on_drain` that no new requests are taken.
    """

    clock = staticmethod(time.monotonic)

    def __init__(
        self,
        config: Config,
        *,
        watcher: Watcher | None,
        launchers: Mapping[str, Launcher],
        env: Mapping[str, str] | None = None,
        owner: Origin | None = None,
    ) -> None:
        self.owner = owner
        self.elsewhere: Callable[[str], tuple[int, int]] = lambda model: (0, 0)
        self.refresh: Callable[[], Awaitable[None]] = _nothing
        self.on_change: Callable[[Config], None] = lambda config: None
        self.on_drain: Callable[[], None] = lambda: None
        self._first_config = config
        self.path = os.fspath(watcher.path) if watcher is not None else None
        self.metrics = Metrics()
        self.metrics.build.labels(version("lamplighter")).set(1)
        self.measures = Measures(self.clock, time.time(), self._row_dropped, self.metrics.gap)
        self.planners = Planners(self.clock)
        self.fleet = Fleet(
            launchers,
            self.clock,
            self._instance_changed,
            holding=self.planners.holding,
            eviction=eviction,
        )
        self.router = self._new_router()
        self._upkeep = Upkeep(self.fleet, self.planners, self.clock, time.time, self._spent_usd)
        self.draining = False
        self._access_log = AccessLog()
        self.reload_status = ReloadStatus(time.time())
        self._watcher = watcher
        self._calibrations: list[Watcher] = []
        self._env = os.environ if env is None else env
        self._tasks = TaskSet()
        self._started = False
        self._reloading = asyncio.Lock()
        self._calls: set[Call] = set()
        self._no_calls = asyncio.Event()
        self._no_calls.set()

    def _new_router(self) -> Router:
        return Router(
            self.fleet,
            self.clock,
            time.time,
            self.planners,
            self._spent_usd,
            Heard(
                self._arrived,
                self._ended,
                self.measures.label,
                self.metrics.labelled,
                self.metrics.shadow_dropped,
            ),
        )

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.fleet.snapshot.config if self._started else self._first_config

    async def start(self) -> None:
        if self.owner is None:
            await asyncio.to_thread(self.measures.open, self._first_config, self._store_failed)
        self.measures.follow(self._first_config, worker=self.owner is not None)
        self.planners.follow(self._first_config)
        self._calibrations = _watchers(self._first_config)
        judging = await asyncio.to_thread(judges, self._first_config, self.path or "")
        self.router.follow(self._first_config, judging)
        for name, planner in self.planners.items():
            recall(planner, self.measures.demand[name])
        self.fleet.apply(self._first_config)
        self._started = True
        self.metrics.watch_measures(self.measures)
        self.metrics.watch(self.fleet, self.in_flight, self.waiting)
        self.metrics.reload_done(ok=True)
        if self.owner is None:
            self._tasks.start(self._measure(), "measure")
            self._tasks.start(self._upkeep.run(), "upkeep")
            self._tasks.start(self.router.load(self._first_config), "load what policies need")
        if self._watcher is not None:
            self._tasks.start(self._watch_file(self._watcher), "watch the configuration")

    async def close(self) -> None:
        """Stop every instance; requests have ended by now, or have had their time."""
        self.draining = True
        self._access_log.flush()
        await self._tasks.close()
        await self.router.shadows.close()
        async with self._reloading:
            await self.fleet.close(drain_within_s=0.0)
        self.measures.tick(time.time(), self.metrics.api_pico())
        await asyncio.to_thread(self.measures.close)

    @property
    def calls(self) -> int:
        """Calls that are being served."""
        return len(self._calls)

    def leave(self, call: Call) -> None:
        """A call has ended that somebody else counts."""
        self._calls.discard(call)
        if not self._calls:
            self._no_calls.set()

    def finished(self, call: Call, record: Record) -> None:
        """A call has ended: count it, and log it without a word of what was said."""
        self.leave(call)
        record.ended_s = self.clock()
        self._ended(record)
        if record.policy:
            self.metrics.followed(record)
        self._access_log.write(record)

    def _ended(self, record: Record) -> None:
        """A request to one model has ended; a cascade's caller may have got nothing yet."""
        if record.model:
            self.measures.finished(record)
            self.planners.finished(record)
            self.router.cascades.finished(record)
            if self.config.policies:
                self.router.readers.finished(record)
        self.metrics.observe(record)

    def _arrived(self, record: Record) -> None:
        self.metrics.arrived(record)
        self.measures.arrived(record)
        self.planners.arrived(record)

    def in_flight(self, model: str) -> int:
        """Requests of a model at its servers now, from all processes of this gateway."""
        return self.fleet.snapshot.backends[model].in_flight + self.elsewhere(model)[0]

    def waiting(self, model: str) -> int:
        """Requests of a model that wait for an endpoint now, in all processes of this gateway."""
        return self.fleet.snapshot.backends[model].room.requests + self.elsewhere(model)[1]

    def knows(self, request: Request) -> bool:
        """Whether this process answers the request; if not, its owner does.

        Stored responses are the owner's too: which server keeps one, one process must know.
        """
        if self.owner is None:
            return True
        if request.body is None or request.dialect == "responses":
            return False
        return self.config.resolve(request.body.model) is not None

    # --- draining ---------------------------------------------------------------------------

    def enter(self, call: Call) -> None:
        """Count a call that is being served, so that a graceful stop can wait for it."""
        self._calls.add(call)

    def drain(self) -> None:
        """Take no new requests; /ready says so from now on."""
        if not self.draining:
            log.info("draining: %d requests are still served", len(self._calls))
        self.draining = True
        self.on_drain()

    def cut_off(self) -> None:
        """The time to finish is over: what still runs ends with an error that says so."""
        for call in list(self._calls):
            call.cut_off()

    async def until_idle(self) -> None:
        """Wait for the end of the last call; for a gateway that drains."""
        while self._calls:
            self._no_calls.clear()
            await self._no_calls.wait()

    def hurry(self) -> None:
        """Told to stop for the second time: no call and no server gets time to finish."""
        self.cut_off()
        self.fleet.hurry()

    # --- reload -------------------------------------------------------------------------------

    async def reload(self) -> ReloadStatus:
        """Take over the file if it is right; leave everything as it is if it is not."""
        async with self._reloading:
            if self._watcher is None or self.draining:
                why = "is stopping" if self.draining else "was started without a file"
                return ReloadStatus(time.time(), notes=[f"nothing is reloaded: the gateway {why}"])
            await asyncio.to_thread(self._watcher.changed)  # what is read now is no news later
            status = ReloadStatus(time.time())
            try:
                config = await asyncio.to_thread(load, self._watcher.path, self._env)
                calibrations = _watchers(config)
                judging = await asyncio.to_thread(judges, config, self.path or "")
                status.notes = _needs_restart(self.config, config)
                self.measures.follow(config)
                self.planners.follow(config)
                self.router.follow(config, judging)
                self._calibrations = calibrations
                self.fleet.apply(config)
                self._tasks.start(self.router.load(config), "load what policies need")
                self.on_change(config)
            except ConfigError as error:
                status.errors = [str(problem) for problem in error.problems]
            except Exception as error:  # a reload must never take down what runs
                log.exception("reload failed")
                status.errors = [f"the configuration could not be put in force: {error!r}"]
            self._report(status)
            return status

    def _report(self, status: ReloadStatus) -> None:
        self.reload_status = status
        self.metrics.reload_done(ok=not status.errors)
        for line in status.errors:
            log.error("configuration not taken over, the old one goes on: %s", line)
        for line in status.notes:
            log.warning("configuration taken over, but %s", line)
        if not status.errors:
            log.info("configuration %s taken over", self.path)

    async def _watch_file(self, watcher: Watcher) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_FILE_EVERY_S)
            if await asyncio.to_thread(self._files_changed, watcher):
                await self.reload()

    def _files_changed(self, watcher: Watcher) -> bool:
        """Blocking. Looks at each of them, so that one reload is enough for all."""
        return any([file.changed() for file in (watcher, *self._calibrations)])

    # --- measuring ------------------------------------------------------------------------------

    def _instance_changed(self, model: str, instance: Instance, state: State) -> None:
        log.info("instance %s is %s", instance.id, state.value)
        stages = self.measures.instance_changed(model, instance, state)
        self.planners.rose(model, stages)
        self.metrics.instance_changed(model, state, stages)

    def _spent_usd(self, model: str | None) -> float:
        return self.measures.spend.today_usd(model)

    async def _measure(self) -> None:
        while True:
            try:
                self._measure_now()
            except Exception:  # what follows from one wrong number is not that nothing is measured
                log.exception("measuring failed")
            await asyncio.sleep(TICK_S)

    def _measure_now(self) -> None:
        self.measures.tick(time.time(), self.metrics.api_pico())
        if self.measures.sample_due:
            for model, planner in self.planners.items():
                self.measures.demand[model].gaps.floor_s = planner.gaps.floor_s
            self.measures.sample(time.time(), self.metrics.totals(), self._elsewhere)

    def _elsewhere(self, model: str) -> int:
        return sum(self.elsewhere(model))

    def _row_dropped(self) -> None:
        self.metrics.rows_dropped.at().value += 1

    def _store_failed(self) -> None:
        """Called in any thread, by one at a time."""
        self.metrics.store_errors.at().value += 1


async def _nothing() -> None:
    """For a gateway of one process."""


def _watchers(config: Config) -> list[Watcher]:
    """Of the calibrations that cascades judge by; made before they are read."""
    return [Watcher(path) for path in calibration_files(config)]


def _needs_restart(old: Config, new: Config) -> list[str]:
    """Keys that are read once, at the start."""
    fixed = ("host", "port", "max_header_bytes", "header_timeout")
    changed = [f"server.{k}" for k in fixed if getattr(old.server, k) != getattr(new.server, k)]
    if old.admin != new.admin:
        changed.append("admin.key")
    if old.store.path != new.store.path:
        changed.append("store.path")
    return [f"{key} changes only at the next start" for key in changed]
