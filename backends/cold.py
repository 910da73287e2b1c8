"""One cold model: the task that owns its states, and the work that its states ask for.

Everybody else posts events to its mailbox; the one task takes them in order and lets the
`Lifecycle` decide. Launching, probing and stopping run detached and come back as events.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial

from backends.endpoint import Endpoint
from backends.holding import Holding, Rung
from backends.instance import ColdSettings, Failure, Instance, State
from backends.launchers import Launcher, LaunchFailed, LaunchSpec, Running
from backends.lease import Lease, NoEndpoint, Room, Waiter, WaitExpired, WaitQueue, wait_for_lease
from backends.lifecycle import Lifecycle
from backends.log_ring import LogRing
from backends.memory import Memory
from backends.readiness import WrongModel, ready_or_exited
from backends.sleep import SleepFailed, fall_asleep, wake_up
from backends.tasks import TaskSet
from backends.upstream import Origin
from backends.view import NEARNESS, view
from backends.view import ColdView as ColdView  # for those who ask a ColdModel

log = logging.getLogger("lamplighter.cold")

LOGS_KEPT = 20  # instances whose log can still be read after they ended
LOG_LINES_IN_ERRORS = 10
HAND_OVER_S = 0.1  # what is free is handed over by the owner's next turn, whatever the deadline
VERIFY_WITHIN_S = 30.0

OnChange = Callable[[str, Instance, State], None]


@dataclass(frozen=True)
class Readiness:
    """How to tell that a server is ready: the path below its base URL, and a first token."""

    models_path: str = "/models"
    canary: bool = True


class ColdModel:
    """Instances that are started when a request comes and stopped when none came for a while."""

    def __init__(
        self,
        spec: LaunchSpec,
        settings: ColdSettings,
        holding: Holding,
        readiness: Readiness,
        room: Room,
        launcher: Launcher,
        clock: Callable[[], float],
        on_change: OnChange,
        numbers: Iterator[int],
        memory: Memory,
    ) -> None:
        self.spec = spec
        self.logs: dict[str, LogRing] = {}
        self._readiness = readiness
        self._launcher = launcher
        self._clock = clock
        self._on_change = on_change
        self._mailbox: asyncio.Queue[tuple[Callable[..., None], tuple[object, ...]]] = (
            asyncio.Queue()
        )
        self._tasks = TaskSet()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, Running] = {}
        self._moves: dict[str, asyncio.Task[None]] = {}  # to sleep, or awake
        self._hurried = False
        self.ended = asyncio.Event()  # retired, and nothing of it is left
        queue = WaitQueue(room)
        self.lifecycle = Lifecycle(
            spec.model, settings, holding, queue, self, clock, numbers, memory
        )

    # --- for callers ---------------------------------------------------------------------------

    async def lease(
        self,
        size: int,
        timeout_s: float,
        excluding: Collection[Endpoint] = (),
        only: str | None = None,
        affinity: str | None = None,
    ) -> Lease:
        """A place at an instance, started if need be; or `only` at one that is ready already.

        Raises NoEndpoint (only with `only`), QueueFull, StartFailed, NoMemory, WaitExpired. A
        caller who is cancelled leaves the queue.
        """
        if self.ended.is_set():
            raise NoEndpoint("it is not in the configuration any more")
        now_s = self._clock()
        waiter = Waiter(size, now_s, excluding, now_s + timeout_s, affinity)
        self.post(self.lifecycle.acquire, waiter, only)
        try:
            return await wait_for_lease(waiter, max(timeout_s, HAND_OVER_S), self._abandon)
        except TimeoutError:
            shortage = self.lifecycle.tenancy.shortage()
            if shortage is not None:
                raise WaitExpired(shortage[0], starting=True, retry_after_s=shortage[1]) from None
            instances = self.lifecycle.instances
            starting = bool(instances.coming) or not instances.ready
            message = "is still starting" if starting else "has no instance with room"
            raise WaitExpired(message, starting=starting) from None

    def view(self, excluding: Collection[Endpoint] = ()) -> ColdView:
        return view(self.lifecycle, self._clock(), excluding)

    def count_by_state(self) -> dict[State, int]:
        """Instances in each state that an instance can be in, zeros included."""
        counts = dict.fromkeys(NEARNESS, 0)
        for instance in self.lifecycle.instances.values():
            counts[instance.state] += 1
        return counts

    def follow(self, spec: LaunchSpec) -> None:
        """Use `spec` from the next launch on; servers that run are left as they are."""
        self.spec = spec

    def hurry(self) -> None:
        """Stop without waiting for anything, those too that are being stopped already."""
        self._hurried = True
        self.post(self.lifecycle.stop)

    # --- for whoever decides ---------------------------------------------------------------------

    def wake(self) -> None:
        """Have one instance ready, woken or started, though nobody waits; it may go down again."""
        self.post(self.lifecycle.wake)

    def hold(self, until_s: float | None) -> None:
        """Keep one instance ready until then, by the clock of the fleet; None: for ever.

        A time that is past ends it. It is started anew, with pauses, if it dies.
        """
        self.post(self.lifecycle.hold, math.inf if until_s is None else until_s)

    def hold_instances(self, number: int) -> None:
        """Keep so many instances ready, as far as `max_instances` lets them; 0 ends it."""
        self.post(self.lifecycle.hold_instances, number)

    def post(self, event: Callable[..., None], *args: object) -> None:
        """Hand an event to the owner of the states. Never blocks, never lost."""
        self._mailbox.put_nowait((event, args))

    # --- the one task that owns the states -------------------------------------------------------

    async def run(self) -> None:
        """Take events until the model is retired and its last instance is gone."""
        machine = self.lifecycle
        machine.tenancy.join()
        while not (machine.retired and not machine.instances and not len(machine.queue)):
            event, args = await self._mailbox.get()
            try:
                event(*args)
            except Exception:  # an error in one event must not orphan the instances
                log.exception("model %s: event %s failed", self.spec.model, event)
        self.ended.set()
        machine.tenancy.leave()
        while not self._mailbox.empty():  # asked in the very moment of the end
            event, args = self._mailbox.get_nowait()
            if event == machine.acquire and isinstance(args[0], Waiter) and not args[0].gone:
                args[0].future.set_exception(NoEndpoint("it left the configuration"))
        await self._tasks.wait()

    # --- effects: what the states ask for --------------------------------------------------------

    def launch(self, instance: Instance, within_s: float) -> None:
        ring = self.logs[instance.id] = LogRing()
        ended = [id for id in self.logs if id not in self.lifecycle.instances]
        for id in ended[:-LOGS_KEPT]:
            del self.logs[id]
        life = self._tasks.task(self._live(instance, ring, within_s), f"instance {instance.id}")
        self._lives[instance.id] = life

    def stop(self, instance: Instance) -> None:
        running, life = self._running.get(instance.id), self._lives.get(instance.id)
        self._end_move(instance.id)
        if running is None and life is not None:
            life.cancel()  # it is still being launched
        elif running is not None:
            within_s = 0.0 if self._hurried else self.lifecycle.settings.stop_within_s
            self._tasks.start(running.stop(within_s), f"stop {instance.id}")

    def kill(self, instance: Instance) -> None:
        running = self._running.get(instance.id)
        self._end_move(instance.id)
        if running is not None:
            self._tasks.start(running.stop(0.0), f"kill {instance.id}")

    def sleep(self, instance: Instance, rung: Rung) -> None:
        self._move(instance, partial(self._fall_asleep, instance, rung))

    def wake_up(self, instance: Instance, within_s: float) -> None:
        self._move(instance, partial(self._wake_up, instance, within_s))

    def _move(
        self, instance: Instance, work: Callable[[Running], Coroutine[None, None, None]]
    ) -> None:
        running = self._running.get(instance.id)
        if running is not None:  # else its end is on its way to the states
            name = f"sleep or wake {instance.id}"
            self._moves[instance.id] = self._tasks.task(work(running), name)

    def _end_move(self, instance_id: str) -> None:
        move = self._moves.pop(instance_id, None)
        if move is not None:
            move.cancel()

    def verify(self, instance: Instance) -> None:
        running = self._running.get(instance.id)
        if running is not None:
            self._tasks.start(self._verify(instance.id, running), f"verify {instance.id}")

    def call_later(self, delay_s: float, event: Callable[..., None], *args: object) -> None:
        asyncio.get_running_loop().call_later(delay_s, self.post, event, *args)

    def changed(self, instance: Instance, state: State) -> None:
        self._on_change(self.spec.model, instance, state)
        self.lifecycle.tenancy.memory.poke()

    # --- the life of an instance -----------------------------------------------------------------

    async def _live(self, instance: Instance, ring: LogRing, within_s: float) -> None:
        """Launch, wait until ready, wait until the process is gone; report each by an event."""
        machine = self.lifecycle
        try:
            running = await self._start(instance, ring, within_s)
        except LaunchFailed as failed:
            self.post(machine.start_failed, instance.id, self._failure(failed, ring))
            return
        except asyncio.CancelledError:
            stopped = Failure("it was stopped while it started", permanent=True)
            self.post(machine.start_failed, instance.id, stopped)
            raise
        except Exception as error:  # whatever it is, the states must hear of it
            log.exception("instance %s: its start failed in the gateway", instance.id)
            fault = LaunchFailed(f"the gateway failed: {error!r}")
            self.post(machine.start_failed, instance.id, self._failure(fault, ring))
            return
        finally:
            self._lives.pop(instance.id, None)
        endpoint = Endpoint(
            instance.id,
            Origin(running.url),
            served_as=self.spec.served_as,
            key=running.key,
            max_concurrency=machine.settings.max_concurrency,
        )
        self.post(machine.became_ready, instance.id, endpoint)
        how = "was lost from sight"
        try:
            how = _exit(await running.wait(), running)
            if running.reason is not None:
                log.warning("instance %s %s", instance.id, how)
        finally:
            self._running.pop(instance.id, None)
            self._end_move(instance.id)
            endpoint.origin.close()
            self.post(machine.exited, instance.id, self._last_words(how, ring))

    async def _start(self, instance: Instance, ring: LogRing, within_s: float) -> Running:
        """A running and ready server; on LaunchFailed and on cancellation nothing is left of it."""
        running: Running | None = None
        try:
            async with asyncio.timeout(within_s):
                running = await self._launcher.launch(self.spec, ring)
                self._running[instance.id] = running
                self.post(self.lifecycle.stage_reached, instance.id, State.LOADING)
                await self._until_ready(instance, running)
                return running
        except BaseException as error:
            if running is not None:
                # It serves nobody, and those who wait for it are to hear of it in time.
                await asyncio.shield(running.stop(0.0))
                self._running.pop(instance.id, None)
            if isinstance(error, TimeoutError):
                within = f"{self.lifecycle.settings.start_within_s:g} s"
                raise LaunchFailed(f"it was not ready within {within} (start_within)") from None
            raise

    async def _until_ready(self, instance: Instance, running: Running) -> None:
        def on_stage(stage: str) -> None:
            self.post(self.lifecycle.stage_reached, instance.id, State(stage))

        try:
            code = await self._probe(running, on_stage)
        except WrongModel as wrong:
            raise LaunchFailed(str(wrong)) from wrong
        if code is not None:
            raise LaunchFailed(f"its server {_exit(code, running)} while it loaded")

    async def _probe(self, running: Running, on_stage: Callable[[str], None]) -> int | None:
        return await ready_or_exited(
            running,
            self.spec.served_as,
            on_stage,
            models_path=self._readiness.models_path,
            canary=self._readiness.canary,
        )

    # --- sleep ---------------------------------------------------------------------------------

    async def _fall_asleep(self, instance: Instance, rung: Rung, running: Running) -> None:
        within_s = self.lifecycle.settings.sleep_within_s
        why = await self._why_not(fall_asleep(running, rung), within_s)
        if why is None:
            self.post(self.lifecycle.fell_asleep, instance.id)
            return
        log.warning(
            "instance %s cannot be put to sleep and is stopped, and so are others of this command"
            " from now on (%s): %s",
            instance.id,
            rung,
            why,
        )
        self.post(self.lifecycle.sleep_refused, instance.id)

    async def _wake_up(self, instance: Instance, within_s: float, running: Running) -> None:
        why = await self._why_not(self._awake(instance.rung, running), within_s)
        if why is None:
            self.post(self.lifecycle.woke, instance.id)
            return
        log.warning("instance %s cannot be woken and is killed: %s", instance.id, why)
        last_words = self._last_words(f"could not be woken: {why}", self.logs[instance.id])
        self.post(self.lifecycle.wake_failed, instance.id, last_words)

    async def _awake(self, rung: Rung, running: Running) -> None:
        await wake_up(running, rung)
        async with asyncio.timeout(VERIFY_WITHIN_S):
            if await self._probe(running, lambda stage: None) is not None:
                raise SleepFailed("it ended")

    async def _why_not(self, work: Awaitable[None], within_s: float) -> str | None:
        """None if it was done; whatever else comes of it, the states must hear of it."""
        try:
            async with asyncio.timeout(within_s):
                await work
        except (SleepFailed, WrongModel) as error:
            return str(error)
        except TimeoutError:
            return "it does not say in time that it did, or gives no token"
        except Exception as error:
            log.exception("model %s: sleep or wake failed in the gateway", self.spec.model)
            return f"the gateway failed: {error!r}"
        return None

    async def _verify(self, instance_id: str, running: Running) -> None:
        """Whether a server that failed its callers still answers; no verdict if it dies anyway."""
        healthy = True
        try:
            async with asyncio.timeout(VERIFY_WITHIN_S):
                if await self._probe(running, lambda stage: None) is not None:
                    return
        except (TimeoutError, WrongModel):
            healthy = False
            log.warning("%s does not answer any more and is stopped", instance_id)
        self.post(self.lifecycle.verified, instance_id, healthy)

    def _abandon(self, waiter: Waiter) -> None:
        self.post(self.lifecycle.abandon, waiter)

    def _failure(self, failed: LaunchFailed, ring: LogRing) -> Failure:
        message = self._last_words(f"could not be started: {failed}", ring)
        log.warning("model %s %s", self.spec.model, message.replace("\n", "\n    "))
        return Failure(message, failed.permanent)

    def _last_words(self, what: str, ring: LogRing) -> str:
        tail = ring.tail(LOG_LINES_IN_ERRORS)
        return f"{what}. Last lines of its log:\n" + "\n".join(tail) if tail else what


def _exit(code: int, running: Running) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
    return how if running.reason is None else f"{how}: {running.reason}"
