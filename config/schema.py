"""What a configuration is: frozen models, one per map in the YAML, each field described.

Fields hold seconds, bytes and USD whatever way they were written. What needs the places of two
keys (names used twice, cycles) is checked in `checks.py`, before these models are built.
"""

from collections.abc import Hashable
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic.fields import FieldInfo

from config.durations import Duration, Size, Timeout, TimeoutOrNever, seconds, size_in_bytes
from config.fields import (
    MAX_NAME,
    ApiUrl,
    BaseUrl,
    Command,
    Environment,
    Flag,
    Host,
    Name,
    FilePath,
    Idle,
    Real,
    Secret,
    Share,
    TimeZone,
    UrlPath,
    Usd,
    Version,
    Whole,
)
from config.warm import WarmTime


Priority = Literal["low", "normal", "high"]


def _lasts(text: str, description: str) -> Any:
    return Field(
        default=seconds(text), description=description, json_schema_extra={"default": text}
    )


def _holds(text: str, description: str) -> Any:
    return Field(
        default=size_in_bytes(text), description=description, json_schema_extra={"default": text}
    )


def _or(built_in: object, description: str) -> Any:
    """Not set here: the value of `defaults` holds, and without it the built-in one."""
    return Field(
        default=None,
        description=description,
        json_schema_extra={"default": built_in},  # type: ignore[dict-item]
    )


class Part(BaseModel):
    """One map of the file. `key:` with nothing after it is the same as no key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=False,
        serialize_by_alias=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {k: v for k, v in data.items() if v is not None or k not in cls.keys()}

    @classmethod
    def keys(cls) -> dict[str, FieldInfo]:
        """Its fields by the keys that stand in the YAML; two of them are words of Python."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


class Server(Part):
    host: Host = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: Annotated[Whole, Field(ge=0, le=65535)] = Field(
        default=8080, description="TCP port to listen on; 0 takes a free one."
    )
    max_body: Size = _holds("32MiB", "Largest request body; larger ones get 413.")
    max_header_bytes: Size = _holds("64KiB", "Largest request head: request line and headers.")
    header_timeout: Timeout = _lasts("10s", "How long a client may take to send its headers.")
    body_timeout: Timeout = _lasts("30s", "Longest silence while a request body is read.")
    drain_within: Duration = _lasts("30s", "How long a graceful stop lets requests finish.")


class Admin(Part):
    key: Annotated[Secret, Field(min_length=8)] | None = Field(
        default=None, description="Bearer token that /admin asks for; at least 8 characters."
    )


class Queue(Part):
    requests: Annotated[Whole, Field(ge=1)] | None = _or(
        1000, "Most requests that may wait for the model; more get 429."
    )
    bytes: Size | None = _or("256MiB", "Most bytes of waiting request bodies; more get 429.")


class Timeouts(Part):
    connect: Timeout | None = _or("5s", "Longest time to connect to a model server.")
    first_byte: TimeoutOrNever | None = _or("10m", "Longest wait for the first byte of an answer.")
    idle: TimeoutOrNever | None = _or("2m", "Longest silence between two parts of an answer.")
    total: TimeoutOrNever | None = _or("never", "Longest time for a whole answer.")


class Keepalive(Part):
    grace: Duration | None = _or(
        "2s", "How long a waiting stream is held for its true status before 200 is sent."
    )
    every: Annotated[Timeout, Field(le=15)] | None = _or(
        "10s", "Time between two SSE comments to a waiting stream; at most 15s."
    )


class Placement(Part):
    pin: Literal["always_on", "on_demand", "api"] | None = Field(
        default=None, description="The placement, whatever it costs; it wins over every rule."
    )
    rule: Literal["money", "qps"] | None = _or(
        "money",
        "How the placement is chosen: money, the cheapest that meets the class; qps, by the rate"
        " of requests alone.",
    )
    hot_above_qps: Annotated[Real, Field(gt=0)] | None = _or(
        10.0, "Rule qps: always on above this many requests per second."
    )
    cold_below_qps: Annotated[Real, Field(ge=0)] | None = _or(
        1.0, "Rule qps: started on demand below this many requests per second."
    )
    class_: Literal["interactive", "batch"] | None = Field(
        default=None,
        alias="class",
        description="What its callers stand: interactive, a p99 wait of 10s; batch, of max_wait.",
        json_schema_extra={"default": "interactive"},  # type: ignore[dict-item]
    )
    p99_wait: Timeout | None = Field(
        default=None, description="The p99 wait that its callers stand, in place of a class."
    )
    every: Timeout | None = _or("5m", "Time between two choices.")
    hysteresis: Share | None = _or(
        0.15, "How much cheaper another placement must be before it is taken; 0 to 1."
    )
    dwell: Duration | None = _or("10m", "Shortest stay in a placement before money moves it.")


class Overridable(Part):
    """Keys that stand in `defaults` and in each model; the model wins, leaf by leaf."""

    max_wait: Duration | None = _or(
        "4m",
        "How long a request may wait for a model to be ready. Below five minutes by default,"
        " because Node's fetch gives up after 300 s without headers.",
    )
    retries: Annotated[Whole, Field(ge=0, le=10)] | None = _or(
        2, "How often a request is tried again elsewhere before its first byte; 0 to 10."
    )
    queue: Queue = Field(default=Queue(), description="How much may wait for the model.")
    timeouts: Timeouts = Field(default=Timeouts(), description="Limits on one try at a server.")
    keepalive: Keepalive = Field(
        default=Keepalive(), description="What a stream receives while it waits for a start."
    )
    stream_usage: Flag | None = _or(
        True,
        "Ask backends for usage on streams so that tokens are counted, and remove it for callers"
        " who did not ask.",
    )
    priority: Priority | None = _or(
        "normal", "Of requests that say none themselves: low, normal or high."
    )
    delay_hour: Usd | None = _or(
        10.0, "What an hour of one caller's waiting is worth, USD; the price of delay."
    )
    placement: Placement = Field(
        default=Placement(), description="Which way of serving the model is held ready, and why."
    )


class Defaults(Overridable):
    pass


class Budget(Part):
    usd_per_day: Annotated[Usd, Field(gt=0)] | None = Field(
        default=None,
        description="Most that may be spent in a day (UTC), USD. From 80 percent on no outside API"
        " is paid that could be waited for and idle servers are stopped sooner; at 100 requests"
        " are refused.",
    )


class Store(Part):
    path: FilePath | None = Field(
        default=None,
        description="SQLite file for what must outlast a restart: demand, start times, spend and"
        " the requests for replay; kept in memory when left out.",
    )
    requests: Duration = _lasts(
        "14d", "How long the time, size and cost of each request are kept; never their text."
    )


class Device(Part):
    memory: Size = Field(description="Memory that models on this device share, such as 80GiB.")
    host_memory: Size | None = Field(
        default=None,
        description="Host memory for its sleeping models; no limit when left out.",
    )
    max_wait: Timeout = _lasts(
        "30s",
        "How long requests for a model wait while another one holds the device and serves; then"
        " that one finishes what it has and makes room.",
    )


class Price(Part):
    input: Usd = Field(default=0.0, description="USD per million input tokens.")
    output: Usd = Field(default=0.0, description="USD per million output tokens.")


class Check(Part):
    every: Timeout = _lasts("10s", "Time between two health checks of a URL.")


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
    """vLLM's sleep mode; the server must run with --enable-sleep-mode and its dev routes."""

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
    at: WarmTime = Field(description="Days and time at which it must be ready: Mon-Fri 08:30.")
    tz: TimeZone = Field(default="UTC", description="Time zone of `at`, such as Europe/Berlin.")
    for_: Timeout = Field(alias="for", description="How long it is held ready from then on.")

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
        description="When a server without requests is put to sleep and stopped: a duration, never,"
        " or a rule that weighs holding against starting: clamped, empirical or ski_rental.",
    )
    jitter: Share = Field(
        default=0.05,
        description="Up to this share is added to idle times, so that not all stop at once.",
    )
    start_within: Timeout = _lasts("5m", "Give up a start after this long.")
    stop_within: Duration = _lasts("10s", "Time between SIGTERM and SIGKILL at a stop.")
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
        " duration, or p50, p90 and p99. 20s when left out.",
    )
    speed: Speed = Field(
        default=Speed(), description="How fast a server is, until that was measured."
    )
    sleep: Sleeps = Field(
        default=Sleeps(), description="Sleep levels that the server offers between hot and off."
    )
    device: Name | None = Field(default=None, description="The device of `devices` that it needs.")
    memory: Size | None = Field(
        default=None, description="Memory that a running server takes of its device."
    )
    host_memory: Size | None = Field(
        default=None, description="Host memory that it takes asleep; memory when left out."
    )
    warm: tuple[Warm, ...] = Field(
        default=(), description="When it must be ready, whatever the demand."
    )
    lease: Timeout = _lasts(
        "2m",
        "A server is killed by its guard when the gateway has not renewed its lease this long.",
    )

    @property
    def launch_identity(self) -> Hashable:
        """What needs a new server when it changes; all else is changed in place."""
        env = tuple(sorted(self.env.items()))
        sleeps = self.sleep.level_1 is not None or self.sleep.level_2 is not None
        return (self.launcher, self.command, env, self.base_path, self.ready, sleeps)


class Api(Part):
    url: ApiUrl = Field(description="OpenAI base URL of the outside API.")
    model: Name | None = Field(
        default=None, description="Name of the model there; served_as or the name when left out."
    )
    key: Secret | None = Field(default=None, description="Bearer token for the API.")
    price: Price = Field(default=Price(), description="What the API charges.")


class Model(Overridable):
    served_as: Name | None = Field(
        default=None, description="What the model server calls the model; the name when left out."
    )
    aliases: tuple[Name, ...] = Field(default=(), description="More names for the same model.")
    price: Price = Field(default=Price(), description="Your own rate card for this model.")
    fallback: tuple[Name, ...] = Field(
        default=(),
        description="Other models, tried in this order before the first byte only, when nothing of"
        " this model can answer.",
    )
    overflow: tuple[Name, ...] = Field(
        default=(),
        description="Other models that may answer while a start would take longer than the caller"
        " has; after the model's own api.",
    )
    budget: Budget = Field(default=Budget(), description="What the model may spend.")
    hot: Hot | None = Field(default=None, description="Servers that are always on.")
    cold: Cold | None = Field(default=None, description="A server that is started on demand.")
    api: Api | None = Field(default=None, description="An outside API.")


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
    class_: Literal["interactive", "batch"] = "interactive"
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

    def as_defaults(self) -> Defaults:
        """The same in the form of the YAML, every key written."""
        return Defaults.model_construct(
            max_wait=self.max_wait,
            retries=self.retries,
            queue=Queue.model_construct(**asdict(self.queue)),
            timeouts=Timeouts.model_construct(**asdict(self.timeouts)),
            keepalive=Keepalive.model_construct(**asdict(self.keepalive)),
            stream_usage=self.stream_usage,
            priority=self.priority,
            delay_hour=self.delay_hour,
            placement=Placement.model_construct(**asdict(self.placement)),
        )


def _with(settings: Settings, part: Overridable) -> Settings:
    """The settings with what a map writes itself laid over them."""
    return replace(
        settings,
        queue=replace(settings.queue, **_written(part.queue)),
        timeouts=replace(settings.timeouts, **_written(part.timeouts)),
        keepalive=replace(settings.keepalive, **_written(part.keepalive)),
        placement=replace(settings.placement, **_written(part.placement)),
        **_written(part, "max_wait", "retries", "stream_usage", "priority", "delay_hour"),
    )


def _written(part: Part, *names: str) -> dict[str, Any]:
    values = {name: getattr(part, name) for name in names or type(part).model_fields}
    return {name: value for name, value in values.items() if value is not None}


class Config(Part):
    """A whole file. Comes from `config.load`, which is what checks it across models."""

    version: Version = Field(description="Version of this format: 1.")
    server: Server = Field(default=Server(), description="The gateway's own HTTP server.")
    admin: Admin = Field(default=Admin(), description="The /admin API.")
    defaults: Defaults = Field(
        default=Defaults(), description="Values for every model that does not set its own."
    )
    store: Store = Field(default=Store(), description="What is kept over restarts, and where.")
    budget: Budget = Field(default=Budget(), description="What all models together may spend.")
    devices: dict[Name, Device] = Field(
        default_factory=dict, description="Devices that models share, by a name of your own."
    )
    models: Annotated[dict[Name, Model], Field(min_length=1)] = Field(
        description="The models, by the name that callers use."
    )

    # Not private attributes: pydantic looks those up by a slow way, and every request asks.
    @cached_property
    def all_settings(self) -> dict[str, Settings]:
        shared = _with(Settings(), self.defaults)
        return {name: _with(shared, model) for name, model in self.models.items()}

    @cached_property
    def by_name(self) -> dict[str, str]:
        return {n: name for name, model in self.models.items() for n in (name, *model.aliases)}

    def settings(self, model: str) -> Settings:
        """KeyError for a name that is not a model (an alias is not)."""
        return self.all_settings[model]

    def served_as(self, model: str) -> str:
        """What the model's own servers, hot and cold, call it."""
        return self.models[model].served_as or model

    def api_model(self, model: str) -> str:
        """What the model's outside API calls it."""
        api = self.models[model].api
        return (api and api.model) or self.served_as(model)

    def launch_identity(self, model: str) -> Hashable:
        """Equal before and after a reload: the running cold servers can stay. None: no cold."""
        cold = self.models[model].cold
        return cold and (model, self.served_as(model), cold.launch_identity)

    def resolve(self, name: str) -> str | None:
        """The model that a caller's name means, aliases included."""
        return self.by_name.get(name)

    def near(self, name: str) -> list[str]:
        """Up to three names that a caller may have meant, best first."""
        # difflib is quadratic in the length and this runs on a caller's word.
        return get_close_matches(name, self.by_name, n=3) if len(name) <= MAX_NAME else []


def secret_text(key: SecretStr | None) -> str | None:
    return key.get_secret_value() if key else None


def part_at(path: tuple[str | int, ...]) -> type[Part] | None:
    """The class of the map at a path of keys; None where there is no such map."""
    here: Any = Config
    for step in path:
        if isinstance(here, type) and issubclass(here, Part):
            field = here.keys().get(str(step))
            here = field.annotation if field else None
            here = _inner(here)
        elif isinstance(here, tuple):  # the values of a map or of a list
            here = here[0]
    return here if isinstance(here, type) and issubclass(here, Part) else None


def _inner(annotation: Any) -> Any:
    """`X | None` is X; a map or list of X is (X,)."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    args = [_inner(arg) for arg in getattr(annotation, "__args__", ())]
    parts = [a for a in args if isinstance(a, tuple) or isinstance(a, type) and issubclass(a, Part)]
    if getattr(annotation, "__origin__", None) in (dict, tuple):
        return (parts[0],) if parts else None
    return parts[0] if parts else None
