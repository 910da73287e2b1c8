"""Prometheus metrics, derived from records after the last byte and from instance transitions.

Every label is bounded: models and endpoints come from the configuration, all else from short
fixed lists. Children are cached, because looking one up costs twice what observing does.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from backends.fleet import Fleet
from backends.instance import STARTING, Instance, State
from router.record import Record

disable_created_metrics()  # type: ignore[no-untyped-call]

# Durations double from 10 ms as OpenTelemetry's do, and go on to the length of cold starts.
SECONDS = tuple(0.01 * 2**doubling for doubling in range(17))  # to 655.36
FIRST_TOKEN_SECONDS = (0.001, 0.005, *SECONDS)

Child = TypeVar("Child")


class Metrics:
    """The registry of one gateway. Nothing here is called before a request's last byte."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        new = _Maker(self.registry)
        self.requests = new(Counter, "requests", "Requests", ["model", "placement", "outcome"])
        self.duration = new(
            Histogram,
            "request_duration_seconds",
            "From the request's head to the last byte of its answer",
            ["model", "outcome"],
            buckets=SECONDS,
        )
        self.first_token = new(
            Histogram,
            "time_to_first_token_seconds",
            "From the request's head to the first token of a stream",
            ["model", "temperature"],
            buckets=FIRST_TOKEN_SECONDS,
        )
        self.waited = new(
            Histogram,
            "queue_seconds",
            "Time that requests waited for an endpoint, cold starts included",
            ["model"],
            buckets=SECONDS,
        )
        self.attempts = new(
            Counter, "upstream_attempts", "Attempts at model servers", ["model", "result"]
        )
        self.tokens = new(
            Counter, "tokens", "Tokens as the model servers counted them", ["model", "type"]
        )
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
        self.reloads_failed = new(
            Counter, "config_reload_failures", "Configuration files that were not taken over", []
        )
        self.reloaded = new(
            Gauge, "config_reload_timestamp_seconds", "When the configuration was taken over", []
        )
        self.build = new(Gauge, "build_info", "1, with the version as a label", ["version"])
        self._children: dict[tuple[Any, ...], Any] = {}
        self._series: dict[tuple[str, str, str], _Series] = {}

    def watch(self, fleet: Fleet) -> None:
        """Report the fleet's gauges from its own state whenever they are scraped."""
        self.registry.register(_FleetGauges(fleet))

    def page(self) -> bytes:
        return generate_latest(self.registry)

    def observe(self, record: Record) -> None:
        """Count one finished request."""
        kind = (record.model or "other", record.placement or "none", record.outcome)
        series = self._series.get(kind)
        if series is None:
            series = self._series[kind] = _Series(self, *kind)
        series.count()
        if record.ended_s is not None:
            series.took(record.ended_s - record.received_s)
        if record.first_token_s is not None:
            first = series.first_when_cold if record.cold_start else series.first_when_hot
            first(record.first_token_s - record.received_s)
        if record.attempts:
            series.waited(record.waited_s)
            for attempt in record.attempts:
                series.attempted(attempt.error or f"{(attempt.status or 0) // 100}xx")
        usage = record.usage
        if usage is not None:
            series.input(usage.input)
            series.output(usage.output)
            if usage.cached:
                series.cached(usage.cached)

    def instance_changed(self, model: str, instance: Instance, state: State) -> None:
        """Count a transition; at READY also the time of each stage that led there."""
        self._child(self.transitions, model, state.value).inc()
        if state is not State.READY:
            return
        stages = [(s, at) for s, at in instance.reached.items() if s in STARTING or s is state]
        for (stage, began_s), (_, ended_s) in zip(stages, stages[1:], strict=False):
            self._child(self.start, model, stage.value).observe(ended_s - began_s)
        total_s = instance.reached[State.READY] - instance.began_s
        self._child(self.start, model, "total").observe(total_s)

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
    """What is counted for requests of one kind: the children, looked up once."""

    def __init__(self, metrics: Metrics, model: str, placement: str, outcome: str) -> None:
        tokens = metrics.tokens
        self.count = metrics.requests.labels(model, placement, outcome).inc
        self.took = metrics.duration.labels(model, outcome).observe
        self.waited = metrics.waited.labels(model).observe
        self.first_when_hot = metrics.first_token.labels(model, "hot").observe
        self.first_when_cold = metrics.first_token.labels(model, "cold").observe
        self.input = tokens.labels(model, "input").inc
        self.output = tokens.labels(model, "output").inc
        self.cached = tokens.labels(model, "cached").inc
        self._attempts = metrics.attempts
        self._model = model
        self._by_result: dict[str, Callable[[], None]] = {}

    def attempted(self, result: str) -> None:
        count = self._by_result.get(result)
        if count is None:
            count = self._by_result[result] = self._attempts.labels(self._model, result).inc
        count()


class _Maker:
    """Declares metrics of this program in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def __call__(
        self, kind: Callable[..., Child], name: str, text: str, labels: list[str], **more: Any
    ) -> Child:
        return kind(f"lamplighter_{name}", text, labels, registry=self._registry, **more)


class _FleetGauges:
    """Gauges that are read from the fleet, not kept beside it: they cannot drift."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

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
            waiting.add_metric([model], backends.room.requests)
            flying.add_metric([model], backends.in_flight)
            if backends.hot is not None:
                healthy.add_metric([model], backends.hot.view().healthy)
            if backends.cold is not None:
                for state, count in backends.cold.count_by_state().items():
                    instances.add_metric([model, state.value], count)
        return [flying, waiting, instances, healthy]
