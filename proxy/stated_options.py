"""What `explain` and `diff` are told by options: states, a time, headers; and a router of that."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from config.problems import ConfigError, did_you_mean
from config.schema import Config
from proxy.configured import mistakes
from router.judges import judges
from router.routing import Router
from router.stated import STATES, Impossible, Stated, stated_router

States = Sequence[tuple[str, Stated]]


class Header(click.ParamType[tuple[str, str]]):
    """`name: value`, as it stands in a request."""

    name = "name:value"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        name, colon, text = str(value).partition(":")
        if not colon or not name.strip() or not name.isascii():
            self.fail(f"'{value}' is no header: write 'name: value'", param, ctx)
        return name.strip(), text.strip()


class ModelState(click.ParamType[tuple[str, Stated]]):
    """`model=state`; the name may have such a sign in it."""

    name = "model=state"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Stated]:
        model, _, word = str(value).rpartition("=")
        state = next((each for each in STATES if each == word), None)
        if not model or state is None:
            self.fail(f"'{value}': write MODEL=STATE, one of {', '.join(STATES)}", param, ctx)
        return model, state


class Moment(click.ParamType[float]):
    """A time of ISO 8601, in seconds since the epoch; UTC where it names no zone."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return moment(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def moment(text: str) -> float:
    """Seconds since the epoch. ValueError for people."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        examples = "2026-11-21T09:30, 2026-11-21T09:30Z or 2026-11-21T09:30+01:00"
        raise ValueError(f"'{text[:40]}' is no time: write it as {examples}") from error


STATE = click.option(
    "--state",
    "states",
    type=ModelState(),
    multiple=True,
    help=f"How a model is: {', '.join(STATES)}; may be repeated.",
)
AT = click.option("--at", "at_s", type=Moment(), help="When it comes, such as 2026-11-21T09:30Z.")


def router_of(config: Config, file: Path, states: States, epoch_s: float) -> Router:
    """That of a gateway whose models are in these states. Raises UsageError, ClickException."""
    stated: dict[str, Stated] = {}
    for name, state in states:
        model = config.resolve(name)
        if model is None:
            hint = did_you_mean(name, config.by_name)
            raise click.UsageError(f"--state: {file} has no model '{name[:200]}'{hint}")
        stated[model] = state
    try:
        return stated_router(config, judges(config, str(file)), stated, epoch_s)
    except Impossible as error:
        raise click.UsageError(f"--state: {error}") from error
    except ConfigError as error:
        raise mistakes(error) from error


def now_s() -> float:
    """Seconds since the epoch."""
    return time.time()
