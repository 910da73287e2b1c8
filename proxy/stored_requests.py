"""Requests that came once, from a file: JSON lines with bodies, or the rows of a store."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Raw, Struct

from proxy.question import headers_of, question
from proxy.stated_options import moment
from router.body import UNREADABLE
from router.database import reading
from router.errors import GatewayError
from router.replay.traces import is_store
from router.request import Request
from router.row_facts import KeptRow, request_of

_FIELDS = msgspec.json.Decoder(dict[str, Raw])


class Stored(Struct, frozen=True):
    """One of them. `at_s` is seconds since the epoch, None where the file does not say.

    `number` is that of its line, or of its row. With a `row` the request is a mere stand-in.
    """

    number: int
    request: Request
    at_s: float | None
    row: KeptRow | None = None


class NotStored(Exception):
    """The file cannot be read; the message says where and why, for people."""


class _Line(Struct, forbid_unknown_fields=True):
    """A line that says more than the body."""

    body: Raw
    path: str | None = None
    headers: dict[str, str] = {}
    time: str | float | None = None


def stored_requests(path: Path) -> Iterator[Stored]:
    """Raises NotStored, also on the way."""
    try:
        if is_store(path):
            yield from _rows(path)
        else:
            with path.open("rb") as file:
                yield from _lines(path, file)
    except OSError as error:
        raise NotStored(f"{path}: cannot read it: {error.strerror}") from error


def _lines(path: Path, file: IO[bytes]) -> Iterator[Stored]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield _line(number, line)
        except (*UNREADABLE, ValueError) as error:
            raise NotStored(f"{path}:{number}: {error}") from error
        except GatewayError as error:
            raise NotStored(f"{path}:{number}: {error.message}") from error


def _line(number: int, line: bytes) -> Stored:
    """A body by itself, or in the field `body` beside others."""
    if "body" not in _FIELDS.decode(line):
        return Stored(number, _request(number, line.strip(), {}, None), None)
    said = msgspec.json.decode(line, type=_Line)
    at_s = moment(said.time) if isinstance(said.time, str) else said.time
    return Stored(number, _request(number, bytes(said.body), said.headers, said.path), at_s)


def _request(number: int, body: bytes, headers: dict[str, str], path: str | None) -> Request:
    """Its number is its id, unless it has one: by that a split without affinity is drawn."""
    found = headers_of(headers.items())
    if b"x-request-id" not in dict(found):
        found.append((b"x-request-id", str(number).encode()))
    return question(body, found, path)


def _rows(path: Path) -> Iterator[Stored]:
    """Of requests as callers made them: not of what was asked behind their backs."""
    try:
        with reading(path) as database:
            there = {name for _, name, *_ in database.execute("PRAGMA table_info(requests)")}
            asked = "coalesce(asked, model)" if "asked" in there else "model"
            columns = [asked if name == "asked" else name for name in KeptRow.__struct_fields__]
            wanted = f"SELECT rowid, {', '.join(columns)} FROM requests"
            for number, *values in database.execute(f"{wanted} WHERE {asked} != '' ORDER BY time"):
                row = msgspec.convert(
                    dict(zip(KeptRow.__struct_fields__, values, strict=True)), KeptRow
                )
                yield Stored(number, request_of(row, str(number)), row.time, row)
    except (sqlite3.Error, msgspec.ValidationError) as error:
        raise NotStored(f"{path}: not a store of Lamplighter's: {error}") from error
