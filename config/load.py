"""From a file to a Config, or to all of its mistakes at once, each with line and column."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from config import checks, planning_checks, policy_checks, sentences, yaml_lines
from config.problems import ConfigError, Problem
from config.schema import Config
from config.written import written_policies

MAX_FILE = 8 * 2**20


def load(path: str | os.PathLike[str], env: Mapping[str, str], *, files: bool = True) -> Config:
    """ConfigError also when the file cannot be read. `env` fills in `${env.NAME}`.

    Without `files` it is no mistake that files which it names are not there yet.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise _one(name, f"cannot read the file: {reason}") from error
    if len(raw) > MAX_FILE:
        raise _one(name, f"the file is larger than {MAX_FILE // 2**20} MiB")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        place = yaml_lines.place_at(before, len(before))
        message = f"the file is not UTF-8: byte 0x{raw[error.start]:02X}; save it as UTF-8"
        raise ConfigError([Problem(name, place.line, place.column, message)]) from None
    return parse(text, name, env, files=files)


def _one(name: str, message: str) -> ConfigError:
    return ConfigError([Problem(name, 1, 1, message)])


def parse(text: str, name: str, env: Mapping[str, str], *, files: bool = True) -> Config:
    """`name` stands for the file in problems; `files` as for `load`."""
    document = yaml_lines.read(text, name, env)
    if document.problems and not document.values:
        raise ConfigError(document.problems)
    config = None
    checks.check(document)
    planning_checks.check(document)
    policy_checks.check(document)
    if files:
        policy_checks.check_files(document)
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        sentences.report(document, error)
    if config is None or document.problems:
        # The error of pydantic holds the input, which holds secrets: it goes no further.
        raise ConfigError(_without_secrets(document)) from None
    return config.as_written(written_policies(document, text))


def _without_secrets(document: yaml_lines.Document) -> list[Problem]:
    """Values from the environment as `${env.NAME}` wherever a message quotes one.

    Short values stay: they are ports and names, and replacing "1" would garble every message.
    """
    values = sorted(document.filled.items(), key=lambda item: -len(item[1]))
    out = []
    for problem in document.problems:
        message = problem.message
        for name, value in values:
            if len(value) >= 4:
                for form in (value, repr(value)[1:-1]):
                    message = message.replace(form, f"${{env.{name}}}")
        out.append(Problem(problem.file, problem.line, problem.column, message))
    return out
