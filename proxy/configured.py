"""The configuration that a command is about."""

import os
from pathlib import Path

import click

from config.load import load
from config.problems import ConfigError
from config.schema import Config

FILE = click.Path(dir_okay=False, path_type=Path)


def configured(file: Path, *, files: bool = True) -> Config:
    """Raises ClickException with every mistake of the file; `files` as for `load`."""
    try:
        return load(file, os.environ, files=files)
    except ConfigError as error:
        raise mistakes(error) from error


def mistakes(error: ConfigError) -> click.ClickException:
    return click.ClickException("\n".join(map(str, error.problems)))
