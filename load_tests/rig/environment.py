"""The programs of others: peers in a virtual environment of their own, nginx and wrk from apt."""

import os
from pathlib import Path


class Environment:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program(self, name: str) -> str:
        return str(self._folder / "bin" / name)


def prepared() -> Environment:
    return Environment(Path(os.environ.get("LAMPLIGHTER_PEERS", "/tmp/peers")))
