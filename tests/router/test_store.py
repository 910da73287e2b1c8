"""What was measured is there after a restart, and a file that fails stops nothing."""

import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from router import store as module
from router.spend import Amount
from router.store import GAPS_KEPT, STARTS_KEPT, KeptHour, Row, Store, StoreError, Transition
from tests.gateway import eventually

ROW = Row(
    1000.0,
    "m",
    5,
    7,
    2,
    "high",
    30.0,
    2.5,
    "cold",
    True,
    1.5,
    2.0,
    0.25,
    "ok",
    "m",
    "off: start",
    9,
    "chat",
)


class Errors:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def errors() -> Errors:
    return Errors()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lamplighter.db")


def opened(path: str, errors: Errors, keep_s: float = 1e6) -> Store:
    store = Store(path, keep_s, errors)
    store.open()
    return store


def query(path: str, text: str) -> list[Any]:
    database = sqlite3.connect(path)
    try:
        return database.execute(text).fetchall()
    finally:
        database.close()


def fill(store: Store) -> None:
    store.rows.append(ROW)
    store.gap(1.0, "m", 12.5)
    store.gap(2.0, "m", 3.5)
    store.start(3.0, "m", "total", 20.0)
    store.hour(KeptHour("m", 5, 2900, 3600.0, 42.0))
    store.hour(KeptHour("m", 5, 2900, 3605.0, 43.0))
    store.spent(Amount(20_000, "m", "api", 5))
    store.spent(Amount(20_000, "m", "api", 6))
    store.transition(Transition(4.0, "m", "m@1", "ready", "hot"))


def test_a_file_from_before_a_column_came_gets_it(path: str, errors: Errors) -> None:
    store = opened(path, errors)
    fill(store)
    store.close()
    query(path, "ALTER TABLE requests DROP COLUMN asked")
    store = opened(path, errors)
    fill(store)
    store.close()
    assert query(path, "SELECT asked FROM requests") == [(None,), ("chat",)]
    assert not errors.count


def test_what_was_written_is_read_back(path: str, errors: Errors) -> None:
    store = opened(path, errors)
    fill(store)
    assert store.waiting
    store.close()
    assert not store.waiting
    kept = Store(path, 1e6, errors).open()
    assert kept.gaps == {"m": [12.5, 3.5]}
    assert kept.starts == {("m", "total"): [20.0]}
    assert kept.hours == [KeptHour("m", 5, 2900, 3605.0, 43.0)]
    assert kept.spend == [Amount(20_000, "m", "api", 11)]
    assert query(path, "SELECT * FROM requests") == [
        (1000.0, "m", 5, 7, 2, "high", 30.0, 2.5, "cold", 1, 1.5, 2.0, 0.25, "ok", "m")
        + ("off: start", 9, "chat")
    ]
    assert query(path, "SELECT * FROM transitions") == [(4.0, "m", "m@1", "ready", "hot")]
    assert errors.count == 0


@pytest.mark.parametrize("hurried", [True, False])
def test_thread_writes_when_told_by_itself_and_at_the_end(
    path: str, errors: Errors, hurried: bool
) -> None:
    store = opened(path, errors, keep_s=1e12)
    store.begin()
    fill(store)
    if hurried:
        store.hurry()
    eventually(lambda: query(path, "SELECT count(*) FROM requests") == [(1,)])
    fill(store)
    store.close()
    assert query(path, "SELECT count(*) FROM requests") == [(2,)]


def test_files_are_for_their_user_only(path: str, errors: Errors) -> None:
    old = os.umask(0)
    try:
        store = opened(path, errors)
        fill(store)
        assert store.write()
        found = {p.name: stat.S_IMODE(p.stat().st_mode) for p in Path(path).parent.iterdir()}
    finally:
        os.umask(old)
    assert set(found) == {Path(path).name + end for end in ("", "-wal", "-shm", ".lock")}
    assert set(found.values()) == {0o600}
    store.close()


def test_killed_process_loses_nothing_that_was_written(path: str, errors: Errors) -> None:
    program = (
        "import os, signal, sys; from tests.router.test_store import *\n"
        "store = opened(sys.argv[1], Errors()); fill(store); assert store.write()\n"
        "store.rows.append(ROW); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program, path], cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL
    store = Store(path, 1e6, errors)
    kept = store.open()  # the lock went with the process
    assert kept.spend == [Amount(20_000, "m", "api", 11)]
    assert query(path, "SELECT count(*) FROM requests") == [(1,)]
    store.close()


# --- files that cannot be used ------------------------------------------------------------------


def test_second_gateway_is_refused(path: str, errors: Errors) -> None:
    store = opened(path, errors)
    with pytest.raises(StoreError, match="another gateway uses it"):
        Store(path, 1e6, errors).open()
    store.close()
    opened(path, errors).close()


def test_file_that_is_no_database_is_left_as_it_is(path: str, errors: Errors) -> None:
    Path(path).write_bytes(b"not a database, and longer than its header" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Store(path, 1e6, errors).open()
    assert Path(path).read_bytes().startswith(b"not a database, and")


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("CREATE TABLE theirs (x)", "another program"),
        ("PRAGMA user_version = 2", "another version of Lamplighter .schema 2"),
        ("DROP TABLE gaps", "no such table"),
        ("INSERT INTO gaps VALUES (1, 1, 'm', NULL)", "float"),
    ],
)
def test_file_with_other_contents_is_refused(
    path: str, errors: Errors, statement: str, why: str
) -> None:
    if "theirs" not in statement:
        opened(path, errors).close()
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()
    with pytest.raises(StoreError, match=why):
        Store(path, 1e6, errors).open()


def test_torn_file_is_refused_or_opened_but_never_more(path: str, errors: Errors) -> None:
    store = opened(path, errors)
    for _ in range(2000):
        fill(store)
        store.write()
    store.close()
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:5000] + os.urandom(len(whole) - 10_000) + whole[-5000:])
    torn = Store(path, 1e6, errors)
    with pytest.raises(StoreError, match="malformed"):
        torn.open()


@pytest.mark.parametrize("where", ["missing/lamplighter.db", "."])
def test_path_that_is_no_file_is_refused(tmp_path: Path, errors: Errors, where: str) -> None:
    with pytest.raises(StoreError):
        Store(str(tmp_path / where), 1e6, errors).open()


def test_locked_file_is_told_once_and_written_when_it_is_free(
    path: str, errors: Errors, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.0)
    caplog.set_level(logging.INFO)
    store = opened(path, errors)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    fill(store)
    assert [store.write(), store.write()] == [False, False]
    assert store.behind
    assert (store.waiting, errors.count) == (True, 2)
    assert sum("cannot be written" in r.message for r in caplog.records) == 1
    assert path in caplog.text
    other.execute("ROLLBACK")
    other.close()
    assert store.write()
    assert not store.behind
    assert "is written again" in caplog.text
    assert query(path, "SELECT picodollars FROM spend") == [(11,)]
    store.close()


def test_deleted_file_is_told_and_begun_anew(
    path: str, errors: Errors, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(path, errors)
    fill(store)
    assert store.write()
    os.unlink(path)
    store.rows.append(replace(ROW, model="later"))
    assert store.write()
    store.rows.append(replace(ROW, model="last"))
    store.close()
    assert query(path, "SELECT model FROM requests") == [("later",), ("last",)]
    assert caplog.text.count("was deleted and is begun anew") == 1
    assert errors.count == 1


def test_file_in_its_place_is_told_and_left_as_it_is(
    path: str, errors: Errors, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(path, errors)
    Path(path + ".new").write_bytes(b"rubbish " * 1000)
    os.replace(path + ".new", path)
    store.rows.append(ROW)
    assert not store.write()
    assert not store.write()
    assert caplog.text.count("cannot be written (another file took its place") == 1
    store.close()
    assert Path(path).read_bytes() == b"rubbish " * 1000


def test_full_disk_keeps_the_newest_and_writes_them_when_there_is_room(
    path: str, errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(path, errors)
    database = store._database
    assert database is not None
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("PRAGMA max_page_count = 1")  # clamped to what there is
    for number in range(module.AT_ONCE):
        store.rows.append(replace(ROW, time=float(number)))
    assert not store.write()
    assert errors.count == 1
    for number in range(module.ROWS_WAITING + 10):
        store.rows.append(replace(ROW, time=1e6 + number))
    assert len(store.rows) == module.ROWS_WAITING
    database.execute("PRAGMA max_page_count = 1000000")
    while store.waiting:
        assert store.write()
    store.close()
    found = query(path, "SELECT count(*), min(time), max(time) FROM requests")
    assert found == [(module.AT_ONCE + module.ROWS_WAITING, 0.0, 1e6 + module.ROWS_WAITING + 9)]


def test_close_gives_up_on_a_file_that_cannot_be_written(
    path: str, errors: Errors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_S", 0.0)
    store = opened(path, errors)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    fill(store)
    store.close()
    other.close()
    assert errors.count == 1
    opened(path, errors).close()


# --- retention ----------------------------------------------------------------------------------


def test_what_is_too_old_is_deleted(path: str, errors: Errors) -> None:
    store = opened(path, errors, keep_s=100.0)
    now_s = 500 * 86400.0
    for age_s in (50.0, 99.0, 101.0, 1e6):
        store.rows.append(replace(ROW, time=now_s - age_s))
        store.transition(Transition(now_s - age_s, "m", "m@1", "ready", "hot"))
    for number in range(GAPS_KEPT + 50):
        store.gap(now_s, "a", float(number))
        store.gap(now_s, "b", 1.0)
        store.start(now_s, "a", "total", float(number))
    store.spent(Amount(99, "m", "api", 1))
    store.spent(Amount(101, "m", "api", 1))
    while store.waiting:
        assert store.write()
    store.tidy(now_s)
    assert query(path, "SELECT time FROM requests ORDER BY 1") == [(now_s - 99,), (now_s - 50,)]
    assert query(path, "SELECT count(*) FROM transitions") == [(2,)]
    assert query(path, "SELECT day FROM spend") == [(101,)]
    store.close()
    kept = Store(path, 1e6, errors).open()
    assert kept.gaps["a"] == [float(n) for n in range(50, GAPS_KEPT + 50)]
    assert len(kept.gaps["b"]) == GAPS_KEPT
    assert kept.starts["a", "total"] == [
        float(n) for n in range(GAPS_KEPT + 50 - STARTS_KEPT, GAPS_KEPT + 50)
    ]
    assert errors.count == 0
