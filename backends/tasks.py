"""Owned background tasks: every task of the program is started here, so that shutdown can await it.

A task whose owner forgot it is collected or dies unseen; this is the one place that may call
`asyncio.create_task`.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("lamplighter.tasks")


class TaskSet:
    """The background tasks of one owner; `close` cancels and awaits those that still run."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run `work` in the background and forget it."""
        self.task(work, name).add_done_callback(_log_failure)

    def task(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` in the background; the caller looks at what comes of it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait(self) -> None:
        """Return when every task has ended by itself, tasks started meanwhile included."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel what runs and return when all of it has ended."""
        for task in list(self._tasks):
            task.cancel()
        await self.wait()


def _log_failure(task: asyncio.Task[Any]) -> None:
    """An exception that nobody awaits is logged, not lost."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s failed", task.get_name(), exc_info=error)
