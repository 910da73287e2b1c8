"""Run one gateway in this process: what the commands `serve` and `demo` share."""

import logging
import os
import socket
import tempfile
from collections.abc import Callable

import click

from backends.launchers import Launcher
from backends.launchers.process import ProcessLauncher
from config.schema import Config, secret_text
from config.watch import Watcher
from proxy.admin_key import AdminKey
from proxy.gateway import Gateway
from proxy.process import settle
from proxy.server import Server
from proxy.workers import Workers, listen, owner_path

LOOPBACK = ("127.0.0.1", "::1", "localhost")
log = logging.getLogger("lamplighter")


class CannotListen(click.ClickException):
    """The address is taken, or is none of this machine's."""


def launchers() -> dict[str, Launcher]:
    """Every way to start a model server, by its name in the YAML."""
    return {"process": ProcessLauncher()}


async def serve_gateway(
    config: Config,
    watcher: Watcher | None,
    host: str,
    port: int,
    on_started: Callable[[int], None] = lambda port: None,
    workers: int = 1,
) -> None:
    """Serve until told to stop. `on_started` gets the port once the gateway listens.

    With several `workers` this process owns the instances, and they relay.
    """
    _check_port(host, port)
    key = AdminKey(secret_text(config.admin.key))
    gateway = Gateway(config, watcher=watcher, launchers=launchers())
    if host not in LOOPBACK:
        log.warning("listening on %s without caller keys: anybody who reaches it can use it", host)

    def started(actual_port: int) -> None:
        log.info("serving %d models at http://%s:%d/v1", len(config.models), host, actual_port)
        if key.generated:
            _publish(key, actual_port)
        on_started(actual_port)

    settle()
    try:
        if workers == 1:
            await _run(Server(gateway, key, host=host, port=port), started)
        else:
            with tempfile.TemporaryDirectory(prefix="lamplighter-") as folder:
                path = owner_path(folder)
                pool = Workers(gateway, workers, listen(host, port), path)
                await _run(Server(gateway, key, uds=path, workers=pool), started)
    finally:
        key.withdraw()


async def _run(server: Server, started: Callable[[int], None]) -> None:
    server.on_started(started)
    await server.serve()


def _check_port(host: str, port: int) -> None:
    """Say now, in words, what would else be a stack trace after the start."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port"
        ) from error


def _publish(key: AdminKey, port: int) -> None:
    try:
        log.info("admin key for this user's commands: %s", key.publish(os.environ, port))
    except OSError as error:
        log.warning("no admin key is published (%s): set admin.key in the configuration", error)
