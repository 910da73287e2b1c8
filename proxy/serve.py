"""Run one gateway in this process: what the commands `serve` and `demo` share."""

import ctypes
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable

import click

from backends.launchers import Launcher
from backends.launchers.process import ProcessLauncher
from config.schema import Config, secret_text
from config.watch import Watcher
from proxy.admin_key import AdminKey
from proxy.gateway import Gateway
from proxy.server import Server

LOOPBACK = ("127.0.0.1", "::1", "localhost")
log = logging.getLogger("lamplighter")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


class CannotListen(click.ClickException):
    """The address is taken, or is none of this machine's."""


def log_to_stderr(level: str) -> None:
    """One line an event, with a level that journald and people can filter by."""
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        force=True,
    )
    for noisy in ("httpx2", "httpcore2", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def launchers() -> dict[str, Launcher]:
    """Every way to start a model server, by its name in the YAML."""
    return {"process": ProcessLauncher()}


async def serve_gateway(
    config: Config,
    watcher: Watcher | None,
    host: str,
    port: int,
    on_started: Callable[[int], None] = lambda port: None,
) -> None:
    """Serve until told to stop. `on_started` gets the port once the gateway listens."""
    _check_port(host, port)
    key = AdminKey(secret_text(config.admin.key))
    gateway = Gateway(config, watcher=watcher, launchers=launchers())
    server = Server(gateway, key, host, port)
    if host not in LOOPBACK:
        log.warning("listening on %s without caller keys: anybody who reaches it can use it", host)

    def started(actual_port: int) -> None:
        log.info("serving %d models at http://%s:%d/v1", len(config.models), host, actual_port)
        if key.generated:
            _publish(key, actual_port)
        on_started(actual_port)

    server.on_started(started)
    _collect_seldom()
    _keep_memory()
    try:
        await server.serve()
    finally:
        key.withdraw()


def _collect_seldom() -> None:
    """Keep the garbage collector from walking all that lives for ever, 700 objects at a time.

    Requests free what they made by counting references; cycles are for faults only.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _keep_memory() -> None:
    """Have glibc reuse the memory of one long prompt for the next one.

    It would give back and fetch anew whatever is over 128 KiB, and the page faults of that cost
    ten times what copying a prompt does (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc's only
        mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)


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
