"""What outlasts a restart, in one SQLite file that one thread writes.

The event loop appends to queues; the thread writes them in one transaction a second. Whatever is
wrong with the file (locked, full, corrupt), nobody waits for it: it is logged once, and the
gateway goes on with what it has in memory. No prompt, no answer and no key is ever in it.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import structs

from router.database import (
    ADD_AMOUNT,
    ADD_GAP,
    ADD_HOUR,
    ADD_LABEL,
    ADD_ROW,
    ADD_START,
    ADD_TRANSITION,
    GAPS_KEPT,
    STARTS_KEPT,
    Kept,
    KeptHour,
    Row,
    StoreError,
    Transition,
    connect,
    file_at,
    load,
    lock,
    tidy,
)
from router.labels import Label
from router.spend import Amount

__all__ = [
    "GAPS_KEPT",
    "STARTS_KEPT",
    "Kept",
    "KeptHour",
    "Row",
    "Store",
    "StoreError",
    "Transition",
]

log = logging.getLogger("lamplighter.store")

WRITE_EVERY_S = 1.0  # what a kill -9 may lose
TIDY_EVERY_S = 600.0
ROWS_WAITING = 50_000  # of requests, while the file cannot be written; 15 MB
FACTS_WAITING = 20_000
AT_ONCE = 5_000  # rows in one transaction
BUSY_S = 2.0
CLOSE_WITHIN_S = 5.0


class _Batch(NamedTuple):
    """What goes into one transaction."""

    facts: list[tuple[str, tuple[object, ...]]]
    rows: list[Row]


class Store:
    """One file. All but `open`, `write`, `tidy` and `close` are the event loop's and never wait.

    `rows` may be appended to directly; `keep_s` is how long a request stays in the file.
    """

    def __init__(self, path: str, keep_s: float, on_error: Callable[[], None]) -> None:
        self.path = path
        self.keep_s = keep_s
        self.rows: deque[Row] = deque(maxlen=ROWS_WAITING)
        self._facts: deque[tuple[str, tuple[object, ...]]] = deque(maxlen=FACTS_WAITING)
        self._on_error = on_error
        self._database: sqlite3.Connection | None = None
        self._file: int | None = None  # which one the path named when it was opened
        self._lock: int | None = None
        self._failing = False
        self._batch: _Batch | None = None  # what could not be written
        self._tidy_at_s = 0.0
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    # --- for the event loop ---------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether what is noted now may have to wait long; sums are better kept by their owner."""
        return self._failing or len(self._facts) > FACTS_WAITING // 2

    @property
    def waiting(self) -> bool:
        """Whether something is noted that is not in the file yet."""
        return bool(self._batch or self._facts or self.rows)

    def transition(self, transition: Transition) -> None:
        self._facts.append((ADD_TRANSITION, structs.astuple(transition)))

    def gap(self, at_s: float, model: str, seconds: float) -> None:
        """An idle gap ended at `at_s`, seconds since the epoch."""
        self._facts.append((ADD_GAP, (at_s, model, seconds)))

    def start(self, at_s: float, model: str, stage: str, seconds: float) -> None:
        """A stage of a start ended at `at_s`, seconds since the epoch."""
        self._facts.append((ADD_START, (at_s, model, stage, seconds)))

    def hour(self, hour: KeptHour) -> None:
        self._facts.append((ADD_HOUR, structs.astuple(hour)))

    def spent(self, amount: Amount) -> None:
        self._facts.append((ADD_AMOUNT, structs.astuple(amount)))

    def label(self, label: Label) -> None:
        self._facts.append((ADD_LABEL, structs.astuple(label)))

    def hurry(self) -> None:
        """Have the thread write what was noted now, and not in a second."""
        self._wake.set()

    # --- blocking, for the thread or for whoever has time ---------------------------------------

    def open(self) -> Kept:
        """What the file holds. Raises StoreError, and then nothing of it is open."""
        try:
            self._lock = lock(self.path)
            self._database = database = connect(self.path, BUSY_S)
            self._file = file_at(self.path)
            return load(database)
        except (OSError, sqlite3.Error, TypeError, ValueError) as error:
            self._leave()
            raise StoreError(str(error)) from error
        except StoreError:
            self._leave()
            raise

    def begin(self) -> None:
        """Write every second from now on; for a store that is open."""
        self._thread.start()

    def write(self) -> bool:
        """Write what waits, or as much as fits one transaction. False if that failed."""
        assert self._database is not None
        batch = self._batch or _Batch(_taken(self._facts, AT_ONCE), _taken(self.rows, AT_ONCE))
        if not batch.facts and not batch.rows:
            return True
        try:
            self._begin_anew_if_gone()
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.executemany(ADD_ROW, map(structs.astuple, batch.rows))
                for statement, values in batch.facts:
                    self._database.execute(statement, values)
        except (sqlite3.Error, OSError, StoreError) as error:
            self._batch = batch
            self._failed(error)
            return False
        self._batch = None
        self._worked()
        return True

    def _begin_anew_if_gone(self) -> None:
        """Writing into a file that has no name any more would fail without a word."""
        found = file_at(self.path)
        if found == self._file:
            return
        if found is not None:  # opening it beside what SQLite left of ours could spoil it
            raise StoreError("another file took its place; restart the gateway to use that one")
        assert self._database is not None
        self._database.close()
        self._database = connect(self.path, BUSY_S)
        self._file = file_at(self.path)
        self._on_error()
        log.error("the store %s was deleted and is begun anew: what it held is lost", self.path)

    def tidy(self, epoch_s: float) -> None:
        """Delete what is too old to be kept."""
        assert self._database is not None
        try:
            tidy(self._database, epoch_s, self.keep_s)
        except sqlite3.Error as error:
            self._failed(error)

    def close(self) -> None:
        """Write what waits and close the file; gives up on a file that cannot be written."""
        self._ending = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_WITHIN_S)
            if self._thread.is_alive():
                log.error("the store %s did not take its last second in time", self.path)
                return
        if self._database is not None:
            while self.waiting and self.write():
                pass
        self._leave()

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(WRITE_EVERY_S)
            self._wake.clear()
            while self.write() and len(self.rows) > AT_ONCE:
                pass
            if time.monotonic() >= self._tidy_at_s:
                self._tidy_at_s = time.monotonic() + TIDY_EVERY_S
                self.tidy(time.time())

    def _leave(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _failed(self, error: Exception) -> None:
        self._on_error()
        if not self._failing:
            self._failing = True
            log.error(
                "the store %s cannot be written (%s): what is measured stays in memory until it "
                "can, of requests the last %d",
                self.path,
                error,
                ROWS_WAITING,
            )

    def _worked(self) -> None:
        if self._failing:
            self._failing = False
            log.info("the store %s is written again", self.path)


def _taken(queue: deque[Any], at_most: int) -> list[Any]:
    """The oldest of a queue that another thread appends to."""
    taken: list[Any] = []
    with contextlib.suppress(IndexError):
        while len(taken) < at_most:
            taken.append(queue.popleft())
    return taken
