"""The process launcher with real processes, on both event loops."""

import asyncio
import gc
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from backends.launchers import Launcher, LaunchFailed, LaunchSpec, Running
from backends.launchers.process import ProcessLauncher, ServerProcess, inherited
from backends.log_ring import MASK, LogRing
from backends.ports import Ports

pytestmark = pytest.mark.anyio

WITHIN_S = 10.0
PYTHON = ("{python}", "-I", "-S", "-c")

SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
"""
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"no\\n"))  # print is not reentrant
os.write(1, b"ready\\n")
while True:
    time.sleep(600)
"""
# A server, a child that left its session, and a daemon: all deaf to SIGTERM, one without our
# marker in its environment, as after setproctitle.
FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def say(): print(os.getpid(), flush=True)
if os.fork() == 0:
    os.setsid()
    say()
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        say()
        time.sleep(600)
    os._exit(0)
if os.fork() == 0:
    os.execve("/bin/sh", ["sh", "-c", "echo $$; exec sleep 600"], {})
say()
time.sleep(600)
"""
GATEWAY = """
import asyncio, sys
from backends.launchers import LaunchSpec
from backends.launchers.process import ProcessLauncher
from backends.log_ring import LogRing

async def main():
    log = LogRing()
    spec = LaunchSpec("m", "m", tuple(sys.argv[1:]), {}, "/v1")
    await ProcessLauncher().launch(spec, log)
    while len(log.tail(9)) < 4:
        await asyncio.sleep(0.01)
    print(*log.tail(9), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def _others() -> None:
    """Servers of fixtures that live for the whole session are not ours to judge."""
    OTHERS.clear()
    OTHERS.update(child.pid for child in psutil.Process().children())


OTHERS: set[int] = set()


def guards() -> list[psutil.Process]:
    """The children that this test has now, zombies included."""
    return [child for child in psutil.Process().children() if child.pid not in OTHERS]


def spec(*command: str, env: dict[str, str] | None = None, base_path: str = "/v1") -> LaunchSpec:
    return LaunchSpec("our-name", "org/served", command, env or {}, base_path)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - the world outside sets no events
            await asyncio.sleep(0.005)


async def said(log: LogRing, *lines: str) -> None:
    await until(lambda: all(line in log.tail(100) for line in lines))


@asynccontextmanager
async def running(
    launched: LaunchSpec, log: LogRing, ports: Ports | None = None
) -> AsyncIterator[Running]:
    """A launched server; nothing of it may be left when the test is over."""
    ports = ports or Ports(seed=os.getpid())
    launcher: Launcher = ProcessLauncher(ports)
    server = await launcher.launch(launched, log)
    try:
        yield server
    finally:
        await server.stop(0)
    assert not alive(server.pid)
    assert ports.taken == frozenset()
    assert guards() == []


async def test_a_server_is_started_with_its_placeholders_and_stopped() -> None:
    log = LogRing()
    show = "echo {model} {served_as} {host} {port} $OWN; exec sleep 600"
    async with running(spec("sh", "-c", show, env={"OWN": "{host}:{port}/{{x}}"}), log) as server:
        port = server.url.removeprefix("http://127.0.0.1:").removesuffix("/v1")
        await said(log, f"our-name org/served 127.0.0.1 {port} 127.0.0.1:{port}/{{x}}")
        assert server.key is None
        assert alive(server.pid)
        await server.stop(WITHIN_S)
        assert await server.wait() == -signal.SIGTERM


async def test_the_port_is_reachable_while_it_runs_and_returned_afterwards() -> None:
    ports = Ports(seed=os.getpid())
    async with running(spec(*PYTHON, SERVER, "{port}"), LogRing(), ports) as server:
        (port,) = ports.taken
        await until(lambda: connects(port))
        assert server.url == f"http://127.0.0.1:{port}/v1"
    assert not connects(port)


async def test_the_base_path_is_part_of_the_url() -> None:
    async with running(spec("sleep", "600", base_path="/api/v3/"), LogRing()) as server:
        assert server.url.endswith("/api/v3")


async def test_the_exit_code_reaches_all_who_wait() -> None:
    async with running(spec("sh", "-c", "exit 7"), LogRing()) as server:
        assert await asyncio.gather(*(server.wait() for _ in range(5))) == [7] * 5


async def test_a_crash_while_loading_leaves_its_last_words() -> None:
    log = LogRing()
    script = "print('loading'); raise SystemExit('CUDA out of memory')"
    async with running(spec(*PYTHON, script), log) as server:
        assert await server.wait() == 1
        assert sorted(log.tail(2)) == ["CUDA out of memory", "loading"]


async def test_a_server_deaf_to_sigterm_is_killed_in_time() -> None:
    log = LogRing()
    async with running(spec(*PYTHON, STUBBORN), log) as server:
        await said(log, "ready")
        began_s = time.monotonic()
        await server.stop(0.2)
        assert 0.19 < time.monotonic() - began_s < 5  # uvloop's clock ticks in milliseconds
        assert await server.wait() == -signal.SIGKILL
        assert log.tail(9) == ["ready", "no"]


async def test_of_several_stops_the_earliest_deadline_counts_and_one_sigterm_is_sent() -> None:
    log = LogRing()
    async with running(spec(*PYTHON, STUBBORN), log) as server:
        await said(log, "ready")
        began_s = time.monotonic()
        stops = [asyncio.ensure_future(server.stop(within_s)) for within_s in (600, 0.3, 60)]
        await asyncio.gather(*stops)
        assert time.monotonic() - began_s < 5
        assert log.tail(9) == ["ready", "no"]


async def test_a_stop_goes_on_when_its_caller_leaves() -> None:
    log = LogRing()
    async with running(spec(*PYTHON, STUBBORN), log) as server:
        await said(log, "ready")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await server.stop(0.2)
        assert await asyncio.wait_for(server.wait(), WITHIN_S) == -signal.SIGKILL


async def test_a_stop_after_the_end_does_nothing() -> None:
    async with running(spec("true"), LogRing()) as server:
        assert await server.wait() == 0
        await server.stop(0)
        await server.stop(10)
        assert await server.wait() == 0


async def test_descendants_of_a_server_that_ended_are_gone_when_its_end_is_told() -> None:
    log = LogRing()
    async with running(spec(*PYTHON, FAMILY), log) as server:
        await until(lambda: len(log.tail(9)) == 4)
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait() == -signal.SIGKILL
        assert not any(alive(int(pid)) for pid in log.tail(9))


async def test_when_the_guard_is_killed_nothing_is_left() -> None:
    log = LogRing()
    async with running(spec(*PYTHON, FAMILY), log) as server:
        await until(lambda: len(log.tail(9)) == 4)
        (guard,) = guards()
        guard.kill()
        assert await server.wait() == -signal.SIGKILL
        await until(lambda: not any(alive(int(pid)) for pid in log.tail(9)))


async def test_when_the_gateway_is_killed_nothing_is_left() -> None:
    with other_gateway(sys.executable, "-I", "-S", "-c", FAMILY) as gateway:
        try:
            assert gateway.stdout is not None
            members = [int(pid) for pid in gateway.stdout.readline().split()]
            (guard,) = psutil.Process(gateway.pid).children()
            assert len(members) == 4
            assert all(map(alive, [*members, guard.pid]))
        finally:
            gateway.kill()
    await until(lambda: not any(map(alive, [*members, guard.pid])))


def other_gateway(*command: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", GATEWAY, *command]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("name", "content", "mode", "says"),
    [
        ("absent", None, 0, "no such command: {}"),
        ("plain", "#!/bin/sh\n", 0o644, "{} cannot run: permission denied; is it an executable"),
        ("lost", "#!/no/such/python\n", 0o755, "{} cannot run: the interpreter that its first"),
        ("junk", "\x7fELFjunk", 0o755, "{} cannot run: neither a program for this machine"),
    ],
)
async def test_a_command_that_cannot_run_is_a_permanent_failure(
    tmp_path: Path, name: str, content: str | None, mode: int, says: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    await failing(spec(str(file), "{port}"), says.format(file))


async def test_a_command_is_looked_for_in_the_path_that_it_will_have(tmp_path: Path) -> None:
    program = tmp_path / "our-server"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(stat.S_IRWXU)
    log = LogRing()
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    async with running(spec("our-server", env=own), log) as server:
        assert await server.wait() == 0
        assert log.tail(1) == ["here"]
    await failing(spec("our-server"), "no such command: our-server")


async def test_a_command_that_is_empty_or_has_unknown_placeholders_is_a_permanent_failure() -> None:
    await failing(spec(), "its command is empty")
    await failing(spec("serve", "{prot}"), "unknown placeholder {prot}")
    await failing(spec("echo", "a\0b"), "echo cannot run: Invalid argument")


async def failing(launched: LaunchSpec, says: str) -> None:
    ports = Ports(seed=os.getpid())
    with pytest.raises(LaunchFailed) as failed:
        await ProcessLauncher(ports).launch(launched, LogRing())
    assert says in str(failed.value)
    assert failed.value.permanent
    assert ports.taken == frozenset()
    assert guards() == []


async def test_without_a_free_port_trying_again_may_help() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(LaunchFailed, match="no free port") as failed:
            await ProcessLauncher(Ports(port, port)).launch(spec("true"), LogRing())
    assert not failed.value.permanent


async def test_a_guard_that_cannot_be_started_is_a_failure_without_leaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    open_before = len(os.listdir("/proc/self/fd"))
    ports = Ports(seed=os.getpid())
    with pytest.raises(LaunchFailed, match="its guard could not be started: No such file"):
        await ProcessLauncher(ports).launch(spec("true"), LogRing())
    assert ports.taken == frozenset()
    assert len(os.listdir("/proc/self/fd")) <= open_before


async def test_a_launch_that_is_cancelled_leaves_no_process() -> None:
    ports = Ports(seed=os.getpid())
    for delay_ms in (0, 2, 5, 10, 15, 20):
        launching = asyncio.ensure_future(
            ProcessLauncher(ports).launch(spec("sleep", "600"), LogRing())
        )
        await asyncio.sleep(delay_ms / 1000)
        launching.cancel()
        with suppress(asyncio.CancelledError):
            await (await launching).stop(0)  # it was faster
        assert guards() == []
        assert ports.taken == frozenset()


async def test_the_key_is_fresh_and_never_in_the_log() -> None:
    log = LogRing()
    show = "echo $KEY; echo key={key}; echo {key} >&2; exec sleep 600"
    async with running(spec("sh", "-c", show, env={"KEY": "{key}"}), log) as server:
        await until(lambda: len(log.tail(9)) == 3)
        assert log.tail(9) == [MASK, f"key={MASK}", MASK]
        assert server.key is not None
        assert len(server.key) > 40
        other = await ProcessLauncher().launch(spec("true", "{key}"), LogRing())
        await other.wait()
        assert other.key != server.key


async def test_the_key_is_not_in_the_command_line_of_the_guard() -> None:
    async with running(spec("sh", "-c", "exec sleep 600; echo {key}"), LogRing()) as server:
        (guard,) = guards()
        assert server.key is not None
        assert server.key not in " ".join(guard.cmdline())
        assert server.key not in str(guard.environ())


async def test_binary_junk_in_the_log_is_text_and_the_rest_follows() -> None:
    log = LogRing()
    junk = "head -c 300000 /dev/urandom; echo; printf '\\033[31m\\377fine\\n'"
    async with running(spec("sh", "-c", junk), log) as server:
        await server.wait()
        assert log.tail(1) == ["�fine"]


def test_the_environment_is_the_gateways_without_what_is_its_own() -> None:
    environ = {"PATH": "/bin", "HF_TOKEN": "x", "LAMPLIGHTER_KEY": "x", "NOTIFY_SOCKET": "x"}
    assert inherited(environ) == {"PATH": "/bin", "HF_TOKEN": "x"}


async def test_the_model_s_env_wins_over_the_inherited_one() -> None:
    log = LogRing()
    launcher = ProcessLauncher(environ={"PATH": os.environ["PATH"], "A": "theirs", "B": "kept"})
    show = spec("sh", "-c", "echo $A $B $PYTHONUNBUFFERED", env={"A": "ours"})
    await (await launcher.launch(show, log)).wait()
    assert log.tail(1) == ["ours kept 1"]


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_200_starts_and_stops_leak_nothing() -> None:
    ports = Ports(seed=os.getpid())
    launcher = ProcessLauncher(ports)
    command = spec(*PYTHON, SERVER, "{port}")
    await cycle(launcher, command)
    gc.collect()
    open_before = len(os.listdir("/proc/self/fd"))
    tasks_before = len(asyncio.all_tasks())
    memory_before = psutil.Process().memory_info().rss
    for _ in range(20):
        await asyncio.gather(*(cycle(launcher, command) for _ in range(10)))
    assert len(os.listdir("/proc/self/fd")) <= open_before
    assert len(asyncio.all_tasks()) <= tasks_before
    assert ports.taken == frozenset()
    assert guards() == []
    assert psutil.Process().memory_info().rss - memory_before < 8 << 20


async def cycle(launcher: ProcessLauncher, command: LaunchSpec) -> None:
    server = await launcher.launch(command, LogRing())
    port = int(server.url.removesuffix("/v1").rpartition(":")[2])
    await until(lambda: connects(port))
    await server.stop(WITHIN_S)
    assert await server.wait() == -signal.SIGTERM
    assert not connects(port)


LEASE_S = 2.0


def leased(*command: str, lease_s: float = LEASE_S) -> LaunchSpec:
    return LaunchSpec("our-name", "org/served", command, {}, "/v1", lease_s)


async def test_a_server_outlives_its_lease_while_the_loop_turns() -> None:
    async with running(leased("sleep", "600", lease_s=1.0), LogRing()) as server:
        await asyncio.sleep(3.0)
        assert alive(server.pid)
        assert server.reason is None


async def test_a_loop_that_is_stuck_for_less_than_the_lease_loses_nothing() -> None:
    async with running(leased("sleep", "600"), LogRing()) as server:
        for _ in range(2):
            time.sleep(0.75 * LEASE_S)  # noqa: ASYNC251 - it is what is tried
            await asyncio.sleep(0.01)
        await server.stop(WITHIN_S)
        assert server.reason is None


async def test_a_loop_that_is_stuck_for_longer_loses_the_server() -> None:
    async with running(leased("sleep", "600", lease_s=0.2), LogRing()) as server:
        time.sleep(1.0)  # noqa: ASYNC251 - it is what is tried
        assert await server.wait() == -signal.SIGTERM
        assert server.reason == "the gateway did not renew its lease for 0.2 s (cold.lease)"


async def test_a_server_that_nobody_holds_any_more_loses_its_lease() -> None:
    ports = Ports(seed=os.getpid())
    launcher = ProcessLauncher(ports)
    kept = await launcher.launch(leased("sleep", "600", lease_s=1.0), LogRing())
    forgotten = (await launcher.launch(leased("sleep", "600", lease_s=1.0), LogRing())).pid
    gc.collect()
    await until(lambda: not alive(forgotten))
    assert alive(kept.pid)
    await until(lambda: len(ports.taken) == 1)
    await kept.stop(WITHIN_S)
    assert guards() == []


async def test_renewals_do_not_fill_the_pipe_of_a_guard_that_is_stopped() -> None:
    spec_ = leased(*PYTHON, STUBBORN, lease_s=LEASE_S)
    async with running(spec_, LogRing()) as server:
        assert isinstance(server, ServerProcess)
        (guard,) = guards()
        guard.suspend()
        await until(lambda: guard.status() == psutil.STATUS_STOPPED)
        for _ in range(100_000):  # more than a pipe holds
            server.renew()
        stopping = asyncio.ensure_future(server.stop(0))
        await asyncio.sleep(0.05)
        guard.resume()
        await asyncio.wait_for(stopping, WITHIN_S)
        assert await server.wait() == -signal.SIGKILL
