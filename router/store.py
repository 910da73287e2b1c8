"""What outlasts a restart, in one SQLite file that one thread writes.

The event loop appends to queues; the thread writes them in one transaction a second. Whatever is
wrong with the file (locked, full, corrupt), nobody waits for it: it is logged once, and the
gateway goes on with what it has in memory. No prompt, no answer and no key is ever in it.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Struct, structs

from router.labels import Label
from router.spend import Amount

log = logging.getLogger("lamplighter.store")

WRITE_EVERY_S = 1.0  # what a kill -9 may lose
TIDY_EVERY_S = 600.0
ROWS_WAITING = 50_000  # of requests, while the file cannot be written; 15 MB
FACTS_WAITING = 20_000
AT_ONCE = 5_000  # rows in one transaction
TIDY_AT_ONCE = 50_000
BUSY_S = 2.0
CLOSE_WITHIN_S = 5.0
SPEND_DAYS = 400
GAPS_KEPT = 200
STARTS_KEPT = 100

_APPLICATION = 0x4C616D70  # "Lamp", which tells our files from those of other programs
_VERSION = 1
_DAY_S = 86400.0


class Row(Struct, array_like=True, frozen=True):
    """One request. `time` is that of its arrival, seconds since the epoch; None: not known.

    `deadline_s` is how long after its arrival it could wait for a server, `answered_by` the model
    whose servers were asked last, `placement` where (`hot`, `cold`, `api`; empty: nowhere).
    By `bytes_in`, the size of its body, it was guessed what an API would charge for it. `asked` is
    the policy or the model that its caller asked for; empty for a part of another request, and for
    what was asked behind a caller's back.
    """

    time: float
    model: str
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    priority: str
    deadline_s: float | None
    duration_s: float
    placement: str
    cold: bool
    waited_s: float
    first_token_s: float | None
    usd: float
    outcome: str
    answered_by: str
    reasons: str
    bytes_in: int = 0
    asked: str = ""


class Transition(Struct, array_like=True, frozen=True):
    """An instance entered a state; `rung` is the one that it is on."""

    time: float
    model: str
    instance: str
    state: str
    rung: str


class KeptHour(Struct, array_like=True, frozen=True):
    """One hour of the week of one model, as `router.week.Hour` has it."""

    model: str
    hour: int
    week: int
    seconds: float
    requests: float


class Kept(Struct):
    """What an earlier process learnt, oldest first."""

    gaps: dict[str, list[float]] = {}
    starts: dict[tuple[str, str], list[float]] = {}  # by model and stage
    hours: list[KeptHour] = []
    spend: list[Amount] = []


class _Batch(NamedTuple):
    """What goes into one transaction."""

    facts: list[tuple[str, tuple[object, ...]]]
    rows: list[Row]


class StoreError(Exception):
    """The file cannot be used; the message says why, for people."""


_COLUMNS = ", ".join(Row.__struct_fields__)
# Later than the rest: files of version 1 may not have it yet.
_LABELS = f"CREATE TABLE IF NOT EXISTS labels ({', '.join(Label.__struct_fields__)});"
_SCHEMA = f"""
CREATE TABLE requests ({_COLUMNS});
CREATE INDEX requests_by_time ON requests (time);
CREATE TABLE transitions (time, model, instance, state, rung);
CREATE INDEX transitions_by_time ON transitions (time);
CREATE TABLE gaps (id INTEGER PRIMARY KEY, time, model, seconds);
CREATE TABLE starts (id INTEGER PRIMARY KEY, time, model, stage, seconds);
CREATE TABLE hours (model, hour, week, seconds, requests, PRIMARY KEY (model, hour));
CREATE TABLE spend (day, model, kind, picodollars, PRIMARY KEY (day, model, kind));
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""


def _insert(table: str, columns: int) -> str:
    return f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})"


_ROW = _insert("requests", len(Row.__struct_fields__))
_TRANSITION = _insert("transitions", 5)
_GAP = _insert("gaps (time, model, seconds)", 3)
_START = _insert("starts (time, model, stage, seconds)", 4)
_HOUR = _insert("hours", 5).replace("INSERT", "INSERT OR REPLACE", 1)
_LABEL = _insert("labels", len(Label.__struct_fields__))
_AMOUNT = (
    _insert("spend", 4) + " ON CONFLICT DO UPDATE SET picodollars = picodollars"
    " + excluded.picodollars"
)


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
        self._facts.append((_TRANSITION, structs.astuple(transition)))

    def gap(self, at_s: float, model: str, seconds: float) -> None:
        """An idle gap ended at `at_s`, seconds since the epoch."""
        self._facts.append((_GAP, (at_s, model, seconds)))

    def start(self, at_s: float, model: str, stage: str, seconds: float) -> None:
        """A stage of a start ended at `at_s`, seconds since the epoch."""
        self._facts.append((_START, (at_s, model, stage, seconds)))

    def hour(self, hour: KeptHour) -> None:
        self._facts.append((_HOUR, structs.astuple(hour)))

    def spent(self, amount: Amount) -> None:
        self._facts.append((_AMOUNT, structs.astuple(amount)))

    def label(self, label: Label) -> None:
        self._facts.append((_LABEL, structs.astuple(label)))

    def hurry(self) -> None:
        """Have the thread write what was noted now, and not in a second."""
        self._wake.set()

    # --- blocking, for the thread or for whoever has time ---------------------------------------

    def open(self) -> Kept:
        """What the file holds. Raises StoreError, and then nothing of it is open."""
        try:
            self._lock = _lock(self.path)
            self._database = database = _connect(self.path)
            self._file = _file_at(self.path)
            return _load(database)
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
                self._database.executemany(_ROW, map(structs.astuple, batch.rows))
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
        found = _file_at(self.path)
        if found == self._file:
            return
        if found is not None:  # opening it beside what SQLite left of ours could spoil it
            raise StoreError("another file took its place; restart the gateway to use that one")
        assert self._database is not None
        self._database.close()
        self._database = _connect(self.path)
        self._file = _file_at(self.path)
        self._on_error()
        log.error("the store %s was deleted and is begun anew: what it held is lost", self.path)

    def tidy(self, epoch_s: float) -> None:
        """Delete what is too old to be kept."""
        assert self._database is not None
        day = int(epoch_s // _DAY_S)
        try:
            with self._database:
                for table in ("requests", "transitions"):
                    self._database.execute(
                        f"DELETE FROM {table} WHERE rowid IN"
                        f" (SELECT rowid FROM {table} WHERE time < ? LIMIT {TIDY_AT_ONCE})",
                        (epoch_s - self.keep_s,),
                    )
                self._database.execute(_all_but_newest("gaps", "model", GAPS_KEPT))
                self._database.execute(_all_but_newest("starts", "model, stage", STARTS_KEPT))
                self._database.execute("DELETE FROM spend WHERE day <= ?", (day - SPEND_DAYS,))
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


def _lock(path: str) -> int:
    """A lock on the store, held by the open descriptor. Raises StoreError, OSError."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StoreError("another gateway uses it; give each a file of its own") from error
    return lock


def _file_at(path: str) -> int | None:
    """What tells a file from others, None where there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def _connect(path: str) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # A transaction begins where the code says so, and is used by one thread after another.
    database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        _check(database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # safe after a kill; no fsync a second
        database.execute("BEGIN IMMEDIATE")  # whether it can be written
        database.execute(_LABELS)
        _add_columns(database)
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _add_columns(database: sqlite3.Connection) -> None:
    """Those of requests that came later than the file: NULL in the rows that it has."""
    there = {name for _, name, *_ in database.execute("PRAGMA table_info(requests)")}
    for name in Row.__struct_fields__:
        if name not in there:
            database.execute(f"ALTER TABLE requests ADD COLUMN {name}")


def _check(database: sqlite3.Connection) -> None:
    """Raises StoreError for a file that is not ours, or is of a later version."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise StoreError("it is a database of another program")
    if version != _VERSION:
        raise StoreError(f"it was written by another version of Lamplighter (schema {version})")


def _load(database: sqlite3.Connection) -> Kept:
    kept = Kept()
    gaps = "SELECT model, seconds FROM gaps ORDER BY id"
    for model, seconds in database.execute(gaps):
        kept.gaps.setdefault(model, []).append(float(seconds))
    starts = "SELECT model, stage, seconds FROM starts ORDER BY id"
    for model, stage, seconds in database.execute(starts):
        kept.starts.setdefault((model, stage), []).append(float(seconds))
    hours = "SELECT model, hour, week, seconds, requests FROM hours"
    kept.hours = [KeptHour(*values) for values in database.execute(hours)]
    spend = "SELECT day, model, kind, picodollars FROM spend"
    kept.spend = [Amount(*values) for values in database.execute(spend)]
    return kept


def _all_but_newest(table: str, of: str, count: int) -> str:
    ranked = f"SELECT id, row_number() OVER (PARTITION BY {of} ORDER BY id DESC) n FROM {table}"
    return f"DELETE FROM {table} WHERE id IN (SELECT id FROM ({ranked}) WHERE n > {count})"


def _taken(queue: deque[Any], at_most: int) -> list[Any]:
    """The oldest of a queue that another thread appends to."""
    taken: list[Any] = []
    with contextlib.suppress(IndexError):
        while len(taken) < at_most:
            taken.append(queue.popleft())
    return taken
