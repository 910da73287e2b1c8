"""Reads a trace: CSV, JSON lines, Lamplighter's own store, or rates per window; .gz or not.

Which columns a file has is worked out from their names (`columns.py`) and said in `Trace.notes`.
Rows need not be in order. A row that cannot be read ends the reading with its file and line:
a trace that was half understood would be replayed into wrong money.
"""

import csv
import gzip
import json
import re
import sqlite3
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol, cast

from router.database import reading
from router.replay.columns import Columns, TraceError, clock_of, columns_of, number
from router.replay.requests import PRIORITIES, Requests

MONDAY_S = 4 * 86400.0  # the epoch began on a Thursday; times that are no dates begin on a Monday
OLDEST_DATE_S = 10 * 365 * 86400.0  # smaller times are not dates
LATEST_DATE_S = 200 * 365 * 86400.0  # later ones are mistakes of units
LONGEST_DAYS = 10 * 366  # placements are looked at all along: a row in another unit takes for ever


class Trace(Protocol):
    """`requests` are in seconds from the beginning of the trace, which is `epoch_s`."""

    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def epoch_s(self) -> float: ...
    @property
    def starts_s(self) -> Mapping[str, Sequence[float]]:
        """Starts that were measured, by model."""

    def requests(self, model: str, floor_s: float) -> Requests:
        """Gaps up to `floor_s` need not be told apart from no gap at all."""

    def end_s(self, model: str) -> float:
        """When the trace ends for it."""


@dataclass(frozen=True)
class RequestTrace:
    """Satisfies `Trace`: requests one by one."""

    by_model: dict[str, Requests]
    epoch_s: float
    length_s: float
    notes: tuple[str, ...] = ()
    starts_s: Mapping[str, Sequence[float]] = field(default_factory=dict)  # measured, by model

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.by_model)

    def requests(self, model: str, floor_s: float) -> Requests:
        return self.by_model[model]

    def end_s(self, model: str) -> float:
        return self.length_s


@dataclass(frozen=True)
class Table:
    """A file as rows of cells; a cell that is missing is None or ''."""

    name: str
    columns: Columns
    rows: Iterator[tuple[int, Sequence[Any]]]
    notes: list[str] = field(default_factory=list)

    def error(self, line: int, what: object) -> TraceError:
        return TraceError(f"{self.name}:{line}: {what}")


def open_text(path: Path) -> IO[str]:
    """A text file, unzipped if need be. TraceError when it cannot be opened."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        opener: Callable[..., Any] = gzip.open if packed else open
        return cast(IO[str], opener(path, "rt", encoding="utf-8-sig", newline=""))
    except OSError as error:
        raise TraceError(f"{path}: cannot read it: {error.strerror}") from error


def is_store(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\x00"


def table_of(path: Path, file: IO[str]) -> Table:
    """The rows of a CSV or JSON lines file."""
    first = file.readline()
    if not first.strip():
        raise TraceError(f"{path}:1: the file is empty")
    lines = chain([first], file)
    return _json_table(path, lines) if first.lstrip().startswith("{") else _csv_table(path, lines)


def _csv_table(path: Path, lines: Iterable[str]) -> Table:
    first, lines = _peek(lines)
    delimiter = next((d for d in ",\t;" if d in first), ",")
    reader = csv.reader(lines, delimiter=delimiter)
    header = [name.strip() for name in next(reader)]
    if any(re.fullmatch(r"[-+0-9.eE]+", name) for name in header):
        raise TraceError(
            f"{path}:1: the first line must name the columns, such as"
            " time,model,input_tokens,output_tokens"
        )

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        try:
            for row in reader:
                if len(row) == len(header):
                    yield reader.line_num, row
                elif row:
                    raise TraceError(
                        f"{path}:{reader.line_num}: {len(row)} cells where the header has"
                        f" {len(header)}"
                    )
        except csv.Error as error:
            raise TraceError(f"{path}:{reader.line_num}: {error}") from error

    return Table(str(path), columns_of(header), rows())


def _json_table(path: Path, lines: Iterable[str]) -> Table:
    first, lines = _peek(lines)
    header = list(_json_row(path, 1, first))

    def rows() -> Iterator[tuple[int, Sequence[Any]]]:
        for line, text in enumerate(lines, 1):
            if text.strip():
                row = _json_row(path, line, text)
                yield line, [row.get(name) for name in header]

    return Table(str(path), columns_of(header), rows())


def _json_row(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}:{line}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise TraceError(f"{path}:{line}: not a JSON object")
    return row


def _peek(lines: Iterable[str]) -> tuple[str, Iterable[str]]:
    there = iter(lines)
    first = next(there)
    return first, chain([first], there)


def read_store(path: Path, days: float | None = None) -> RequestTrace:
    """The requests that a gateway kept (`store.path` in its configuration), and its starts."""
    try:
        with reading(path) as db:
            cursor = db.execute("SELECT * FROM requests ORDER BY time")
            header = [column[0] for column in cursor.description]
            table = Table(str(path), columns_of(header), enumerate(cursor, 1))
            trace = read_requests(table, days)
            query = "SELECT model, seconds FROM starts WHERE stage = 'total' ORDER BY time"
            starts_s: dict[str, list[float]] = {}
            for model, seconds in db.execute(query):
                starts_s.setdefault(model, []).append(number(seconds, "a start"))
            return replace(trace, starts_s=starts_s)
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise TraceError(f"{path}: not a store of Lamplighter's: {error}") from error


def read_requests(table: Table, days: float | None = None) -> RequestTrace:
    """Requests one by one, by model; only the first days of them if `days` is given."""
    by_model = _by_model(table)
    if not by_model:
        raise TraceError(f"{table.name}: there is no request in it")
    first_s = min(min(d.at_s) for d in by_model.values())
    begin_s = first_s if first_s < 0 or first_s > OLDEST_DATE_S else 0.0
    last_s = max(max(d.at_s) for d in by_model.values())
    end_s = min(last_s, begin_s + days * 86400.0) if days is not None else last_s
    refuse_ages(table.name, end_s - begin_s)
    kept: dict[str, Requests] = {}
    for name, rows in by_model.items():
        rows.at_s = array("d", (at_s - begin_s for at_s in rows.at_s))
        if len(rows := rows.in_order().until(end_s - begin_s + 1e-9)):
            kept[name] = rows
    epoch_s = begin_s if begin_s > OLDEST_DATE_S else MONDAY_S
    notes = (f"columns: {table.columns.sentence()}", *table.notes)
    return RequestTrace(kept, epoch_s, end_s - begin_s, notes)


def refuse_ages(name: str, length_s: float) -> None:
    """TraceError for a trace that would be replayed for ever."""
    if length_s > LONGEST_DAYS * 86400.0:
        raise TraceError(
            f"{name}: its times span {length_s / 86400.0:,.0f} days, and {LONGEST_DAYS:,} at most"
            " are replayed; are they all in one unit? --days cuts it off"
        )


def _by_model(table: Table) -> dict[str, Requests]:
    """Each model's rows, with their times as they stand in the file."""
    read = _Row(table)
    by_model: dict[str, Requests] = {}
    for line, row in table.rows:
        try:
            name = read.name(row)
            rows = by_model.get(name)
            if rows is None:
                rows = by_model[name] = read.empty()
            read.into(rows, row)
        except (ValueError, TypeError, OverflowError) as error:
            raise table.error(line, error) from error
    return by_model


class _Row:
    """How to read one row of a table; made once the table's columns are known."""

    def __init__(self, table: Table) -> None:
        found = table.columns.found
        if "time" not in found and "end" not in found:
            raise TraceError(
                f"{table.name}:1: no column tells the time of a request; name one of them `time`"
                f" (found: {', '.join(table.columns.header)})"
            )
        self._found = found
        self._ms = table.columns.ms
        self._clock: Callable[[str], float] | None = None
        self._file = re.sub(r"\.(gz|csv|jsonl|json|txt)", "", Path(table.name).name)
        if "model" not in found and "app" not in found:
            table.notes.append(f"no column tells the model: all is one model, '{self._file}'")
        missing = [name for name in ("input", "output") if name not in found]
        if len(missing) == 2 and "duration" in found:
            table.notes.append("no column tells tokens: as many as speed.output gives in its time")
        elif len(missing) == 2:
            table.notes.append("no column tells tokens: nobody knows what an API would charge")
        elif missing:
            table.notes.append(f"no column tells {missing[0]} tokens: they are 0")

    def name(self, row: Sequence[Any]) -> str:
        parts = [row[self._found[n]] for n in ("app", "model", "client") if n in self._found]
        if not parts:
            return self._file
        if any(part in (None, "") for part in parts):
            raise ValueError("the model's name is empty")
        return "/".join(_shortened(str(part)) for part in parts)

    def empty(self) -> Requests:
        rows = Requests()
        if "input" in self._found:
            rows.inputs = array("d")
        if "output" in self._found:
            rows.outputs = array("d")
        if "duration" in self._found or {"time", "end"} <= self._found.keys():
            rows.durations_s = array("d")
        if "deadline" in self._found:
            rows.deadlines_s = array("d")
        if "priority" in self._found:
            rows.priorities = array("b")
        if "bytes" in self._found:
            rows.sizes = array("d")
        return rows

    def into(self, rows: Requests, row: Sequence[Any]) -> None:
        """Append a row. ValueError says what is wrong with it."""
        duration_s = self._number(row, "duration") if "duration" in self._found else None
        if "time" in self._found:
            at_s = self._time(row, "time")
            if "end" in self._found and duration_s is None:
                duration_s = max(self._time(row, "end") - at_s, 0.0)
        else:
            at_s = self._time(row, "end") - (duration_s or 0.0)
        if duration_s is not None and "waited" in self._found:  # for a place, which took nobody's
            duration_s = max(duration_s - self._number(row, "waited"), 0.0)
        rows.at_s.append(at_s)
        if rows.durations_s is not None:
            rows.durations_s.append(duration_s or 0.0)
        if rows.inputs is not None:
            rows.inputs.append(self._number(row, "input"))
        if rows.outputs is not None:
            rows.outputs.append(self._number(row, "output"))
        if rows.deadlines_s is not None:
            rows.deadlines_s.append(self._number(row, "deadline"))
        if rows.priorities is not None:
            rows.priorities.append(_priority(row[self._found["priority"]]))
        if rows.sizes is not None:
            rows.sizes.append(self._number(row, "bytes"))

    def _time(self, row: Sequence[Any], meaning: str) -> float:
        text = row[self._found[meaning]]
        if text is None or text == "":
            raise ValueError(f"the {meaning} is missing")
        try:
            if self._clock is None:
                self._clock = clock_of(str(text))
            at_s = self._clock(text)
        except ValueError:
            raise ValueError(f"the {meaning} {text!r} is not seconds and no ISO time") from None
        at_s = at_s / 1000.0 if meaning in self._ms else at_s
        if not abs(at_s) <= LATEST_DATE_S:
            raise ValueError(f"the {meaning} {text!r} is no time")
        return at_s

    def _number(self, row: Sequence[Any], meaning: str) -> float:
        """0 for an empty cell."""
        cell = row[self._found[meaning]]
        if cell is None or cell == "":
            return 0.0
        value = number(cell, meaning)
        return value / 1000.0 if meaning in self._ms else value


def _priority(cell: Any) -> int:
    if cell is None or cell == "":
        return -1
    try:
        return PRIORITIES.index(str(cell).strip().lower())
    except ValueError:
        raise ValueError(f"priority {cell!r} is not low, normal or high") from None


def _shortened(name: str) -> str:
    """Azure's names are hashes of 64 digits; ten are enough to tell 10,000 of them apart."""
    return name[:10] if re.fullmatch(r"[0-9a-f]{64}", name) else name
