"""A deadline that is moved again and again, on one timer."""

import asyncio
import gc
import weakref

import pytest

from backends.deadline import Deadline
from tests.backends.upstream_server import until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


async def test_latest_setting_counts() -> None:
    passed: list[float] = []
    loop = asyncio.get_running_loop()
    deadline = Deadline(loop, lambda: passed.append(loop.time()))
    began = loop.time()
    deadline.after(0.01)
    deadline.after(0.2)
    await until(lambda: bool(passed))
    assert passed[0] - began >= 0.19
    assert len(passed) == 1


async def test_earlier_setting_is_not_late() -> None:
    passed: list[bool] = []
    deadline = Deadline(asyncio.get_running_loop(), lambda: passed.append(True))
    deadline.after(3600)
    deadline.after(0.01)
    await until(lambda: passed == [True])


async def test_cleared_or_cancelled_never_passes() -> None:
    passed: list[bool] = []
    loop = asyncio.get_running_loop()
    cleared, cancelled = (Deadline(loop, lambda: passed.append(True)) for _ in range(2))
    cleared.after(0.01)
    cancelled.after(0.01)
    cleared.clear()
    cancelled.cancel()
    await asyncio.sleep(0.05)
    assert not passed
    cleared.after(0.01)
    await until(lambda: passed == [True])


async def test_cancelled_deadline_keeps_nothing_of_its_owner_alive() -> None:
    class Owner:
        def __init__(self) -> None:
            self.deadline = Deadline(asyncio.get_running_loop(), self.late)

        def late(self) -> None: ...

    gc.disable()
    try:
        owner = Owner()
        gone = weakref.ref(owner)
        owner.deadline.after(3600)
        owner.deadline.cancel()
        del owner
        assert gone() is None
    finally:
        gc.enable()
