"""A cold model whose fake server can sleep, and the ways in which sleeping and waking go wrong."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from backends.cold import ColdModel, Readiness
from backends.holding import Rung
from backends.instance import ColdSettings, Instance, State
from backends.launchers import LaunchSpec
from backends.launchers.process import ProcessLauncher
from backends.lease import Lease, NoEndpoint, Room
from backends.memory import Unshared
from backends.sleep import ENV, SleepFailed, fall_asleep, wake_up
from backends.tasks import TaskSet
from tests.backends.scenes import Steps
from tests.fakes.model_server import ModelServer
from tests.fakes.process import fake_command
from tests.fakes.sleeper import NONSENSE, Fault, Sleeper

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0
LEVEL_2 = [
    "/wake_up?tags=weights",
    '/collective_rpc {"method":"reload_weights"}',
    "/wake_up?tags=kv_cache",
    "/reset_prefix_cache",
]


class Next:
    """Satisfies `Holding`: the steps of the next idleness, and none for those that follow."""

    def __init__(self, *steps: tuple[float, Rung]) -> None:
        self.steps = steps

    def descent(self, now_s: float) -> Sequence[tuple[float, Rung]]:
        steps, self.steps = self.steps, ()
        return steps


class Watched(ColdModel):
    """Says when a server is told to sleep."""

    def sleep(self, instance: Instance, rung: Rung) -> None:
        super().sleep(instance, rung)
        self.told.set()

    told: asyncio.Event


class Sleepy:
    """A cold model whose servers can sleep, and what became of them."""

    def __init__(
        self, options: tuple[str, ...], steps: Next | Steps, changes: Mapping[str, Any]
    ) -> None:
        env = changes.get("env", ENV)
        values: dict[str, Any] = {
            "start_within_s": 20.0,
            "stop_within_s": 5.0,
            "max_instances": 1,
            "max_concurrency": None,
            "sleep_rungs": ("sleep_1", "sleep_2"),
            "sleep_within_s": 20.0,
        }
        values.update((k, v) for k, v in changes.items() if k in values)
        self.steps = steps
        self.changes: list[tuple[str, State]] = []
        self._changed = asyncio.Event()
        self.cold = Watched(
            LaunchSpec("m", "fake", tuple(fake_command("--sleep-mode", *options)), env, "/v1"),
            ColdSettings(**values),
            steps,
            Readiness(),
            Room(100, 1 << 20),
            ProcessLauncher(),
            asyncio.get_running_loop().time,
            self._on_change,
            itertools.count(1),
            Unshared(),
        )

        self.cold.told = asyncio.Event()

    def _on_change(self, model: str, instance: Instance, state: State) -> None:
        self.changes.append((instance.id, state))
        self._changed.set()

    async def until(self, check: Callable[[], object]) -> None:
        """Looked at whenever a state has changed."""
        async with asyncio.timeout(PATIENCE_S):
            while not check():
                self._changed.clear()
                await self._changed.wait()

    async def until_state(self, state: State, instance_id: str = "m@1", times: int = 1) -> None:
        await self.until(lambda: self.changes.count((instance_id, state)) >= times)

    async def ask(self, only: str | None = None) -> tuple[str, str]:
        """Which instance answered, and what."""
        lease = await self.cold.lease(1, PATIENCE_S, only=only)
        try:
            return lease.endpoint.id, await said_by(lease)
        finally:
            lease.release()

    async def falling(self, rung: Rung = "sleep_1") -> None:
        """One instance that has served a request and is told to sleep."""
        self.steps.steps = ((0.0, rung),)
        await self.ask()
        async with asyncio.timeout(PATIENCE_S):
            await self.cold.told.wait()
        self.cold.told.clear()

    async def asleep(self, rung: Rung = "sleep_1") -> None:
        await self.falling(rung)
        await self.until_state(State.SLEEPING)

    def calls(self, instance_id: str = "m@1") -> list[str]:
        """What its server was told about sleep, in order."""
        lines = self.cold.logs[instance_id].tail(1000)
        mark = "sleep mode: "
        calls = [line.partition(mark)[2] for line in lines if mark in line]
        assert not [call for call in calls if call.isupper()]  # asked while asleep
        return calls

    @property
    def pids(self) -> list[int]:
        return [running.pid for running in self.cold._running.values()]


async def said_by(lease: Lease) -> str:
    body = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
    url = f"{lease.endpoint.origin.url}/chat/completions"
    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        answer = await client.post(url, json=body)
    assert answer.status_code == 200
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@asynccontextmanager
async def sleepy(
    *options: str, steps: Steps | None = None, **changes: Any
) -> AsyncIterator[Sleepy]:
    """Runs it; at the end nothing of it may be left, neither a process nor a task."""
    model, tasks = Sleepy(options, steps or Next(), changes), TaskSet()
    running = tasks.task(model.cold.run(), "model")
    try:
        yield model
    finally:
        model.cold.post(model.cold.lifecycle.retire)
        model.cold.post(model.cold.lifecycle.stop)
        pids = model.pids
        async with asyncio.timeout(PATIENCE_S):
            await running
        assert model.cold.lifecycle.instances == {}
        assert len(model.cold._tasks) == 0
        assert [pid for pid in pids if _lives(pid)] == []


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("rung", "calls"),
    [
        ("sleep_1", ["/sleep?level=1", "/wake_up"]),
        ("sleep_2", ["/sleep?level=2", *LEVEL_2]),
    ],
)
async def test_sleeps_and_gives_a_right_answer_when_it_is_woken(rung: Rung, calls: list[str]):
    async with sleepy() as m:
        await m.asleep(rung)
        view = m.cold.view()
        assert (view.state, view.rung, view.sleeping, view.ready) == ("sleeping", rung, 1, 0)
        assert await m.ask() == ("m@1", "hello")
        assert m.calls() == calls
        view = m.cold.view()
        assert (view.rung, view.ready, len(view.wake_times_s[rung])) == ("hot", 1, 1)
        assert len(view.start_times_s) == 1


async def test_goes_down_rung_by_rung_and_is_stopped_at_the_end() -> None:
    steps = Steps((0.0, "sleep_1"), (0.2, "sleep_2"), (0.4, "off"))
    async with sleepy(steps=steps) as m:
        await m.ask()
        await m.until_state(State.OFF)
        assert [s for _, s in m.changes if s not in (State.LOADING, State.WARMING)] == [
            State.PROVISIONING,
            State.READY,
            State.SLEEPING,
            State.WAKING,  # vLLM ignores /sleep while it sleeps
            State.READY,
            State.SLEEPING,
            State.DRAINING,
            State.OFF,
        ]
        assert m.calls() == ["/sleep?level=1", "/wake_up", "/sleep?level=2"]
        assert (m.cold.view().rung, m.cold.view().state) == ("off", State.OFF)


async def test_many_callers_share_one_wake() -> None:
    async with sleepy("--wake-takes", "0.2") as m:
        await m.asleep()
        answers = await asyncio.gather(*(m.ask() for _ in range(20)))
        assert answers == [("m@1", "hello")] * 20
        assert m.calls() == ["/sleep?level=1", "/wake_up"]


async def test_server_that_answers_before_it_has_done_it_is_asked_until_it_has() -> None:
    async with sleepy("--sleep-early", "--sleep-takes", "0.2", "--wake-takes", "0.2") as m:
        await m.asleep()
        assert await m.ask() == ("m@1", "hello")
        assert m.cold.view().wake_times_s["sleep_1"][0] >= 0.2


async def test_caller_who_comes_while_it_falls_asleep_is_served_by_a_wake() -> None:
    async with sleepy("--sleep-takes", "0.3") as m:
        await m.falling()
        assert await m.ask() == ("m@1", "hello")
        assert m.calls() == ["/sleep?level=1", "/wake_up"]


async def test_stored_response_is_found_again_on_who_slept() -> None:
    async with sleepy() as m:
        await m.asleep()
        assert await m.ask(only="m@1") == ("m@1", "hello")
        with pytest.raises(NoEndpoint):
            await m.ask(only="m@7")


@pytest.mark.parametrize("fault", ["refuses", "breaks", "hangs", "lies"])
async def test_engine_that_does_not_sleep_is_stopped_and_not_asked_again(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with sleepy("--sleep-fault", fault, sleep_within_s=0.4) as m:
        await m.falling()
        await m.until_state(State.OFF)
        assert (m.cold.view().rungs, m.cold.view().failure) == (("hot", "sleep_2", "off"), None)
        m.steps.steps = ((0.0, "sleep_1"),)
        assert (await m.ask())[0] == "m@2"
        await m.until_state(State.OFF, "m@2")
        assert len(m.calls("m@1")) == 1
        assert m.calls("m@2") == []
        assert sum("cannot be put to sleep" in r.message for r in caplog.records) == 1


async def test_engine_without_the_routes_is_stopped_instead() -> None:
    async with sleepy(env={}) as m:
        await m.falling()
        await m.until_state(State.OFF)
        assert m.calls() == []


async def test_caller_who_comes_while_an_engine_refuses_is_served_by_a_start() -> None:
    async with sleepy("--sleep-fault", "lies", sleep_within_s=0.4) as m:
        await m.falling()
        assert await m.ask() == ("m@2", "hello")


@pytest.mark.parametrize("fault", ["wake-breaks", "wake-hangs", "wake-lies", "wake-dies", "dumb"])
async def test_wake_that_fails_is_followed_by_a_start_for_who_waits(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.cold.VERIFY_WITHIN_S", 0.5)
    async with sleepy("--sleep-fault", fault) as m:
        await m.asleep()
        shorter = replace(m.cold.lifecycle.settings, start_within_s=1.0)
        m.cold.post(m.cold.lifecycle.reconfigure, shorter)
        answers = await asyncio.gather(*(m.ask() for _ in range(5)))
        assert answers == [("m@2", "hello")] * 5
        ended = [state for instance_id, state in m.changes if instance_id == "m@1"]
        assert State.FAILED in ended
        assert ended[-1] is State.OFF


async def test_engine_that_dies_of_sleep_is_not_put_to_sleep_again() -> None:
    """Such as one that the kernel killed for the host memory that its weights took."""
    async with sleepy("--sleep-fault", "dies") as m:
        await m.falling()
        await m.until_state(State.OFF)
        assert "sleep_1" not in m.cold.view().rungs
        assert (await m.ask())[0] == "m@2"


@pytest.mark.parametrize("waking", [False, True])
async def test_kill_while_it_sleeps_or_wakes_loses_nobody(waking: bool) -> None:
    async with sleepy("--wake-takes", "30") as m:
        await m.asleep()
        caller = asyncio.ensure_future(m.ask()) if waking else None
        if waking:
            await m.until_state(State.WAKING)
        [pid] = m.pids
        os.kill(pid, signal.SIGKILL)
        await m.until_state(State.OFF)
        assert (await (caller or m.ask()))[0] == "m@2"


@pytest.mark.parametrize("how", ["drain", "stop", "hurry", "retire"])
@pytest.mark.parametrize("at", ["falling", "asleep", "waking"])
async def test_stop_ends_it_wherever_it_is(at: str, how: str) -> None:
    slow = {"falling": "--sleep-takes", "waking": "--wake-takes"}.get(at)
    async with sleepy(*((slow, "60") if slow else ()), sleep_within_s=60.0) as m:
        if at == "falling":
            await m.falling()
        else:
            await m.asleep()
        if at == "waking":
            m.cold.wake()
            await m.until_state(State.WAKING)
        if how == "hurry":
            m.cold.hurry()
        else:
            m.cold.post(getattr(m.cold.lifecycle, how))
        await m.until_state(State.OFF)
        assert m.cold.view().failure is None


async def test_held_ready_it_does_not_sleep_and_is_woken_if_it_does() -> None:
    async with sleepy(steps=Steps((0.0, "sleep_1"))) as m:
        m.cold.hold(None)
        await m.until_state(State.READY)
        await m.ask()
        assert m.calls() == []
        m.cold.hold(0.0)
        await m.until_state(State.SLEEPING)
        m.cold.hold_instances(1)
        await m.until_state(State.READY, times=2)
        assert m.cold.view().ready == 1


# --- the calls themselves -----------------------------------------------------------------------


class Server:
    """Satisfies as much of `Running` as is asked about."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url, self.key, self.pid, self.reason = url, key, 0, None

    async def wait(self) -> int:
        raise NotImplementedError

    async def stop(self, within_s: float) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("base", ["/v1", "/v1/", "/deep/v1", ""])
async def test_routes_stand_at_the_root_and_get_the_key(base: str) -> None:
    async with ModelServer() as server:
        server.sleeper = Sleeper()
        running = Server(f"http://127.0.0.1:{server.port}{base}", "secret")
        await fall_asleep(running, "sleep_2")
        assert server.sleeper.asleep
        await wake_up(running, "sleep_2")
        assert not server.sleeper.asleep
        assert not server.sleeper.talks_nonsense
        assert server.sleeper.calls == ["/sleep?level=2", *LEVEL_2]
        assert {r.header("authorization") for r in server.requests} == {"Bearer secret"}


async def test_weights_that_are_not_read_again_would_be_noticed() -> None:
    """The fake is worth something: it is as forgetful as a real engine at level 2."""
    async with ModelServer() as server:
        server.sleeper = Sleeper()
        running = Server(server.url, None)
        await fall_asleep(running, "sleep_2")
        await wake_up(running, "sleep_1")
        body = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.post(f"{server.url}/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == NONSENSE


@pytest.mark.parametrize("fault", [Fault.REFUSES, Fault.BREAKS])
async def test_refusal_says_to_what(fault: Fault) -> None:
    async with ModelServer() as server:
        server.sleeper = Sleeper(fault=fault)
        with pytest.raises(SleepFailed, match=r"POST /sleep\?level=1 answered [45]00"):
            await fall_asleep(Server(server.url, None), "sleep_1")


async def test_server_that_is_gone_is_a_failure_and_no_wait() -> None:
    async with ModelServer() as server:
        url = server.url
    with pytest.raises(SleepFailed, match="got no answer"):
        await fall_asleep(Server(url, None), "sleep_1")


async def test_server_that_cannot_say_whether_it_sleeps_is_refused() -> None:
    async with ModelServer() as server:  # its built-in answer to any POST is 200
        with pytest.raises(SleepFailed, match="GET /is_sleeping answered 404"):
            await fall_asleep(Server(server.url, None), "sleep_1")
