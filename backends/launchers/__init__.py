"""Ways to start a model server; each is one module with one class that satisfies `Launcher`.

A launcher starts, watches and stops. When to do so, and what a failure means for the callers, is
decided by who asks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from backends.log_ring import LogRing


@dataclass(frozen=True)
class LaunchSpec:
    """What to start. Command and env may hold the placeholders of `config.templates`.

    Whatever runs it ends it by itself once the gateway has been silent for `lease_s`, as has one
    that hangs; `inf`: never.
    """

    model: str
    served_as: str
    command: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    base_path: str
    lease_s: float = math.inf


class Running(Protocol):
    """One started server. Its lease is renewed for as long as somebody holds this object."""

    @property
    def url(self) -> str:
        """Its OpenAI base URL, such as http://127.0.0.1:20311/v1."""
        ...

    @property
    def pid(self) -> int: ...

    @property
    def key(self) -> str | None:
        """The bearer token that the server was told to ask for."""
        ...

    @property
    def reason(self) -> str | None:
        """Why it ended, where the launcher knows more than the exit code says."""
        ...

    async def wait(self) -> int:
        """Its exit code, negative for a signal, once nothing of it is left. Many may await it."""
        ...

    async def stop(self, within_s: float) -> None:
        """Ask it to end, kill it after `within_s`, return when it is gone.

        Idempotent; of several calls the earliest deadline counts. A caller who is cancelled leaves
        the stop going.
        """
        ...


class Launcher(Protocol):
    async def launch(self, spec: LaunchSpec, log: LogRing) -> Running:
        """Return when the process runs; it is not ready then. Raises LaunchFailed.

        Nothing is left behind on an error or on cancellation.
        """
        ...


class LaunchFailed(Exception):
    """No server came of it. `permanent`: trying again cannot help, such as no such command."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent
