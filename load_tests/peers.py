"""Lamplighter beside its peers, one core each: `python -m load_tests.peers [--quick]`.

Pins the gateway under test to one core, the load and a mock upstream to another, and prints one
table: CPU of the whole process tree for each request and chunk, added latency, memory. Peers take
turns, round after round; the median counts. Where load or upstream were the limit, the table says
so in place of a number. The first run installs the peers. Talks to loopback only.
"""

import argparse
import dataclasses
import json
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from load_tests.rig.bench import bench
from load_tests.rig.environment import FROM_APT, PACKAGES, Environment, prepared
from load_tests.rig.gateways import COMMANDS
from load_tests.rig.judge import Sample
from load_tests.rig.machine import described, raise_open_files
from load_tests.rig.measurements import EVERYDAY, MEASUREMENTS, QUICK
from load_tests.rig.report import gathered, put_between_marks, table
from load_tests.rig.rounds import Plan, measured

PEERS = ("lamplighter", "vllm-router", "litellm", "nginx")


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads `one,other`."""

    def read(text: str) -> list[str]:
        chosen = text.split(",")
        odd = ", ".join(name for name in chosen if name not in known)
        if odd:
            raise argparse.ArgumentTypeError(f"{odd} is not among {', '.join(known)}")
        return chosen

    return read


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help=f"one short round of {' and '.join(QUICK)}")
    add("--only", type=names(list(MEASUREMENTS)), help=f"of {','.join(MEASUREMENTS)}")
    add("--peers", type=names(list(COMMANDS)), default=PEERS, help=f"of {','.join(COMMANDS)}")
    add("--rounds", type=int, help="of each measurement; 3, and 1 with --quick")
    add("--seconds", type=int, help="of load in a round; 5, and 2 with --quick")
    add("--write", type=Path, metavar="FILE", help="put the report between the marks of a page")
    add("--json", type=Path, metavar="FILE", help="keep every round's numbers")
    given = parser.parse_args()
    given.only = given.only or (QUICK if given.quick else EVERYDAY)
    given.rounds = given.rounds or (1 if given.quick else 3)
    given.seconds = given.seconds or (2 if given.quick else 5)
    return given


def heading(given: argparse.Namespace, environment: Environment) -> str:
    """What was run, where and when."""
    others = [name for name in (*PACKAGES, *FROM_APT) if name in given.peers or name == "wrk"]
    versions = [f"{name} {environment.version(name)}" for name in others]
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {described()}; Python {platform.python_version()}, "
        f"{', '.join(versions)}; {given.rounds} rounds of {given.seconds} s, the median."
    )


def report(given: argparse.Namespace, environment: Environment, samples: Sequence[Sample]) -> str:
    rows = [row for name in MEASUREMENTS for row in MEASUREMENTS[name].rows]
    targets = [*given.peers]
    if any(sample.peer == "direct" for sample in samples):
        targets.append("direct")
    return f"{heading(given, environment)}\n\n{table(rows, targets, gathered(samples))}\n"


def end(signum: int, frame: object) -> None:
    """As an exception, so that everything started is stopped on the way out."""
    sys.exit(128 + signum)


def main() -> None:
    given = options()
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    environment = prepared(given.peers)
    raise_open_files()
    plan = Plan(given.only, given.peers, given.rounds)
    if given.quick:
        plan = dataclasses.replace(plan, quiet_within_s=3.0, tries=1)
    samples: list[Sample] = []
    try:
        with bench(given.seconds) as running:
            samples.extend(measured(running, environment, plan))
    finally:
        if samples:  # of a run that failed, what it found before
            keep(given, report(given, environment, samples), samples)


def keep(given: argparse.Namespace, text: str, samples: Sequence[Sample]) -> None:
    print(text)
    if given.json:
        lines = [dataclasses.asdict(sample) for sample in samples]
        given.json.write_text(json.dumps(lines, indent=1) + "\n")
    if given.write:
        given.write.write_text(put_between_marks(given.write.read_text(), text))


if __name__ == "__main__":
    main()
