"""The file of a store: its tables, the statements that fill them, and what makes it ours.

Whose thread writes when is `store.py`'s.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from msgspec import Struct

from router.labels import Label
from router.spend import Amount

SPEND_DAYS = 400
GAPS_KEPT = 200
STARTS_KEPT = 100
TIDY_AT_ONCE = 50_000  # rows of a table in one transaction

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


ADD_ROW = _insert("requests", len(Row.__struct_fields__))
ADD_TRANSITION = _insert("transitions", 5)
ADD_GAP = _insert("gaps (time, model, seconds)", 3)
ADD_START = _insert("starts (time, model, stage, seconds)", 4)
ADD_HOUR = _insert("hours", 5).replace("INSERT", "INSERT OR REPLACE", 1)
ADD_LABEL = _insert("labels", len(Label.__struct_fields__))
ADD_AMOUNT = (
    _insert("spend", 4) + " ON CONFLICT DO UPDATE SET picodollars = picodollars"
    " + excluded.picodollars"
)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The file of any store, also of one that a gateway is writing. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        yield database


def lock(path: str) -> int:
    """A lock on the store, held by the open descriptor. Raises StoreError, OSError."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError("another gateway uses it; give each a file of its own") from error
    return descriptor


def file_at(path: str) -> int | None:
    """What tells a file from others, None where there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def connect(path: str, busy_s: float) -> sqlite3.Connection:
    """The file, begun if there is none; `busy_s` is how long its locks are waited for.

    Raises StoreError, OSError, sqlite3.Error.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # A transaction begins where the code says so, and is used by one thread after another.
    database = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
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


def load(database: sqlite3.Connection) -> Kept:
    """What it holds of earlier processes. Raises sqlite3.Error, TypeError, ValueError."""
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


def tidy(database: sqlite3.Connection, epoch_s: float, keep_s: float) -> None:
    """Delete what is too old to be kept, of requests what is older than `keep_s`."""
    with database:
        for table in ("requests", "transitions"):
            database.execute(
                f"DELETE FROM {table} WHERE rowid IN"
                f" (SELECT rowid FROM {table} WHERE time < ? LIMIT {TIDY_AT_ONCE})",
                (epoch_s - keep_s,),
            )
        database.execute(_all_but_newest("gaps", "model", GAPS_KEPT))
        database.execute(_all_but_newest("starts", "model, stage", STARTS_KEPT))
        day = int(epoch_s // _DAY_S)
        database.execute("DELETE FROM spend WHERE day <= ?", (day - SPEND_DAYS,))


def _all_but_newest(table: str, of: str, count: int) -> str:
    ranked = f"SELECT id, row_number() OVER (PARTITION BY {of} ORDER BY id DESC) n FROM {table}"
    return f"DELETE FROM {table} WHERE id IN (SELECT id FROM ({ranked}) WHERE n > {count})"
