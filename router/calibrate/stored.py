"""Labels that a gateway has learned by itself, from the SQLite file of its store."""

import sqlite3
from pathlib import Path

import msgspec

from policies.signals import Signals
from router.calibrate.labelled import Labelled
from router.database import reading

_SIGNALS = msgspec.json.Decoder(Signals)
_LABELS = (
    "SELECT signals, first, small_right, large_right FROM labels"
    " WHERE policy = ? AND small = ? AND large = ? ORDER BY time"
)


def read(path: Path, policy: str, small: str, large: str) -> list[Labelled]:
    """Those of one cascade, oldest first. ValueError, in words, when there is no such file."""
    try:
        with reading(path) as database:
            rows = database.execute(_LABELS, (policy, small, large)).fetchall()
        return [_labelled(policy, *row) for row in rows]
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise ValueError(f"cannot read the labels in {path}: {error}") from error


def _labelled(
    policy: str, found: str, first: str | None, small_right: int, large_right: int | None
) -> Labelled:
    return Labelled(
        signals=_SIGNALS.decode(found),
        small_right=bool(small_right),
        large_right=None if large_right is None else bool(large_right),
        first=None if first is None else _SIGNALS.decode(first),
        policy=policy,
    )
