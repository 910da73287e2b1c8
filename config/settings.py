"""What may stand in `defaults` and in each model, and what holds for a model after merging."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from config.durations import (
    Duration,
    Size,
    Timeout,
    TimeoutOrNever,
    at_least,
    at_most,
    seconds,
    size_in_bytes,
)
from config.fields import Flag, Real, Share, Usd, Whole
from config.part import Part, inherits

Priority = Literal["low", "normal", "high"]


class Queue(Part):
    requests: Annotated[Whole, Field(ge=1)] | None = inherits(
        1000, "Most requests that may wait for the model; more get 429."
    )
    bytes: Size | None = inherits("256MiB", "Most bytes of waiting request bodies; more get 429.")


class Timeouts(Part):
    connect: Timeout | None = inherits("5s", "Longest time to connect to a model server.")
    first_byte: TimeoutOrNever | None = inherits(
        "10m", "Longest wait for the first byte of an answer."
    )
    idle: TimeoutOrNever | None = inherits("2m", "Longest silence between two parts of an answer.")
    total: TimeoutOrNever | None = inherits("never", "Longest time for a whole answer.")


class Keepalive(Part):
    grace: Duration | None = inherits(
        "2s", "How long a waiting stream is held for its true status before 200 is sent."
    )
    every: Annotated[Timeout, at_most("15s")] | None = inherits(
        "10s", "Time between two SSE comments to a waiting stream; at most 15s."
    )


class Placement(Part):
    pin: Literal["always_on", "on_demand", "api"] | None = Field(
        default=None,
        description="The placement that it keeps, whatever it costs: always_on, on_demand or api.",
    )
    rule: Literal["money", "qps"] | None = inherits(
        "money",
        "How the placement is chosen: money, the cheapest one that meets the class; qps, by the"
        " rate of requests alone.",
    )
    hot_above_qps: Annotated[Real, Field(gt=0)] | None = inherits(
        10.0, "Rule qps: always on above this many requests per second."
    )
    cold_below_qps: Annotated[Real, Field(ge=0)] | None = inherits(
        1.0, "Rule qps: on demand below this many requests per second; at most hot_above_qps."
    )
    class_: Literal["interactive", "batch"] | None = inherits(
        "batch",
        "Which waits its callers stand: interactive, 10s in 99 of 100 requests; batch, max_wait.",
        alias="class",
    )
    p99_wait: Timeout | None = Field(
        default=None,
        description="The wait that its callers stand in 99 of 100 requests, in place of a class.",
    )
    every: Annotated[Timeout, at_least("1s")] | None = inherits("5m", "Time between two choices.")
    hysteresis: Share | None = inherits(
        0.15, "Share of its costs that a move must save before money moves the model; 0 to 1."
    )
    dwell: Duration | None = inherits(
        "10m", "Shortest stay in a placement before money moves it on."
    )


class Overridable(Part):
    """Keys that stand in `defaults` and in each model; the model wins, leaf by leaf."""

    max_wait: Duration | None = inherits(
        "4m",
        "How long a request may wait for a model to be ready. Below five minutes by default,"
        " because Node's fetch gives up after 300 s without headers.",
    )
    retries: Annotated[Whole, Field(ge=0, le=10)] | None = inherits(
        2, "How often a request is tried again elsewhere before its first byte; 0 to 10."
    )
    queue: Queue = Field(default=Queue(), description="How much may wait for the model.")
    timeouts: Timeouts = Field(default=Timeouts(), description="Limits on one try at a server.")
    keepalive: Keepalive = Field(
        default=Keepalive(), description="What a stream receives while it waits for a start."
    )
    stream_usage: Flag | None = inherits(
        True,
        "Ask backends for usage on streams so that tokens are counted, and remove it for callers"
        " who did not ask.",
    )
    priority: Priority | None = inherits(
        "normal", "Priority of requests that state none: low, normal or high."
    )
    delay_hour: Usd | None = inherits(
        10.0, "Price of delay: what an hour of one caller's waiting is worth, USD."
    )
    placement: Placement = Field(
        default=Placement(), description="Which way of serving the model is held ready."
    )


class Defaults(Overridable):
    pass


@dataclass(frozen=True, slots=True)
class QueueSettings:
    requests: int = 1000
    bytes: int = size_in_bytes("256MiB")


@dataclass(frozen=True, slots=True)
class TimeoutSettings:
    """Seconds; math.inf for never."""

    connect: float = 5.0
    first_byte: float = seconds("10m")
    idle: float = seconds("2m")
    total: float = seconds("never")


@dataclass(frozen=True, slots=True)
class KeepaliveSettings:
    """Seconds."""

    grace: float = 2.0
    every: float = 10.0


@dataclass(frozen=True, slots=True)
class PlacementSettings:
    """Durations in seconds."""

    pin: Literal["always_on", "on_demand", "api"] | None = None
    rule: Literal["money", "qps"] = "money"
    hot_above_qps: float = 10.0
    cold_below_qps: float = 1.0
    class_: Literal["interactive", "batch"] = "batch"
    p99_wait: float | None = None
    every: float = 300.0
    hysteresis: float = 0.15
    dwell: float = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for one model after merging: the model, then `defaults`, then these."""

    max_wait: float = seconds("4m")  # seconds
    retries: int = 2
    queue: QueueSettings = QueueSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    keepalive: KeepaliveSettings = KeepaliveSettings()
    stream_usage: bool = True
    priority: Priority = "normal"
    delay_hour: float = 10.0  # USD
    placement: PlacementSettings = PlacementSettings()


def merged(settings: Settings, part: Overridable) -> Settings:
    """The settings with what a map writes itself laid over them."""
    return replace(
        settings,
        queue=replace(settings.queue, **part.queue.written()),
        timeouts=replace(settings.timeouts, **part.timeouts.written()),
        keepalive=replace(settings.keepalive, **part.keepalive.written()),
        placement=_placement(settings.placement, part.placement),
        **part.written("max_wait", "retries", "stream_usage", "priority", "delay_hour"),
    )


def _placement(settings: PlacementSettings, part: Placement) -> PlacementSettings:
    """A class says what a p99_wait says: the inner one of the two holds."""
    if part.class_ is not None:
        settings = replace(settings, p99_wait=None)
    return replace(settings, **part.written())
