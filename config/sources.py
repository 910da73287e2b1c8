"""Where a model is served: always-on servers, one started on demand, an outside API."""

from collections.abc import Hashable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.durations import Duration, Size, Timeout, at_least, at_most
from config.fields import (
    ApiUrl,
    BaseUrl,
    Command,
    Environment,
    Flag,
    Idle,
    Name,
    Real,
    Secret,
    Share,
    TimeZone,
    UrlPath,
    Usd,
    Whole,
)
from config.part import Part, lasts
from config.warm import WarmTime


class Price(Part):
    input: Usd = Field(default=0.0, description="USD per million input tokens.")
    output: Usd = Field(default=0.0, description="USD per million output tokens.")


class Check(Part):
    every: Timeout = lasts("10s", "Time between two health checks of a URL.")


class Endpoint(Part):
    url: BaseUrl = Field(description="OpenAI base URL that ends in /v1.")
    weight: Annotated[Real, Field(gt=0)] = Field(
        default=1.0, description="Share of the requests relative to the other URLs; above 0."
    )
    gpu_hour: Usd = Field(default=0.0, description="What this server costs, USD per hour.")
    max_concurrency: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Most requests at a time; no limit when left out."
    )
    key: Secret | None = Field(default=None, description="Bearer token for this server.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: object) -> object:
        return {"url": data} if isinstance(data, str) else data


class Hot(Part):
    urls: Annotated[tuple[Endpoint, ...], Field(min_length=1)] = Field(
        description="Always-on OpenAI servers: base URLs, or maps with url and options."
    )
    check: Check = Field(default=Check(), description="Active health check of each URL.")


class Ready(Part):
    path: UrlPath = Field(
        default="/models", description="Path, relative to base_path, that must list the model."
    )
    canary: Flag = Field(
        default=True, description="Ask for one token before the first request is let through."
    )


class Quantiles(Part):
    """A distribution of durations, by three of its points; written alone, p50 is all of them."""

    p50: Timeout = Field(description="Half of them take no longer.")
    p90: Timeout | None = Field(default=None, description="Nine in ten take no longer.")
    p99: Timeout | None = Field(default=None, description="99 in a hundred take no longer.")

    @model_validator(mode="before")
    @classmethod
    def _from_duration(cls, data: object) -> object:
        return {"p50": data} if isinstance(data, str | int | float) else data

    @property
    def points(self) -> tuple[float, float, float]:
        """p50, p90 and p99, in seconds; never falling."""
        p90 = max(self.p90 or self.p50, self.p50)
        return self.p50, p90, max(self.p99 or p90, p90)


class Sleep(Part):
    share: Share = Field(description="What holding it asleep costs, as a share of gpu_hour.")
    wake: Timeout = Field(description="How long waking takes, until wakes were measured.")


class Sleeps(Part):
    """vLLM's sleep mode; the command must have --enable-sleep-mode in it."""

    level_1: Sleep | None = Field(
        default=None, description="Weights in host memory: wakes in seconds."
    )
    level_2: Sleep | None = Field(
        default=None, description="Weights dropped, the process kept: wakes by reading them again."
    )


class Speed(Part):
    requests: Annotated[Real, Field(gt=0)] = Field(
        default=8.0, description="Requests per second that one server carries."
    )
    input: Annotated[Real, Field(gt=0)] = Field(
        default=5000.0, description="Input tokens per second for one request."
    )
    output: Annotated[Real, Field(gt=0)] = Field(
        default=50.0, description="Output tokens per second for one request."
    )


class Warm(Part):
    at: WarmTime = Field(description="Days and time from which it is held ready: Mon-Fri 08:30.")
    tz: TimeZone = Field(
        default="UTC", description="Time zone of that time, such as Europe/Berlin."
    )
    for_: Annotated[Timeout, at_most("7d")] = Field(
        alias="for", description="How long it is held ready from then on; at most 7d."
    )

    def covers(self, epoch_s: float) -> bool:
        """Whether the model is to be ready at a time in seconds since the epoch."""
        return self.at.covers(epoch_s, self.tz, self.for_)


class Cold(Part):
    launcher: Literal["process"] = Field(
        default="process", description="What starts the server: process, a child on this machine."
    )
    command: Command = Field(
        repr=False,
        description="Program and arguments, as a list or as one string split like a shell does."
        " {port} is filled in and required; {host}, {model}, {served_as}, {key} and {python} may"
        " be used.",
    )
    env: Environment = Field(
        default_factory=dict,
        repr=False,
        description="Environment variables added to the gateway's own; same placeholders.",
    )
    base_path: UrlPath = Field(default="/v1", description="Where the server has its OpenAI API.")
    ready: Ready = Field(default=Ready(), description="When a started server counts as ready.")
    idle: Idle = Field(
        default="clamped",
        description="When a server without requests is put to sleep and stopped: after a duration,"
        " never, or by a rule that weighs holding against starting: clamped, empirical or"
        " ski_rental.",
    )
    jitter: Share = Field(
        default=0.05,
        description="Up to this share is added to idle times, so that not all stop at once.",
    )
    start_within: Timeout = lasts("5m", "Give up a start after this long.")
    stop_within: Duration = lasts("10s", "Time between SIGTERM and SIGKILL at a stop.")
    max_instances: Annotated[Whole, Field(ge=1, le=1000)] = Field(
        default=1, description="Most servers at a time; above 1 needs max_concurrency."
    )
    max_concurrency: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Most requests at a time to one server; no limit when left out."
    )
    gpu_hour: Usd = Field(default=0.0, description="What one running server costs, USD per hour.")
    start_time: Quantiles | None = Field(
        default=None,
        description="How long a start takes, until starts were measured, and in a replay: a"
        " duration, or a map of p50, p90 and p99.",
        json_schema_extra={"default": "20s"},
    )
    speed: Speed = Field(
        default=Speed(), description="How fast a server is, until that was measured."
    )
    sleep: Sleeps = Field(
        default=Sleeps(), description="Sleep levels that the server offers between hot and off."
    )
    device: Name | None = Field(default=None, description="The one of devices that it runs on.")
    memory: Size | None = Field(
        default=None, description="Memory of the device that a running server takes."
    )
    host_memory: Size | None = Field(
        default=None,
        description="Host memory that it takes asleep at level 1; memory when left out.",
    )
    warm: tuple[Warm, ...] = Field(
        default=(), description="Times at which it is held ready, whatever the demand."
    )
    lease: Annotated[Timeout, at_least("5s")] = lasts(
        "2m",
        "A server is stopped by its guard when the gateway has not renewed its lease for this"
        " long; at least 5s.",
    )

    def is_warm_at(self, epoch_s: float) -> bool:
        """Whether it is to be ready at a time in seconds since the epoch, whatever the demand."""
        return any(window.covers(epoch_s) for window in self.warm)

    @property
    def launch_identity(self) -> Hashable:
        """What needs a new server when it changes; all else is changed in place."""
        env = tuple(sorted(self.env.items()))
        sleeps = self.sleep.level_1 is not None or self.sleep.level_2 is not None
        return (self.launcher, self.command, env, self.base_path, self.ready, sleeps, self.device)


class Api(Part):
    url: ApiUrl = Field(description="OpenAI base URL of the outside API.")
    model: Name | None = Field(
        default=None, description="Name of the model there; served_as or the name when left out."
    )
    key: Secret | None = Field(default=None, description="Bearer token for the API.")
    price: Price = Field(default=Price(), description="What the API charges.")
