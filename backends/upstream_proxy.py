"""Proxies for outside APIs: which one the environment names, and a tunnel through it (CONNECT).

Only what an operator calls an outside API asks here; the gateway's own model servers never do.
http:// APIs go through a tunnel as well: in any other way an answer of the proxy could not be told
from one of the API. User and password stand in the request to the proxy and nowhere else.
"""

import asyncio
import base64
import ipaddress
import logging
import os
import socket
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second
    getproxies_environment,
    proxy_bypass_environment,
)

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from backends.upstream_errors import ConnectFailed
from backends.upstream_head import HEAD_LIMIT
from backends.upstream_request import is_visible

log = logging.getLogger("lamplighter.upstream")


class BadProxy(Exception):
    """A variable names a proxy that cannot be used. The message holds no user and no password."""


@dataclass(frozen=True)
class Proxy:
    """`variable` is where it was named, so that messages can say what to mend."""

    host: str
    port: int
    variable: str
    authorization: bytes | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {host}:{self.port}"


def proxy_from_environment(scheme: Literal["http", "https"], host: str, port: int) -> Proxy | None:
    """By HTTPS_PROXY or HTTP_PROXY, ALL_PROXY and NO_PROXY; small letters win. Raises BadProxy."""
    named = getproxies_environment()
    kind = scheme if scheme in named else "all"
    if kind not in named or _is_loopback(host) or _is_excepted(host, port, named):
        return None
    proxy = _parsed(named[kind], _variable(f"{kind}_proxy"))
    log.info("%s:%d is reached through %s, as %s says", host, port, proxy, proxy.variable)
    return proxy


def _is_loopback(host: str) -> bool:
    """What runs on this machine is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_excepted(host: str, port: int, named: dict[str, str]) -> bool:
    forms = [f"[{host}]:{port}", host] if ":" in host else [f"{host}:{port}"]
    return any(proxy_bypass_environment(form, named) for form in forms)


def _variable(name: str) -> str:
    """How it is spelled in this environment."""
    spellings = [found for found in os.environ if found.lower() == name and os.environ[found]]
    return name if name in spellings else spellings[0]


def _parsed(url: str, variable: str) -> Proxy:
    # No word of the URL but its scheme, and `from None`: what is misread may be the password.
    wrong = BadProxy(
        f"{variable} is not the URL of a proxy: http://host:port, or http://user:password@host:port"
        " with / ? # in a user or password written as %2F %3F %23"
    )
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port or 80
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError:
        raise wrong from None
    if parts.scheme != "http":
        raise BadProxy(
            f"{variable} names a proxy of the kind {parts.scheme}://, and outside APIs are reached"
            " through http:// proxies only: change it, or except the API by NO_PROXY"
        )
    if not is_visible(host.encode()) or parts.path.strip("/") or parts.query or parts.fragment:
        raise wrong
    return Proxy(host, port, variable, _authorization(parts))


def _authorization(parts: SplitResult) -> bytes | None:
    if parts.username is None:
        return None
    user, password = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
    return b"Basic " + base64.b64encode(user + b":" + password)


async def open_tunnel(connected: socket.socket, proxy: Proxy, target: str) -> None:
    """Turn a connection to `proxy` into one to `target`. Raises ConnectFailed or OSError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connected, _request(proxy, target))
    answer = _Answer()
    received = bytearray()
    while not answer.status:
        data = await loop.sock_recv(connected, HEAD_LIMIT)
        if not data:
            raise ConnectFailed(f"{proxy} closed the connection when asked for {target}")
        received += data
        answer.feed(data, proxy)
        if len(received) > HEAD_LIMIT:
            raise ConnectFailed(f"{proxy} sent headers without end when asked for {target}")
    if not 200 <= answer.status < 300:
        raise ConnectFailed(f"{proxy} refused {target}: {_why(answer.status, proxy)}")
    # In TLS and in HTTP the client speaks first: whatever came already is not from the target.
    if received.find(b"\r\n\r\n") + 4 != len(received):
        raise ConnectFailed(f"{proxy} sent more than its answer when asked for {target}")


def _request(proxy: Proxy, target: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1".encode(), f"host: {target}".encode()]
    if proxy.authorization is not None:
        lines.append(b"proxy-authorization: " + proxy.authorization)
    return b"\r\n".join([*lines, b"", b""])


def _why(status: int, proxy: Proxy) -> str:
    """By the number alone: the words of the proxy may be anything."""
    try:
        said = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        said = str(status)
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        verdict = "does not take the" if proxy.authorization else "asks for a"
        return f"{said}; it {verdict} user and password in {proxy.variable}"
    return said


class _Answer:
    """The head of the answer to CONNECT; what is behind it is no message of HTTP."""

    def __init__(self) -> None:
        self.status = 0
        self._parser = HttpResponseParser(self)

    def feed(self, data: bytes, proxy: Proxy) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            if not self.status:
                raise ConnectFailed(f"{proxy} does not speak HTTP/1.1: {exc}") from exc

    def on_headers_complete(self) -> None:
        if not self.status:
            self.status = self._parser.get_status_code()
