"""Memory over a million requests, for each peer alone: `--only memory`. Takes minutes."""

from collections.abc import Iterator

from load_tests.rig.bench import Bench
from load_tests.rig.calls import small_body
from load_tests.rig.gateways import Target
from load_tests.rig.judge import FAILED, Sample
from load_tests.rig.plain import run_wrk
from load_tests.rig.report import Row

FIRST, ALL = 100_000, 1_000_000
CONNECTIONS = 64
SLICE_S = 5
MOST_S = 900  # what cannot answer a million requests in this time is measured at what it did

ROWS = (
    Row("memory-first", f"memory after {FIRST:,} plain requests (MB)"),
    Row("memory-all", f"memory after {ALL:,} plain requests (MB)"),
    Row("memory-growth", "growth in between (%)", "nothing", reach="<= 5 %"),
)


def once(bench: Bench, target: Target, direct: object) -> Iterator[Sample]:
    requests, errors, spent_s, first_mb = 0, 0, 0, 0.0
    while requests < ALL and spent_s < MOST_S:
        run = run_wrk(bench, target, small_body(), CONNECTIONS, SLICE_S)
        spent_s += SLICE_S
        requests += run.requests
        errors += run.errors
        if not first_mb and requests >= FIRST:
            first_mb = target.rss_bytes() / 1e6
    last_mb = target.rss_bytes() / 1e6
    refused = FAILED if errors else "" if requests >= ALL else f"only {requests:,} in {MOST_S} s"
    yield Sample("memory-first", target.name, first_mb, refused if not first_mb else "")
    yield Sample("memory-all", target.name, last_mb, refused)
    yield Sample("memory-growth", target.name, 100 * (last_mb / (first_mb or last_mb) - 1), refused)
