"""What a configuration is: frozen models, one per map in the YAML, each field described.

Fields hold seconds, bytes and USD whatever way they were written. What needs the places of two
keys (names used twice, cycles) is checked in `checks.py`, before these models are built.
"""

from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr

from config.durations import Duration, Size, Timeout
from config.fields import MAX_NAME, FilePath, Flag, Host, Name, Secret, Usd, Version, Whole
from config.part import Part, holds, lasts
from config.policy import Policy
from config.settings import Defaults, Overridable, Queue, Settings, merged
from config.sources import Api, Cold, Endpoint, Hot, Price
from config.written import WrittenPolicy

# The rest of the program imports all parts from here.
__all__ = ["Api", "Cold", "Endpoint", "Hot", "Part", "Queue", "Settings"]


class Server(Part):
    host: Host = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: Annotated[Whole, Field(ge=0, le=65535)] = Field(
        default=8080, description="TCP port to listen on; 0 takes a free one."
    )
    max_body: Size = holds("32MiB", "Largest request body; larger ones get 413.")
    max_header_bytes: Size = holds("64KiB", "Largest request head: request line and headers.")
    header_timeout: Timeout = lasts("10s", "How long a client may take to send its headers.")
    body_timeout: Timeout = lasts("30s", "Longest silence while a request body is read.")
    drain_within: Duration = lasts("30s", "How long a graceful stop lets requests finish.")
    explain: Flag = Field(
        default=True,
        description="Whether callers may ask for an explanation in place of an answer, by the"
        " header x-lamplighter-explain; it shows them the policy's text, models and prices.",
    )


class Admin(Part):
    key: Annotated[Secret, Field(min_length=8)] | None = Field(
        default=None, description="Bearer token that /admin asks for; at least 8 characters."
    )


class Budget(Part):
    usd_per_day: Annotated[Usd, Field(gt=0)] | None = Field(
        default=None,
        description="Most that may be spent in a day (UTC), USD. From 80 percent of it on, no"
        " outside API is paid that could be waited for, and idle servers are stopped sooner; when"
        " it is spent, requests are refused.",
    )


class Store(Part):
    path: FilePath | None = Field(
        default=None,
        description="SQLite file for what must outlast a restart: demand, start times, spend, and"
        " requests for a replay; kept in memory when left out.",
    )
    requests: Duration = lasts(
        "14d", "How long each request's time, size and cost are kept; its text never is."
    )


class Device(Part):
    memory: Size = Field(description="Memory that the models on this device share, such as 80GiB.")
    host_memory: Size | None = Field(
        default=None,
        description="Host memory that its models may take asleep; no limit when left out.",
    )
    max_wait: Timeout = lasts(
        "30s",
        "How long a request waits while another model holds the device and serves; after that the"
        " other one takes no new requests, finishes what it has and makes room.",
    )


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
        description="Other models, tried in this order after the model's own api, when a start"
        " would take longer than the caller can wait.",
    )
    budget: Budget = Field(default=Budget(), description="What the model may spend in a day.")
    hot: Hot | None = Field(default=None, description="Servers that are always on.")
    cold: Cold | None = Field(default=None, description="A server that is started on demand.")
    api: Api | None = Field(default=None, description="An outside API.")


class Config(Part):
    """A whole file. Comes from `config.load`, which is what checks it across models."""

    version: Version = Field(description="Version of this format: 1.")
    server: Server = Field(default=Server(), description="The gateway's own HTTP server.")
    admin: Admin = Field(default=Admin(), description="The /admin API.")
    defaults: Defaults = Field(
        default=Defaults(), description="Values for every model that does not set its own."
    )
    store: Store = Field(default=Store(), description="What is kept over restarts, and where.")
    budget: Budget = Field(
        default=Budget(), description="What all models together may spend in a day."
    )
    devices: dict[Name, Device] = Field(
        default_factory=dict, description="Devices whose memory models share, by names of your own."
    )
    models: Annotated[dict[Name, Model], Field(min_length=1)] = Field(
        description="The models, by the name that callers use."
    )
    policies: dict[Name, Policy] = Field(
        default_factory=dict,
        description="Routing policies, by names that callers ask for like models.",
    )

    # Not private attributes: pydantic looks those up by a slow way, and every request asks.
    @cached_property
    def all_settings(self) -> dict[str, Settings]:
        shared = merged(Settings(), self.defaults)
        return {name: merged(shared, model) for name, model in self.models.items()}

    @cached_property
    def by_name(self) -> dict[str, str]:
        return {n: name for name, model in self.models.items() for n in (name, *model.aliases)}

    @cached_property
    def policy_names(self) -> dict[str, str]:
        """Each name and alias of a policy, with the policy."""
        return {n: name for name, each in self.policies.items() for n in (name, *each.aliases)}

    @cached_property
    def written_policies(self) -> Mapping[str, WrittenPolicy]:
        """How policies stand in the file; empty for a configuration that is from none."""
        return {}

    def as_written(self, policies: Mapping[str, WrittenPolicy]) -> Self:
        """Itself, knowing that; two that differ in nothing else are equal."""
        self.__dict__["written_policies"] = policies
        return self

    def policy_lines(self, name: str) -> tuple[int, ...]:
        """The line of each of a policy's rules; empty when that is not known."""
        written = self.written_policies.get(name)
        return written.lines if written else ()

    def policy_text(self, name: str) -> tuple[tuple[int, str], ...]:
        """A policy's lines with their numbers, as in the file: variables are not filled in."""
        written = self.written_policies.get(name)
        return written.text if written else ()

    def settings(self, model: str) -> Settings:
        """KeyError for a name that is not a model (an alias is not)."""
        return self.all_settings[model]

    def is_budgeted(self, model: str) -> bool:
        """Whether a budget, its own or that of all, can run out by what its requests cost."""
        own, shared = self.models[model].budget.usd_per_day, self.budget.usd_per_day
        return own is not None or (shared is not None and self.models[model].api is not None)

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
        return (
            get_close_matches(name, [*self.by_name, *self.policy_names], n=3)
            if len(name) <= MAX_NAME
            else []
        )


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
