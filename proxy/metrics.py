"""Prometheus metrics, derived from records after the last byte and from instance transitions.

Every label is bounded: models and endpoints come from the configuration, all else from short
fixed lists. Children are cached, because looking one up costs twice what observing does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from backends.fleet import Fleet
from backends.holding import LADDER
from backends.instance import State
from proxy.devices import DeviceGauges
from proxy.tables import Counters, Dump, Histograms
from router.demand import WINDOWS_S, Totals
from router.measures import Measures
from router.record import Record
from router.spend import PICO

disable_created_metrics()  # type: ignore[no-untyped-call]

# Durations double from 10 ms as OpenTelemetry's do, and go on to the length of cold starts.
SECONDS = tuple(0.01 * 2**doubling for doubling in range(17))  # to 655.36
GAP_SECONDS = tuple(2.0**doubling for doubling in range(20))  # to six days
FIRST_TOKEN_SECONDS = (0.001, 0.005, *SECONDS)

_CLASSES = [f"{hundreds}xx" for hundreds in range(10)]

Child = TypeVar("Child")


class Metrics:
    """The registry of one gateway. Nothing here is called before a request's last byte."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        new = _Maker(self.registry)
        self.requests = new.counters("requests", "Requests", ["model", "placement", "outcome"])
        self.duration = new.histograms(
            "request_duration_seconds",
            "From the request's head to the last byte of its answer",
            ["model", "outcome"],
            SECONDS,
        )
        self.first_token = new.histograms(
            "time_to_first_token_seconds",
            "From the request's head to the first token of a stream",
            ["model", "temperature"],
            FIRST_TOKEN_SECONDS,
        )
        self.waited = new.histograms(
            "queue_seconds",
            "Time that requests waited for an endpoint, cold starts included",
            ["model"],
            SECONDS,
        )
        self.attempts = new.counters(
            "upstream_attempts", "Attempts at model servers", ["model", "result"]
        )
        self.tokens = new.counters(
            "tokens", "Tokens as the model servers counted them", ["model", "type"]
        )
        self.arrivals = new.counters(
            "arrivals", "Requests that came, whatever became of them", ["model", "priority"]
        )
        self.gaps = new.histograms(
            "idle_gap_seconds",
            "From the end of the last request to the next arrival; short gaps are left out",
            ["model"],
            GAP_SECONDS,
        )
        self.policy_requests = new.counters(
            "policy_requests",
            "Requests that asked for a policy, by the rule that matched",
            ["policy", "rule", "outcome"],
        )
        self.cascades = new.counters(
            "cascades", "Requests to a cascade, by who answered and why", ["policy", "verdict"]
        )
        self.mirrored = new.counters(
            "mirrored_requests", "Shadow requests of a policy's mirror", ["policy", "outcome"]
        )
        self.shadows_dropped = new.counters(
            "shadows_dropped", "Mirrored requests and labels that found no room", ["policy"]
        )
        self.labels = new.counters(
            "labels", "Labels of cascades, by where they came from", ["policy", "source"]
        )
        self.rows_dropped = new.counters(
            "store_rows_dropped", "Requests that the store had no room for", []
        )
        self.store_errors = new.counters(
            "store_errors", "Times that the file of the store could not be used", []
        )
        for alone in (self.rows_dropped, self.store_errors):
            alone.at()  # 0, and not nothing, before the first
        self._unshown = [Counters("api_picodollars", "What outside APIs charged", ["model"])]
        self.transitions = new(
            Counter, "instance_transitions", "Instances that entered a state", ["model", "to"]
        )
        self.start = new(
            Histogram,
            "cold_start_seconds",
            "Start of an instance by stage; stage=total is the whole of it",
            ["model", "stage"],
            buckets=SECONDS,
        )
        self.wake = new(
            Histogram,
            "wake_seconds",
            "Return of a sleeping instance, by the rung that it slept on",
            ["model", "rung"],
            buckets=SECONDS,
        )
        self.reloads_failed = new(
            Counter, "config_reload_failures", "Configuration files that were not taken over", []
        )
        self.reloaded = new(
            Gauge, "config_reload_timestamp_seconds", "When the configuration was taken over", []
        )
        self.build = new(Gauge, "build_info", "1, with the version as a label", ["version"])
        self._children: dict[tuple[Any, ...], Any] = {}
        self._series: dict[tuple[str, str, str], _Series] = {}

    def watch(
        self, fleet: Fleet, in_flight: Callable[[str], int], waiting: Callable[[str], int]
    ) -> None:
        """Report the fleet's gauges from its own state whenever they are scraped."""
        self.registry.register(_FleetGauges(fleet, in_flight, waiting))
        self.registry.register(DeviceGauges(fleet))

    def watch_measures(self, measures: Measures) -> None:
        """Report what is measured of demand and spend whenever it is scraped."""
        self.registry.register(_MeasureGauges(measures))

    @property
    def _tables(self) -> list[Counters | Histograms]:
        shown = [t for t in vars(self).values() if isinstance(t, Counters | Histograms)]
        return [*shown, *self._unshown]

    def dump(self) -> dict[str, Dump]:
        """All that was counted of requests, for `learn` in another process."""
        return {table.name: table.dump() for table in self._tables}

    def learn(self, worker: int, tables: Mapping[str, Dump]) -> None:
        for table in self._tables:
            table.learn(worker, tables.get(table.name, []))

    def keep(self, worker: int) -> None:
        """A worker has ended; what it counted stays."""
        for table in self._tables:
            table.keep(worker)

    def page(self) -> bytes:
        return generate_latest(self.registry)

    def arrived(self, record: Record) -> None:
        """Count a request whose model is known; its end comes to `observe`."""
        self.arrivals.at(record.model, record.priority).value += 1

    def gap(self, model: str, gap_s: float) -> None:
        self.gaps.at(model).observe(gap_s)

    def totals(self) -> dict[str, Totals]:
        """What all processes have counted so far, by model."""
        arrivals: dict[str, dict[str, int]] = {}
        for (model, priority), count in self.arrivals.first_sums().items():
            arrivals.setdefault(model, {})[priority] = int(count)
        tokens = self.tokens.first_sums()
        busy_s: dict[str, float] = {}
        for (model, _), seconds in self.duration.first_sums().items():
            busy_s[model] = busy_s.get(model, 0.0) + seconds
        return {
            model: Totals(
                by_priority,
                int(tokens.get((model, "input"), 0)),
                int(tokens.get((model, "output"), 0)),
                busy_s.get(model, 0.0),
            )
            for model, by_priority in arrivals.items()
        }

    def api_pico(self) -> dict[str, int]:
        """What outside APIs charged so far, in picodollars by model, in all processes."""
        (charged,) = self._unshown
        return {model: int(pico) for (model,), pico in charged.first_sums().items()}

    def observe(self, record: Record) -> None:
        """Count one finished request."""
        if record.mirror_of:
            self.mirrored.at(record.mirror_of, record.outcome).value += 1
        if record.usd:
            self._unshown[0].at(record.answered_by).value += round(record.usd * PICO)
        kind = (record.model or "other", record.placement or "none", record.outcome)
        series = self._series.get(kind)
        if series is None:
            series = self._series[kind] = _Series(self, *kind)
        series.count(record)

    def followed(self, record: Record) -> None:
        """Count a caller's request that a policy decided about."""
        rule = str(record.rule) if record.rule else "none"
        self.policy_requests.at(record.policy, rule, record.outcome).value += 1
        if record.verdict:
            self.cascades.at(record.policy, record.verdict).value += 1

    def labelled(self, policy: str, source: str) -> None:
        self.labels.at(policy, source).value += 1

    def shadow_dropped(self, policy: str) -> None:
        self.shadows_dropped.at(policy).value += 1

    def instance_changed(self, model: str, state: State, stages: Mapping[str, float]) -> None:
        """Count a transition, and the time of each stage that ended with it."""
        self._child(self.transitions, model, state.value).inc()
        for stage, seconds in stages.items():
            metric = self.wake if stage in LADDER else self.start
            self._child(metric, model, stage).observe(seconds)

    def reload_done(self, ok: bool) -> None:
        if ok:
            self.reloaded.set(time.time())
        else:
            self.reloads_failed.inc()

    def _child(self, metric: Any, *labels: str) -> Any:
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child


class _Series:
    """What is counted for requests of one kind, looked up once."""

    def __init__(self, metrics: Metrics, model: str, placement: str, outcome: str) -> None:
        self._requests = metrics.requests.at(model, placement, outcome)
        self._took = metrics.duration.at(model, outcome)
        self._waited = metrics.waited.at(model)
        self._first = {
            False: metrics.first_token.at(model, "hot"),
            True: metrics.first_token.at(model, "cold"),
        }
        self._input = metrics.tokens.at(model, "input")
        self._output = metrics.tokens.at(model, "output")
        self._cached = metrics.tokens.at(model, "cached")
        self._attempts = partial(metrics.attempts.at, model)

    def count(self, record: Record) -> None:
        self._requests.value += 1
        if record.ended_s is not None:
            self._took.observe(record.ended_s - record.since_s)
        if record.first_token_s is not None:
            self._first[record.cold_start].observe(record.first_token_s - record.since_s)
        if record.attempts:
            self._waited.observe(record.waited_s)
            for attempt in record.attempts:
                result = attempt.error or _CLASSES[(attempt.status or 0) // 100]
                self._attempts(result).value += 1
        usage = record.usage
        if usage is not None:
            self._input.value += usage.input
            self._output.value += usage.output
            self._cached.value += usage.cached


class _Maker:
    """Declares metrics of this program in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def __call__(
        self, kind: Callable[..., Child], name: str, text: str, labels: list[str], **more: Any
    ) -> Child:
        return kind(f"lamplighter_{name}", text, labels, registry=self._registry, **more)

    def counters(self, name: str, text: str, labels: list[str]) -> Counters:
        made = Counters(f"lamplighter_{name}", text, labels)
        self._registry.register(made)
        return made

    def histograms(
        self, name: str, text: str, labels: list[str], bounds: Sequence[float]
    ) -> Histograms:
        made = Histograms(f"lamplighter_{name}", text, labels, bounds)
        self._registry.register(made)
        return made


class _FleetGauges:
    """Gauges that are read from the fleet, not kept beside it: they cannot drift."""

    def __init__(
        self, fleet: Fleet, in_flight: Callable[[str], int], waiting: Callable[[str], int]
    ) -> None:
        self._fleet = fleet
        self._in_flight = in_flight
        self._waiting = waiting

    def collect(self) -> list[GaugeMetricFamily]:
        flying = GaugeMetricFamily(
            "lamplighter_inflight_requests", "Requests at model servers", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "lamplighter_queue_depth", "Requests that wait for an endpoint", labels=["model"]
        )
        instances = GaugeMetricFamily(
            "lamplighter_instances", "Started instances", labels=["model", "state"]
        )
        healthy = GaugeMetricFamily(
            "lamplighter_endpoints_healthy", "Healthy always-on endpoints", labels=["model"]
        )
        for model, backends in self._fleet.snapshot.backends.items():
            waiting.add_metric([model], self._waiting(model))
            flying.add_metric([model], self._in_flight(model))
            if backends.hot is not None:
                healthy.add_metric([model], backends.hot.view().healthy)
            if backends.cold is not None:
                for state, count in backends.cold.count_by_state().items():
                    instances.add_metric([model, state.value], count)
        return [flying, waiting, instances, healthy]


class _MeasureGauges:
    """What is measured of demand and spend, read as it stands when somebody asks."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        rate = GaugeMetricFamily(
            "lamplighter_request_rate",
            "Arrivals per second over a window, as decisions see them",
            labels=["model", "window"],
        )
        spent = CounterMetricFamily(
            "lamplighter_spend_usd", "What was spent, in USD", labels=["model", "kind"]
        )
        today = GaugeMetricFamily(
            "lamplighter_spend_today_usd", "Spent since 00:00 UTC, in USD", labels=["model"]
        )
        spend = self._measures.spend
        for model, demand in self._measures.demand.items():
            for window in WINDOWS_S:
                rate.add_metric([model, window], demand.rate(window).requests_per_s)
            today.add_metric([model], spend.today_usd(model))
        for (model, kind), usd in spend.totals_usd().items():
            spent.add_metric([model, kind], usd)
        return [rate, spent, today]
