"""A routing policy: rules that are tried in order, and where each sends what it matches."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from config.durations import Duration, Timeout, at_most
from config.fields import FilePath, Flag, Name, Real, Share, Text, TimeZone, Usd, Whole
from config.part import Part
from config.rule_values import (
    Affinity,
    CallerKeys,
    Keywords,
    Languages,
    Names,
    Regex,
    RequestFields,
    Texts,
    as_many,
    not_empty,
)
from config.settings import Priority
from config.warm import WarmTime

Priorities = Annotated[tuple[Priority, ...], BeforeValidator(as_many), Field(min_length=1)]


def _map(data: object, what: str) -> object:
    if data is not None and not isinstance(data, dict | Part):
        raise ValueError(f"must be {what}")
    return data


def _small_and_large(value: object) -> object:
    if isinstance(value, list) and len(value) > 2:
        raise ValueError(
            "takes two models, a small and a large one: a longer chain never beats the best pair"
            " of it, so take two"
        )
    if isinstance(value, list) and len(value) < 2:
        raise ValueError("takes two models, a small and a large one")
    return value


class Range(Part):
    """All limits that are given must hold."""

    above: Real | None = Field(default=None, description="More than this.")
    at_least: Real | None = Field(default=None, description="This or more.")
    below: Real | None = Field(default=None, description="Less than this.")
    at_most: Real | None = Field(default=None, description="This or less.")

    @model_validator(mode="before")
    @classmethod
    def _only_a_map(cls, data: object) -> object:
        return _map(data, "a map of limits, such as {above: 1000}")


class InputTokens(Range):
    exact: Flag = Field(
        default=False,
        description="Count with the tokenizer of the rule's model, and not by an estimate.",
    )


class BudgetLeft(Range):
    """Limits are shares of a day's budget, 0 to 1."""

    model: Name | None = Field(
        default=None, description="The model whose budget is meant; that of all when left out."
    )


class Similar(Part):
    examples: Annotated[tuple[Text, ...], BeforeValidator(not_empty), Field(max_length=100)] = (
        Field(description="Texts that a prompt is compared with, by embedding.")
    )
    above: Annotated[Real, Field(gt=-1, lt=1)] = Field(
        default=0.6, description="Cosine similarity to the nearest example must be more than this."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_examples(cls, data: object) -> object:
        if isinstance(data, list):
            return {"examples": data}
        return _map(data, "a list of examples, or a map with examples and above")


class Hours(Part):
    at: WarmTime = Field(description="Days and time at which it begins: Mon-Fri 08:30.")
    tz: TimeZone = Field(
        default="UTC", description="Time zone of that time, such as Europe/Berlin."
    )
    for_: Annotated[Timeout, at_most("7d")] = Field(
        alias="for", description="How long it lasts; at most 7d."
    )

    @model_validator(mode="before")
    @classmethod
    def _only_a_map(cls, data: object) -> object:
        return _map(data, "a map such as {at: Mon-Fri 08:30, for: 10h}")

    def covers(self, epoch_s: float) -> bool:
        return self.at.covers(epoch_s, self.tz, self.for_)


class When(Part):
    """Every key that is given must hold."""

    model: Names | None = Field(default=None, description="The name that the caller asked for.")
    header: dict[str, Texts] | None = Field(
        default=None, description="Headers, each with the values that match; '*' matches any."
    )
    key: CallerKeys | None = Field(
        default=None,
        description="The caller's key, as sha256: and 64 hexadecimal digits of its hash.",
    )
    priority: Priorities | None = Field(
        default=None, description="The priority that the caller asked for: low, normal or high."
    )
    input_tokens: InputTokens | None = Field(
        default=None, description="Tokens of the prompt, as far as they are known."
    )
    output_tokens: Range | None = Field(
        default=None, description="The most tokens that the caller allows the answer to have."
    )
    tools: Flag | None = Field(default=None, description="Whether the request offers tools.")
    json_schema: Flag | None = Field(
        default=None, description="Whether the answer must be JSON, with a schema or without."
    )
    image: Flag | None = Field(default=None, description="Whether the prompt has a picture.")
    audio: Flag | None = Field(default=None, description="Whether the prompt has audio.")
    language: Languages | None = Field(
        default=None, description="Language of the last user text, such as en or de (ISO 639-1)."
    )
    keyword: Keywords | None = Field(
        default=None,
        description="Words or phrases, of which the last user text has one; case does not count.",
    )
    regex: Regex | None = Field(
        default=None,
        description="Regular expression (RE2) that is found in the last user text.",
    )
    similar_to: Similar | None = Field(
        default=None, description="Examples that the last user text is near to."
    )
    time: Annotated[tuple[Hours, ...], BeforeValidator(as_many), Field(min_length=1)] | None = (
        Field(default=None, description="Hours of the week, of which one is now.")
    )
    hot: Names | None = Field(
        default=None, description="Models that can all answer now, without a start."
    )
    budget_left: BudgetLeft | None = Field(
        default=None, description="What is left of a day's budget, as a share of it."
    )
    any_of: Annotated[tuple["When", ...], BeforeValidator(not_empty)] | None = Field(
        default=None, description="Conditions of which at least one holds."
    )
    all_of: Annotated[tuple["When", ...], BeforeValidator(not_empty)] | None = Field(
        default=None, description="Conditions that all hold."
    )
    not_: "When | None" = Field(
        default=None, alias="not", description="A condition that does not hold."
    )

    @model_validator(mode="before")
    @classmethod
    def _only_a_map(cls, data: object) -> object:
        return _map(data, "a map of conditions, such as {tools: true}")

    @model_validator(mode="before")
    @classmethod
    def _headers(cls, data: object) -> object:
        """Names of headers know no case."""
        headers = data.get("header") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(headers, dict):
            return data
        return {**data, "header": {str(name).lower(): value for name, value in headers.items()}}

    def with_inner(self) -> Iterator["When"]:
        """It, and all conditions in it."""
        yield self
        for inner in (*(self.any_of or ()), *(self.all_of or ()), self.not_):
            if inner is not None:
                yield from inner.with_inner()


class Weighted(Part):
    model: Name = Field(description="A model.")
    weight: Annotated[Real, Field(gt=0)] = Field(
        default=1.0, description="Share of the requests relative to the others; above 0."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: object) -> object:
        if isinstance(data, str):
            return {"model": data}
        return _map(data, "a model, or a map with model and weight")


class Accept(Part):
    """When the small model's answer is kept."""

    max_wrong: Annotated[Real, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Most share of requests in which a wrong answer of the small model is kept"
        " although the large one's would be right; needs a calibration.",
    )
    right_answer: Usd | None = Field(
        default=None,
        description="What a right answer is worth, USD: the large model is asked when the gain"
        " that it promises is worth its price and the wait for it.",
    )
    calibration: FilePath | None = Field(
        default=None, description="File that lamplighter calibrate wrote; stated defaults without."
    )
    self_check: Flag = Field(
        default=False, description="Ask the small model, in one token, whether it is right."
    )
    samples: Annotated[Whole, Field(ge=1, le=8)] = Field(
        default=1, description="Answers of the small model that are compared; 1 compares none."
    )
    shadow: Share = Field(
        default=0.0,
        description="Share of kept answers for which the large model is asked too, unseen by the"
        " caller, to learn whether they were right.",
    )
    compare: Literal["judge", "exact"] = Field(
        default="judge",
        description="How two answers are compared: by the large model as judge, or as text.",
    )


class Use(Part):
    """One of `model`, `split` and `cascade`; a text is `model`, a list is `split`."""

    model: Name | None = Field(default=None, description="The model that answers.")
    split: Annotated[tuple[Weighted, ...], BeforeValidator(not_empty)] | None = Field(
        default=None, description="Models that share the requests by weight."
    )
    cascade: (
        Annotated[
            tuple[Name, ...], BeforeValidator(_small_and_large), Field(min_length=2, max_length=2)
        ]
        | None
    ) = Field(
        default=None, description="A small model, and the large one that takes over when needed."
    )
    accept: Accept | None = Field(
        default=None, description="When the small model's answer is kept; for a cascade."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, data: object) -> object:
        if isinstance(data, str):
            return {"model": data}
        if isinstance(data, list):
            return {"split": data}
        return _map(data, "a model, a list of models, or a map with model, split or cascade")

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that may answer, in the order written."""
        if self.split is not None:
            return tuple(item.model for item in self.split)
        return self.cascade or ((self.model,) if self.model else ())


class Rule(Part):
    name: Name | None = Field(default=None, description="What people call the rule.")
    when: When | None = Field(
        default=None, description="What it matches; everything when left out, as the last one must."
    )
    use: Use | None = Field(default=None, description="Where it sends what it matches.")
    deny: Text | None = Field(
        default=None, description="Refuse what it matches, with this message, in place of use."
    )
    max_wait: Duration | None = Field(
        default=None,
        description="How long the request may wait for a server, in place of the model's own.",
    )
    priority: Priority | None = Field(
        default=None,
        description="The request's priority, in place of the caller's and the model's.",
    )
    overflow: tuple[Name, ...] | None = Field(
        default=None, description="In place of the model's own overflow."
    )
    retries: Annotated[Whole, Field(ge=0, le=10)] | None = Field(
        default=None,
        description="How often it is tried again elsewhere before its first byte, in place of the"
        " model's own; 0 to 10.",
    )
    set: RequestFields = Field(
        default_factory=dict,
        description="Fields of the request, such as temperature, where the caller gave none.",
    )


class Mirror(Part):
    to: Name = Field(description="The model that is asked too; its answers go to nobody.")
    share: Annotated[Share, Field(gt=0)] = Field(description="Share of the requests; 0 to 1.")


class Policy(Part):
    aliases: tuple[Name, ...] = Field(default=(), description="More names for the same policy.")
    affinity: Affinity | None = Field(
        default=None,
        description="What keeps requests at one model and one server: conversation,"
        " prompt_cache_key or header:NAME.",
    )
    mirror: Mirror | None = Field(default=None, description="Shadow traffic to another model.")
    first_match: Annotated[tuple[Rule, ...], BeforeValidator(not_empty)] = Field(
        description="Rules, tried from top to bottom; the last one has no when."
    )

    def conditions(self) -> Iterator[When]:
        """Those of all rules, and all conditions in them."""
        for rule in self.first_match:
            if rule.when is not None:
                yield from rule.when.with_inner()
