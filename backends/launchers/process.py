"""Model servers as child processes of the gateway, each behind a guard, on a loopback port.

A server gets the gateway's environment without what is meant for the gateway alone (variables
that begin with `LAMPLIGHTER_`, and what systemd gives to the one process it watches), then
`PYTHONUNBUFFERED=1` unless it is set, so that the last words of a crash are in the log, then the
model's own `env`. Its stdin is empty; stdout and stderr go to the log together.
"""

import math
import os
import secrets
import sys
from collections.abc import Mapping
from functools import partial

from backends.launchers import LaunchFailed, LaunchSpec
from backends.launchers.guarded import Guarded
from backends.launchers.renewals import Renewals
from backends.log_ring import LogRing
from backends.ports import HOST, NoFreePort, Ports
from config.templates import placeholders, render

_OWN_PREFIX = "LAMPLIGHTER_"
_OWN_NAMES = frozenset(
    {
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    }
)


class ProcessLauncher:
    """Starts commands on this machine. Satisfies `Launcher`."""

    def __init__(
        self, ports: Ports | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._ports = ports or Ports(seed=os.getpid())
        self._environ = os.environ if environ is None else environ
        self._renewals = Renewals()

    async def launch(self, spec: LaunchSpec, log: LogRing) -> "ServerProcess":
        key = secrets.token_urlsafe(32) if _wants_key(spec) else None
        if key is not None:
            log.hide(key)
        try:
            port = self._ports.take()
        except NoFreePort as error:
            raise LaunchFailed(str(error)) from error
        give_back = partial(self._ports.give_back, port)
        try:
            command, env = self._filled(spec, port, key)
        except BaseException:
            give_back()
            raise
        process = await Guarded.start(command, env, log.append, give_back, spec.lease_s)
        url = f"http://{HOST}:{port}{spec.base_path.rstrip('/')}"
        server = ServerProcess(url, key, process, spec.lease_s)
        self._renewals.add(server)
        return server

    def _filled(
        self, spec: LaunchSpec, port: int, key: str | None
    ) -> tuple[list[str], dict[str, str]]:
        values = {
            "port": str(port),
            "model": spec.model,
            "served_as": spec.served_as,
            "host": HOST,
            "python": sys.executable,
            "key": key or "",
        }
        try:
            command = [render(word, values) for word in spec.command]
            own = {name: render(text, values) for name, text in spec.env.items()}
        except KeyError as error:
            raise LaunchFailed(f"unknown placeholder {{{error.args[0]}}}", permanent=True) from None
        if not command or not command[0]:
            raise LaunchFailed("its command is empty", permanent=True)
        return command, {"PYTHONUNBUFFERED": "1", **inherited(self._environ), **own}


class ServerProcess:
    """A server that runs here. Satisfies `Running`."""

    def __init__(self, url: str, key: str | None, process: Guarded, lease_s: float) -> None:
        self.url = url
        self.key = key
        self.pid = process.pid
        self._process = process
        self._lease_s = lease_s

    @property
    def lease_s(self) -> float:
        return math.inf if self._process.ended else self._lease_s

    def renew(self) -> None:
        self._process.renew()

    @property
    def reason(self) -> str | None:
        if not self._process.lost_lease:
            return None
        return f"the gateway did not renew its lease for {self._lease_s:g} s (cold.lease)"

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, within_s: float) -> None:
        await self._process.stop(within_s)


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the gateway's environment a model server may see."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(_OWN_PREFIX) and name not in _OWN_NAMES
    }


def _wants_key(spec: LaunchSpec) -> bool:
    return any("key" in placeholders(text) for text in (*spec.command, *spec.env.values()))
