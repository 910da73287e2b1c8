"""Rounds: engine alone and gateway take turns, each first in every other round."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.engine.servers import MODEL, Engine, Server, gateway, serving
from load_tests.engine.table import ALONE, THROUGH, Turn, percentile, tokens_per_s
from load_tests.engine.tool import Load, Tool
from load_tests.rig.machine import core_time_s

DISTURBED = 0.1  # of a core, used by programs that are none of ours
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
        ways = ((ALONE, model_server), (THROUGH, before_it))
        running = [model_server, before_it]
        for concurrency in plan.concurrencies:
            count = plan.requests * (1 if concurrency == 1 else 2)
            load = Load(concurrency, count, engine.extra)
            sent: set[str] = set()
            for number in range(plan.rounds):
                for way, server in ways if number % 2 == 0 else ways[::-1]:
                    for tries_left in reversed(range(plan.tries)):
                        _wait_until_quiet(cores)
                        meter = Meter(cores, running)
                        got, prompts = tool.run(server.url, MODEL, load, cores.rest, folder)
                        sent.add(prompts)
                        turn = Turn(engine.name, concurrency, way, got, meter.others() > DISTURBED)
                        _tell(turn, meter.others())
                        if not turn.disturbed or not tries_left:
                            break
                    yield turn
            if len(sent) > 1:
                raise SystemExit("engine: the prompts were not the same in every turn")


class Meter:
    """What programs that are none of ours used of the two cores, from its creation on."""

    def __init__(self, cores: Cores, ours: Sequence[Server]) -> None:
        self._cores = cores
        self._ours = ours
        self._began_s, self._others_s = time.monotonic(), self._now_s()

    def others(self) -> float:
        """In cores."""
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


def _tell(turn: Turn, others: float) -> None:
    got = turn.answers
    text = (
        f"{turn.engine:10} {turn.concurrency:2} at a time  {turn.way:20} "
        f"first token p50 {percentile(got.first_token_ms, 50):8.1f} ms  "
        f"{tokens_per_s(got):6.1f} tokens/s  {got.errors} errors  others {others:.2f} of a core"
    )
    print(text, file=sys.stderr, flush=True)
