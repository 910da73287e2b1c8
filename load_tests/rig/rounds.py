"""Rounds: the peers take turns at each measurement, in another order each time."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence

from load_tests.rig.bench import Bench
from load_tests.rig.environment import Environment
from load_tests.rig.gateways import Target, gateway
from load_tests.rig.judge import BUSY_MACHINE, Sample
from load_tests.rig.machine import core_time_s
from load_tests.rig.measurements import MEASUREMENTS, Measurement

LOOKS_EVERY_S = 0.5
QUIET = 0.1  # share of a core


@dataclasses.dataclass(frozen=True)
class Plan:
    only: Sequence[str]
    peers: Sequence[str]
    rounds: int
    quiet_within_s: float = 20.0  # the longest wait for a quiet machine before a turn
    tries: int = 3  # of a turn that strangers disturb


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
                yield from _round(name, plan, bench, targets[turn:] + targets[:turn])
    for name, measurement in chosen.items():
        if measurement.fresh:
            yield from _each_alone(name, measurement, bench, environment, plan)


def _each_alone(
    name: str, measurement: Measurement, bench: Bench, environment: Environment, plan: Plan
) -> Iterator[Sample]:
    for _ in range(measurement.rounds or plan.rounds):
        for peer in plan.peers:
            with _gateway(peer, bench, environment) as target:
                yield from _round(name, plan, bench, [target])


def _round(name: str, plan: Plan, bench: Bench, targets: Sequence[Target]) -> Iterator[Sample]:
    """Every target once; what the upstream alone takes first, if they are held against it."""
    direct: dict[str, float] = {}
    spoilt: dict[str, str] = {}
    measurement = MEASUREMENTS[name]
    if measurement.direct:
        samples = _undisturbed(measurement, plan, bench, bench.direct(), {})
        direct = {sample.row: sample.value for sample in samples}
        spoilt = {sample.row: sample.refused for sample in samples}
        yield from (_told(name, sample) for sample in samples)
    for target in targets:
        for sample in _undisturbed(measurement, plan, bench, target, direct):
            refused = sample.refused or spoilt.get(sample.row, "")
            yield _told(name, dataclasses.replace(sample, refused=refused))


def _undisturbed(
    measurement: Measurement,
    plan: Plan,
    bench: Bench,
    target: Target,
    direct: dict[str, float],
) -> list[Sample]:
    """One turn, repeated if strangers spoilt it; the last counts, as it is."""
    samples: list[Sample] = []
    for _ in range(1 if measurement.fresh else plan.tries):
        _wait_until_quiet(bench, plan.quiet_within_s)
        samples = list(measurement.once(bench, target, direct))
        if not any(sample.refused == BUSY_MACHINE for sample in samples):
            break
    return samples


def _wait_until_quiet(bench: Bench, within_s: float) -> None:
    """Until strangers rest, and gateways no longer work on what their callers have left."""
    deadline_s = time.monotonic() + within_s
    cores = (bench.gateway_core, bench.rig_core)
    while time.monotonic() < deadline_s:
        before_s = [core_time_s(core) for core in cores]
        time.sleep(LOOKS_EVERY_S)
        busiest_s = max(core_time_s(c) - b for c, b in zip(cores, before_s, strict=True))
        if busiest_s <= QUIET * LOOKS_EVERY_S:
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
