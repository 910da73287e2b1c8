"""From records and states to demand, spend and the store, on a clock of the test's own."""

import logging
from pathlib import Path
from typing import Any

import pytest

from backends.endpoint import Endpoint
from backends.instance import Instance, State
from backends.lease import Lease
from backends.upstream import Origin
from config.load import parse
from config.schema import Config
from router import measures as module
from router.demand import Totals
from router.measures import Measures, Seen
from router.record import Record
from router.spend import PICO
from router.store import Store
from router.usage import Usage

EPOCH = 1_763_985_600.0
MODELS = """
version: 1
models:
  cold:
    cold:
      command: serve {port}
      gpu_hour: 3600
      sleep: {level_1: {share: 0.1, wake: 2s}}
  always: {hot: {urls: [{url: "http://127.0.0.1:1/v1", gpu_hour: 1800}, "http://127.0.0.1:2/v1"]}}
  api: {api: {url: "https://api.example/v1", key: sk-x, price: {input: 2, output: 8}}}
  other: {api: {url: "https://api.example/v1", key: sk-x}, fallback: [api]}
"""


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    @property
    def epoch_s(self) -> float:
        return EPOCH + self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lamplighter.db")


def config(store: str | None = None, keep: str = "14d", text: str = MODELS) -> Config:
    more = f"store: {{path: {store}, requests: {keep}}}\n" if store else ""
    return parse(text + more, "test.yaml", {})


def measuring(clock: Clock, config: Config, **more: Any) -> Measures:
    made = Measures(clock, clock.epoch_s, **more)
    made.open(config, lambda: None)
    made.follow(config)
    return made


def record(model: str, at_s: float, ended_s: float, **more: Any) -> Record:
    return Record("req_1", "chat", at_s, model=model, ended_s=ended_s, status=200, **more)


def passes(measures: Measures, seen: Record) -> Record:
    measures.arrived(seen)
    measures.finished(seen)
    return seen


# --- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answered_by", "placement", "usage", "usd"),
    [
        ("api", "api", Usage(input=1_000_000, output=500_000, cached=900_000), 6.0),
        ("api", "api", Usage(input=3), 6e-6),
        ("api", "api", Usage(output=3), 24e-6),
        ("api", "api", None, 0.0),
        ("other", "api", Usage(input=5, output=5), 0.0),  # no price is stated
        ("cold", "cold", Usage(input=5, output=5), 0.0),
        ("gone", "api", Usage(input=5, output=5), 0.0),  # a reload took it away meanwhile
    ],
)
def test_api_is_charged_by_the_model_that_answered(
    clock: Clock, answered_by: str, placement: str, usage: Usage | None, usd: float
) -> None:
    measures = measuring(clock, config())
    seen = record("other", 1.0, 2.0, answered_by=answered_by, placement=placement, usage=usage)
    assert passes(measures, seen).usd == pytest.approx(usd)


def test_gap_is_reported_and_stored(clock: Clock, path: str) -> None:
    gaps: list[tuple[str, float]] = []
    measures = measuring(
        clock, config(path), on_gap=lambda model, gap_s: gaps.append((model, gap_s))
    )
    passes(measures, record("cold", 10.0, 11.0))
    passes(measures, record("cold", 20.0, 21.0))
    passes(measures, record("cold", 21.5, 22.0))  # below the floor
    measures.close()
    assert gaps == [("cold", 9.0)]
    assert Store(path, 1.0, lambda: None).open().gaps == {"cold": [9.0]}


def test_row_has_what_a_replay_needs(clock: Clock, path: str) -> None:
    measures = measuring(clock, config(path))
    passes(
        measures,
        record(
            "cold",
            990.0,
            995.0,
            placement="cold",
            answered_by="cold",
            priority="high",
            deadline_s=240.0,
            waited_s=3.0,
            first_token_s=994.0,
            cold_start=True,
            usage=Usage(3, 4, 1),
            reasons=["off: start an instance", "again"],
        ),
    )
    passes(measures, record("cold", 998.0, 999.0))
    assert measures.store is not None
    one, two = measures.store.rows
    assert (one.time, one.duration_s, one.first_token_s) == (EPOCH + 990.0, 5.0, 4.0)
    assert (one.input_tokens, one.output_tokens, one.cached_tokens) == (3, 4, 1)
    assert (one.priority, one.deadline_s, one.waited_s, one.cold) == ("high", 240.0, 3.0, True)
    assert (one.outcome, one.reasons) == ("ok", "off: start an instance; again")
    assert (two.input_tokens, two.output_tokens, two.first_token_s) == (None, None, None)
    measures.close()


def test_nothing_is_kept_of_requests_when_none_is_to_be(clock: Clock, path: str) -> None:
    measures = measuring(clock, config(path, keep="0s"))
    passes(measures, record("cold", 1.0, 2.0))
    assert measures.store is not None
    assert not measures.store.rows
    measures.follow(config(path, keep="1h"))
    passes(measures, record("cold", 1.0, 2.0))
    assert len(measures.store.rows) == 1
    measures.close()


def test_row_without_room_is_counted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_TO_TELL", 3)
    dropped: list[int] = []
    worker = Measures(clock, clock.epoch_s, on_drop=lambda: dropped.append(1))
    worker.follow(config("/nowhere/x.db"), worker=True)
    for number in range(5):
        passes(worker, record("api", float(number), number + 0.5))
    assert [row.time - EPOCH for row in worker.take(clock.epoch_s).rows] == [2.0, 3.0, 4.0]
    assert len(dropped) == 2
    assert worker.take(clock.epoch_s) == Seen()


def test_what_workers_saw_is_learnt(clock: Clock, path: str) -> None:
    worker = Measures(clock, clock.epoch_s)
    worker.follow(config(path), worker=True)
    passes(worker, record("always", 1.0, 3.0, first_token_s=1.5))
    owner = measuring(clock, config(path))
    owner.learn(worker.take(clock.epoch_s))
    assert owner.store is not None
    assert [row.model for row in owner.store.rows] == ["always"]
    assert owner.demand["always"].snapshot(5.0).first_token["hot"].p50 == 0.5
    owner.close()
    forgetful = measuring(clock, config())
    forgetful.learn(Seen(list(owner.store.rows)))  # no store: nothing to put rows in


# --- instances ----------------------------------------------------------------------------------


def instance(clock: Clock) -> Instance:
    return Instance("cold@1", clock.now_s)


def goes(
    measures: Measures, clock: Clock, one: Instance, state: State, after_s: float
) -> dict[str, float]:
    clock.now_s += after_s
    one.state = state
    one.reached[state] = clock.now_s
    return dict(measures.instance_changed("cold", one, state))


def test_start_is_timed_by_stage_and_wake_by_rung(clock: Clock) -> None:
    measures, one = measuring(clock, config()), instance(clock)
    assert goes(measures, clock, one, State.PROVISIONING, 0.0) == {}
    assert goes(measures, clock, one, State.LOADING, 1.0) == {}
    assert goes(measures, clock, one, State.WARMING, 5.0) == {}
    stages = goes(measures, clock, one, State.READY, 2.0)
    assert stages == {"provisioning": 1.0, "loading": 5.0, "warming": 2.0, "total": 8.0}
    one.rung = "sleep_1"
    assert goes(measures, clock, one, State.SLEEPING, 60.0) == {}
    assert goes(measures, clock, one, State.WAKING, 10.0) == {}
    one.rung = "hot"
    assert goes(measures, clock, one, State.READY, 3.0) == {"sleep_1": 3.0}
    starts = measures.demand["cold"].snapshot(0.0).starts
    assert {stage: found.p99 for stage, found in starts.items()} == {**stages, "sleep_1": 3.0}


def test_instance_that_turned_back_before_it_slept_is_no_start(clock: Clock) -> None:
    measures, one = measuring(clock, config()), instance(clock)
    for state in (State.PROVISIONING, State.LOADING, State.WARMING, State.READY):
        goes(measures, clock, one, state, 1.0)
    one.reached[State.SLEEPING] = clock.now_s
    assert goes(measures, clock, one, State.READY, 1.0) == {}


def test_leases_of_an_instance_tell_serving_from_holding(clock: Clock) -> None:
    measures, one = measuring(clock, config()), instance(clock)
    goes(measures, clock, one, State.PROVISIONING, 0.0)
    one.endpoint = Endpoint("cold@1", Origin("http://127.0.0.1:9/v1"))
    goes(measures, clock, one, State.READY, 10.0)
    clock.now_s += 5.0
    first, second = (Lease(one.endpoint, lambda lease: None) for _ in range(2))
    clock.now_s += 2.0
    first.release()
    clock.now_s += 2.0
    second.release()
    second.release()
    one.rung = "sleep_1"
    goes(measures, clock, one, State.SLEEPING, 1.0)
    goes(measures, clock, one, State.OFF, 20.0)
    measures.tick(clock.epoch_s, {})
    spent = {k: v for (m, k), v in measures.spend.totals_usd().items() if m == "cold"}
    assert spent == {
        "starting": pytest.approx(10.0),
        "holding": pytest.approx(5.0 + 1.0 + 0.1 * 20.0),
        "serving": pytest.approx(4.0),
    }
    always = measures.spend.totals_usd()["always", "holding"]
    assert always == pytest.approx(0.5 * (clock.now_s - Clock.now_s))


def test_api_spend_of_all_processes_is_counted_once(clock: Clock) -> None:
    measures = measuring(clock, config())
    for total in (3, 3, 5):
        measures.tick(clock.epoch_s, {"api": total * PICO})
    assert measures.spend.today_usd("api") == 5.0


# --- restarts -----------------------------------------------------------------------------------


def test_restart_takes_up_what_was_learnt(clock: Clock, path: str) -> None:
    before = measuring(clock, config(path))
    passes(before, record("cold", 10.0, 11.0))
    passes(before, record("cold", 20.0, 21.0))
    one = instance(clock)
    for state in (State.PROVISIONING, State.LOADING, State.WARMING, State.READY):
        goes(before, clock, one, state, 1.0)
    before.sample(clock.epoch_s, {}, lambda model: 0)
    clock.now_s += 60.0
    before.sample(clock.epoch_s, {"cold": Totals({"normal": 30})}, lambda model: 0)
    before.tick(clock.epoch_s, {"api": 7 * PICO})
    before.close()
    spent = before.spend.today_usd()

    clock.now_s += 1.0
    after = measuring(clock, config(path))
    cold = after.demand["cold"].snapshot(clock.now_s)
    assert cold.gaps == (9.0,)
    assert cold.starts["total"].p50 == 4.0
    assert [rate for rate in cold.hours if rate is not None] == [0.5]
    after.tick(clock.epoch_s, {})
    assert after.spend.today_usd() == pytest.approx(spent)
    assert after.spend.today_usd("api") == 7.0
    after.close()


def test_store_that_fails_is_told_once_and_all_else_goes_on(
    clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    errors: list[int] = []
    measures = Measures(clock, clock.epoch_s)
    with caplog.at_level(logging.ERROR):
        measures.open(config(str(broken)), lambda: errors.append(1))
    measures.follow(config(str(broken)))
    passes(measures, record("cold", 1.0, 2.0))
    measures.tick(clock.epoch_s, {"api": PICO})
    measures.close()
    assert measures.spend.today_usd() == pytest.approx(1.0)
    assert len(errors) == len(caplog.records) == 1
    assert str(broken) in caplog.text
    assert "in memory" in caplog.text


def test_spend_waits_in_memory_while_the_file_cannot_be_written(
    clock: Clock, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = measuring(clock, config(path))
    assert measures.store is not None
    monkeypatch.setattr(Store, "behind", property(lambda store: True))
    for second in range(1, 100):
        measures.tick(clock.epoch_s, {"api": second * PICO})
    assert not measures.store.waiting
    monkeypatch.undo()
    measures.tick(clock.epoch_s, {"api": 100 * PICO})
    measures.close()
    kept = Store(path, 1.0, lambda: None).open()
    assert [a.pico for a in kept.spend if a.kind == "api"] == [100 * PICO]
