"""What cascades judge by, from files: calibrations, and labelled prompts to compare new ones with.

Nothing heavy is imported for a configuration that names no labelled prompts.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from config.policy import Rule
from config.problems import ConfigError, Problem
from config.schema import Config
from policies.calibration import STATED_DEFAULTS, Calibration
from router.calibrate.files import load, neighbours_beside
from router.embedder import DIMENSIONS, Busy, embedder

if TYPE_CHECKING:
    from router.neighbours import Estimate, Neighbours

EMBEDDED_WITHIN_S = 1.0  # the request waits for it


class Judge(Struct, frozen=True, eq=False):
    """`neighbours` is None where there are none, or no embedder to find them with."""

    calibration: Calibration
    neighbours: "Neighbours | None" = None

    async def foresee(self, prompt: str) -> "Estimate | None":
        """What became of prompts like this one; None when that cannot be told in time."""
        embeds = embedder()
        if self.neighbours is None or embeds is None or not prompt:
            return None
        try:
            async with asyncio.timeout(EMBEDDED_WITHIN_S):
                (vector,) = await embeds.embed([prompt])
        except (TimeoutError, Busy):
            return None
        return await asyncio.to_thread(self.neighbours.estimate, vector)  # 8 ms of 50,000 prompts


BY_DEFAULT = Judge(STATED_DEFAULTS)


def judges(config: Config, name: str) -> dict[str, Judge]:
    """Those that the policies name, by the files of their calibrations; blocking.

    Raises ConfigError, in which `name` stands for the file of the configuration.
    """
    found: dict[str, Judge] = {}
    problems: list[Problem] = []
    for policy, body in config.policies.items():
        lines = config.policy_lines(policy) or (1,) * len(body.first_match)
        for line, rule in zip(lines, body.first_match, strict=True):
            path = _calibration_of(rule)
            if path is None:
                continue
            try:
                found[path] = found.get(path) or _judge(Path(path))
                _check_pair(path, found[path].calibration, rule)
            except ValueError as error:
                problems.append(Problem(name, line, 1, str(error)))
    if problems:
        raise ConfigError(problems)
    return found


def calibration_files(config: Config) -> list[str]:
    """Those that the policies name, each once."""
    rules = (rule for policy in config.policies.values() for rule in policy.first_match)
    return list(dict.fromkeys(path for rule in rules if (path := _calibration_of(rule))))


def _calibration_of(rule: Rule) -> str | None:
    accept = rule.use.accept if rule.use is not None else None
    return accept.calibration if accept is not None else None


def _check_pair(path: str, calibration: Calibration, rule: Rule) -> None:
    """How sure one model is of its words says nothing of another. Raises ValueError."""
    made_for = calibration.small, calibration.large
    if None not in made_for and rule.use is not None and rule.use.cascade != made_for:
        raise ValueError(
            f"{path} was made for the cascade [{', '.join(map(str, made_for))}] and not for"
            f" [{', '.join(rule.use.models)}]; make another with lamplighter calibrate"
        )


def _judge(path: Path) -> Judge:
    calibration, beside = load(path), neighbours_beside(path)
    if not beside.is_file():
        return Judge(calibration)
    embeds = embedder()
    if embeds is None:
        raise ValueError(
            f"{beside} needs an extra: pip install 'lamplighter[embeddings]', or calibrate without"
            " --neighbours and delete it"
        )
    from router.neighbours import Neighbours

    neighbours = Neighbours.load(beside, embeds.name)
    if neighbours.dimensions != DIMENSIONS:
        raise ValueError(f"{beside} has vectors of {neighbours.dimensions} and not {DIMENSIONS}")
    return Judge(calibration, neighbours)
