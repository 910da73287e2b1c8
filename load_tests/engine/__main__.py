"""A real engine, with and without the gateway: `python -m load_tests.engine [--quick]`.

Starts a real model server (llama.cpp, and vLLM where LAMPLIGHTER_TEST_VLLM names an environment
with it) on one core and the gateway on another, lets aiperf ask both for the same, in turns, and
prints one table. The first run installs aiperf. Talks to loopback only, asks no model hub.
"""

import argparse
import contextlib
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from load_tests.engine.servers import MODEL, engines
from load_tests.engine.table import Turn, note, table
from load_tests.engine.tool import OUTPUT_TOKENS, PROMPT_TOKENS, REQUIREMENTS, prepared
from load_tests.engine.turns import Cores, Plan, measured
from load_tests.rig.machine import described, two_cores
from proxy.weights import WeightsError, fetch


def counts(text: str) -> list[int]:
    """Reads `1,4`."""
    numbers = [int(part) for part in text.split(",")]
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError("must all be at least 1")
    return numbers


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round")
    add("--concurrency", type=counts, default=[1, 4], help="requests at a time; default 1,4")
    add("--rounds", type=int, help="3, and 1 with --quick")
    add("--requests", type=int, help="in a turn, twice as many if not one at a time; 16 or 6")
    add("--only", choices=("llama.cpp", "vLLM"), help="one engine")
    given = parser.parse_args()
    given.rounds = given.rounds or (1 if given.quick else 3)
    given.requests = given.requests or (6 if given.quick else 16)
    return given


def end(signum: int, frame: object) -> None:
    """As an exception, so that everything started is stopped on the way out; once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(128 + signum)


def report(given: argparse.Namespace, turns: Sequence[Turn]) -> str:
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {described()}; Python {platform.python_version()}, "
        f"{REQUIREMENTS[0].replace('==', ' ')}, SmolLM2-135M-Instruct; {given.rounds} rounds; "
        f"prompts of {PROMPT_TOKENS} tokens, answers of {OUTPUT_TOKENS} on average. {note(turns)}"
        f"\n\n{table(turns)}\n"
    )


def main() -> None:
    given = options()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    cores = Cores(*reversed(two_cores()))
    try:
        weights = fetch()
    except WeightsError as error:
        raise SystemExit(f"engine: {error}") from error
    chosen = [one for one in engines(weights) if given.only in (None, one.name)]
    if not chosen:
        raise SystemExit("engine: LAMPLIGHTER_TEST_VLLM names no environment with vLLM")
    tool = prepared(weights)
    plan = Plan(given.concurrency, given.rounds, given.requests, 1 if given.quick else 2)
    turns: list[Turn] = []
    with contextlib.ExitStack() as after:
        after.callback(lambda: print(report(given, turns)) if turns else None)
        for engine in chosen:
            with tempfile.TemporaryDirectory(prefix=f"lamplighter-{MODEL}-") as folder:
                turns.extend(measured(engine, tool, plan, cores, Path(folder)))


if __name__ == "__main__":
    main()
