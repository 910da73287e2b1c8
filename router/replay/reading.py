"""From a path to a trace, whatever its shape."""

from pathlib import Path

from router.replay.columns import TraceError
from router.replay.rates import is_rates, read_rates
from router.replay.traces import Trace, is_store, open_text, read_requests, read_store, table_of


def read(path: Path, seed: int, days: float | None = None) -> Trace:
    """TraceError says what is wrong with it, and where."""
    with open_text(path) as file:
        if is_store(path):
            return read_store(path, days)
        try:
            table = table_of(path, file)
            return read_rates(table, seed, days) if is_rates(table) else read_requests(table, days)
        except (UnicodeDecodeError, EOFError, OSError) as error:
            raise TraceError(f"{path}: cannot read it: {error}") from error
