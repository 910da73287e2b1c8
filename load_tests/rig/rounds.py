"""Rounds: the peers take turns at each measurement, in another order each time."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from load_tests.rig.bench import Bench
from load_tests.rig.environment import Environment
from load_tests.rig.gateways import Target, gateway
from load_tests.rig.judge import Sample
from load_tests.rig.measurements import MEASUREMENTS, Measurement

SETTLES_WITHIN_S = 60.0
LOOKS_EVERY_S = 0.3
IDLE = 0.1  # share of a core


@dataclass(frozen=True)
class Plan:
    only: Sequence[str]
    peers: Sequence[str]
    rounds: int


def measured(bench: Bench, environment: Environment, plan: Plan) -> Iterator[Sample]:
    """Every sample, as it is made. Gateways that share a measurement run side by side, idle."""
    chosen = {name: MEASUREMENTS[name] for name in plan.only}
    shared = {name: one for name, one in chosen.items() if not one.fresh}
    with contextlib.ExitStack() as running:
        targets = [
            running.enter_context(_gateway(name, bench, environment))
            for name in (plan.peers if shared else ())
        ]
        for name, measurement in shared.items():
            for number in range(measurement.rounds or plan.rounds):
                turn = number % len(targets)
                yield from _round(name, measurement, bench, targets[turn:] + targets[:turn])
    for name, measurement in chosen.items():
        if measurement.fresh:
            yield from _each_alone(name, measurement, bench, environment, plan)


def _each_alone(
    name: str, measurement: Measurement, bench: Bench, environment: Environment, plan: Plan
) -> Iterator[Sample]:
    for _ in range(measurement.rounds or plan.rounds):
        for peer in plan.peers:
            with _gateway(peer, bench, environment) as target:
                yield from _round(name, measurement, bench, [target])


def _round(
    name: str, measurement: Measurement, bench: Bench, targets: Sequence[Target]
) -> Iterator[Sample]:
    """Every target once; what the upstream alone takes first, if they are held against it."""
    direct: dict[str, float] = {}
    if measurement.direct:
        samples = list(measurement.once(bench, bench.direct(), {}))
        direct = {sample.row: sample.value for sample in samples}
        yield from (_told(name, sample) for sample in samples)
    for target in targets:
        _settle(targets)
        for sample in measurement.once(bench, target, direct):
            yield _told(name, sample)


def _settle(targets: Sequence[Target]) -> None:
    """Waits until no gateway still works on what its callers have left."""
    deadline_s = time.monotonic() + SETTLES_WITHIN_S
    while time.monotonic() < deadline_s:
        before_s = [target.cpu_s() for target in targets]
        time.sleep(LOOKS_EVERY_S)
        used_s = max(t.cpu_s() - b for t, b in zip(targets, before_s, strict=True))
        if used_s <= IDLE * LOOKS_EVERY_S:
            return


def _told(name: str, sample: Sample) -> Sample:
    value = f"{sample.value:.3f}" + (f" ({sample.refused})" if sample.refused else "")
    text = f"{name:9} {sample.peer:15} {sample.row:14} {value:24} {sample.note}"
    print(text.rstrip(), file=sys.stderr, flush=True)
    return sample


def _gateway(
    name: str, bench: Bench, environment: Environment
) -> contextlib.AbstractContextManager[Target]:
    return gateway(name, environment, bench.gateway_core, bench.folder, bench.upstream_port)
