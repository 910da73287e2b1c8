"""Files that a command was asked to write beside what it prints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from proxy.pictures import NoMatplotlib


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """The table is out already: what cannot be written is told after it."""
    try:
        yield
    except NoMatplotlib as error:
        raise click.ClickException(f"{file} is not drawn: {error}") from error
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
