"""Addresses are raced, names are resolved for each connection."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from backends import upstream_dial
from backends.upstream import ConnectFailed, Origin, Timeouts
from backends.upstream_dial import _first_connected, _interleaved

pytestmark = pytest.mark.anyio

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@contextmanager
def listening(backlog: int = 1000) -> Iterator[tuple[str, int]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        yield listener.getsockname()


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, int]]:
    """An address that neither accepts nor refuses: its queue is full."""
    with listening(0) as address:
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        await asyncio.sleep(0.01)
        yield address
        for filler in fillers:
            filler.close()


def refusing() -> tuple[str, int]:
    with listening() as address:
        return address


def test_families_take_turns() -> None:
    addresses = [(V6, "a"), (V6, "b"), (V6, "c"), (V4, "d"), (V4, "e")]
    assert [name for _, name in _interleaved(addresses)] == ["a", "d", "b", "e", "c"]


async def test_second_address_is_used_when_the_first_refuses() -> None:
    with listening() as good:
        connected = await _first_connected(deque([(V4, refusing()), (V4, good)]))
        assert connected.getpeername() == good
        connected.close()


async def test_second_address_is_tried_when_the_first_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream_dial, "HAPPY_EYEBALLS_DELAY_S", 0.02)
    async with silent() as dead:
        with listening() as good:
            files = len(os.listdir("/proc/self/fd"))
            connected = await _first_connected(deque([(V4, dead), (V4, good)]))
            assert connected.getpeername() == good
            connected.close()
            await asyncio.sleep(0.01)
            assert len(os.listdir("/proc/self/fd")) == files


async def test_losers_that_connected_as_well_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_dial, "HAPPY_EYEBALLS_DELAY_S", 0)
    with listening() as good:
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            (await _first_connected(deque([(V4, good)] * 3))).close()
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) <= files + 1


async def test_all_addresses_refused_is_a_refusal() -> None:
    with pytest.raises(ConnectionRefusedError):
        await _first_connected(deque([(V4, refusing()), (V4, refusing())]))


async def test_cancelled_race_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_dial, "HAPPY_EYEBALLS_DELAY_S", 0.001)
    async with silent() as dead:
        files = len(os.listdir("/proc/self/fd"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_first_connected(deque([(V4, dead)] * 3)), 0.02)
        await asyncio.sleep(0.01)
        assert len(os.listdir("/proc/self/fd")) <= files + 1


async def test_unknown_name_is_a_failed_connection() -> None:
    origin = Origin("http://no-such-name.invalid")
    with pytest.raises(ConnectFailed, match="no-such-name.invalid:80 cannot be resolved") as raised:
        await origin.open("GET", b"/", [], b"", Timeouts(10, 1, 1))
    assert not raised.value.refused
