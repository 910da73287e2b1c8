"""Rounds: engine alone and gateway take turns, each first in every other round."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.engine.servers import MODEL, Engine, Server, gateway, serving
from load_tests.engine.table import ALONE, DISTURBED, THROUGH, Turn, percentile, tokens_per_s
from load_tests.engine.tool import Load, Tool
from load_tests.rig.machine import core_time_s

QUIET_WITHIN_S = 15.0
LOOKS_EVERY_S = 0.5


@dataclass(frozen=True)
class Plan:
    concurrencies: Sequence[int]
    rounds: int
    requests: int  # of a turn at one at a time; twice as many at more
    tries: int  # of a turn that other programs disturb


@dataclass(frozen=True)
class Cores:
    engine: int
    rest: int  # the gateway and the tool

    def busy_s(self) -> float:
        return core_time_s(self.engine) + core_time_s(self.rest)


def measured(engine: Engine, tool: Tool, plan: Plan, cores: Cores, folder: Path) -> Iterator[Turn]:
    """Every turn, as it ends."""
    with (
        serving(engine, cores.engine, folder) as model_server,
        gateway(model_server.url, cores.rest, folder) as before_it,
    ):
        ways = {ALONE: model_server, THROUGH: before_it}
        meter = Meter(cores, list(ways.values()))
        for concurrency in plan.concurrencies:
            count = plan.requests * (1 if concurrency == 1 else 2)
            load = Load(concurrency, count, engine.extra)
            sent: set[str] = set()

            def once(way: str, load: Load = load, sent: set[str] = sent) -> Turn:
                meter.begin()
                got, prompts = tool.run(ways[way].url, MODEL, load, cores.rest, folder)
                sent.add(prompts)
                return Turn(engine.name, load.concurrency, way, got, meter.others())

            for number in range(plan.rounds):
                for way in list(ways)[:: 1 if number % 2 == 0 else -1]:
                    yield from _undisturbed(once, way, plan.tries, cores)
            if len(sent) > 1:
                raise SystemExit("engine: the prompts were not the same in every turn")


def _undisturbed(once: Callable[[str], Turn], way: str, tries: int, cores: Cores) -> Iterator[Turn]:
    """One turn, and another if other programs spoilt it."""
    for _ in range(tries):
        _wait_until_quiet(cores)
        turn = once(way)
        _tell(turn)
        yield turn
        if not turn.disturbed:
            return


class Meter:
    """What programs that are none of ours use of the two cores."""

    def __init__(self, cores: Cores, ours: Sequence[Server]) -> None:
        self._cores = cores
        self._ours = ours
        self.begin()

    def begin(self) -> None:
        self._began_s, self._others_s = time.monotonic(), self._now_s()

    def others(self) -> float:
        """In cores, since it began."""
        return (self._now_s() - self._others_s) / (time.monotonic() - self._began_s)

    def _now_s(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # the tool, once it has been awaited
        servers_s = sum(server.running.cpu_s() for server in self._ours)
        return self._cores.busy_s() - servers_s - ended.ru_utime - ended.ru_stime


def _wait_until_quiet(cores: Cores) -> None:
    until_s = time.monotonic() + QUIET_WITHIN_S
    while time.monotonic() < until_s:
        before_s = cores.busy_s()
        time.sleep(LOOKS_EVERY_S)
        if cores.busy_s() - before_s <= DISTURBED * LOOKS_EVERY_S:
            return


def _tell(turn: Turn) -> None:
    got = turn.answers
    text = (
        f"{turn.engine:10} {turn.concurrency:2} at a time  {turn.way:20} "
        f"first token p50 {percentile(got.first_token_ms, 50):8.1f} ms  "
        f"{tokens_per_s(got):6.1f} tokens/s  {got.errors} errors  others {turn.others:.2f}"
    )
    print(text, file=sys.stderr, flush=True)
