"""Which proxy the environment names for an outside API, and what of it is never shown."""

import base64
import logging
import os
from typing import Literal

import pytest

from backends.upstream import Origin
from backends.upstream_dial import Peer
from backends.upstream_proxy import BadProxy, Proxy, proxy_from_environment

API = "api.example.test"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without what the machine itself has."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch


def chosen(
    scheme: Literal["http", "https"] = "https", host: str = API, port: int = 443
) -> str | None:
    proxy = proxy_from_environment(scheme, host, port)
    return str(proxy).removeprefix("the proxy ") if proxy else None


def test_without_variables_there_is_no_proxy() -> None:
    assert chosen() is None


def test_each_scheme_has_its_variable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "http://one.test:1")
    environment.setenv("HTTP_PROXY", "http://two.test:2")
    assert chosen("https") == "one.test:1"
    assert chosen("http", port=80) == "two.test:2"


def test_all_proxy_stands_in_for_a_scheme_without_one(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALL_PROXY", "http://all.test:1")
    environment.setenv("HTTP_PROXY", "http://plain.test:2")
    assert chosen("https") == "all.test:1"
    assert chosen("http", port=80) == "plain.test:2"


@pytest.mark.parametrize("name", ["https_proxy", "all_proxy"])
def test_small_letters_do_too_and_win(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name.upper(), "http://large.test:1")
    environment.setenv(name, "http://small.test:2")
    assert chosen() == "small.test:2"
    proxy = proxy_from_environment("https", API, 443)
    assert proxy is not None
    assert proxy.variable == name


def test_empty_variable_in_small_letters_switches_off(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "http://large.test:1")
    environment.setenv("https_proxy", "")
    assert chosen() is None


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://proxy.test:3128/", "proxy.test:3128"),
        ("http://proxy.test", "proxy.test:80"),
        ("proxy.test:3128", "proxy.test:3128"),
        ("http://[2001:db8::1]:3128", "[2001:db8::1]:3128"),
        ("http://pröxy.test:1", "xn--prxy-6qa.test:1"),
    ],
)
def test_address_of_a_proxy(environment: pytest.MonkeyPatch, url: str, address: str) -> None:
    environment.setenv("HTTPS_PROXY", url)
    assert chosen() == address


@pytest.mark.parametrize(
    "excepted",
    ["*", API, API.upper(), "example.test", ".example.test", f"a.test, {API}:443", "a.test,test"],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_excepted_host_is_reached_directly(
    environment: pytest.MonkeyPatch, excepted: str, variable: str
) -> None:
    environment.setenv("HTTPS_PROXY", "http://proxy.test:1")
    environment.setenv(variable, excepted)
    assert chosen() is None


@pytest.mark.parametrize("other", ["", "other.test", f"{API}:8443", "ample.test", f"x.{API}"])
def test_exceptions_are_for_the_hosts_they_name(
    environment: pytest.MonkeyPatch, other: str
) -> None:
    environment.setenv("HTTPS_PROXY", "http://proxy.test:1")
    environment.setenv("NO_PROXY", other)
    assert chosen() == "proxy.test:1"


@pytest.mark.parametrize("excepted", ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:443"])
def test_ipv6_address_is_excepted(environment: pytest.MonkeyPatch, excepted: str) -> None:
    environment.setenv("HTTPS_PROXY", "http://proxy.test:1")
    environment.setenv("NO_PROXY", excepted)
    assert chosen(host="2001:db8::1") is None
    assert chosen(host="2001:db8::2") == "proxy.test:1"


@pytest.mark.parametrize("host", ["localhost", "api.localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_is_never_reached_by_a_proxy(
    environment: pytest.MonkeyPatch, host: str
) -> None:
    environment.setenv("ALL_PROXY", "http://proxy.test:1")
    assert chosen(host=host) is None


@pytest.mark.parametrize("kind", ["socks5", "socks5h", "https", "ftp"])
def test_other_kinds_of_proxies_are_refused(environment: pytest.MonkeyPatch, kind: str) -> None:
    environment.setenv("ALL_PROXY", f"{kind}://user:p%40ss:word@proxy.test:1080")
    with pytest.raises(BadProxy, match=f"^ALL_PROXY names a proxy of the kind {kind}://") as raised:
        chosen()
    assert "word" not in str(raised.value)


def test_proxy_that_is_not_asked_for_may_be_of_any_kind(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ALL_PROXY", "socks5://proxy.test:1080")
    environment.setenv("NO_PROXY", API)
    environment.setenv("HTTP_PROXY", "http://plain.test")
    assert chosen() is None
    assert chosen("http", "other.test", 80) == "plain.test:80"


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:3128",
        "http://proxy.test:port",
        "http://proxy.test:99999",
        "http://user:hidden",
        "http://user:12#hidden@proxy.test:3128",
        "http://user:12/hidden@proxy.test:3128",
        "http://user:12?hidden@proxy.test:3128",
        "http://user:hidden@[proxy.test:3128",
        "http://user:hidden@pro xy.test:3128",
    ],
)
def test_what_is_no_url_is_refused_without_repeating_it(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("https_proxy", url)
    with pytest.raises(BadProxy, match="^https_proxy is not the URL of a proxy") as raised:
        chosen()
    assert "hidden" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_user_and_password_are_decoded_and_not_shown(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    environment.setenv("HTTPS_PROXY", "http://us%40er:p%40ss:w%2Ford@proxy.test:3128")
    proxy = proxy_from_environment("https", API, 443)
    assert proxy is not None
    assert proxy.authorization == b"Basic " + base64.b64encode(b"us@er:p@ss:w/ord")
    shown = f"{proxy} {proxy!r} {caplog.text}"
    assert f"{API}:443 is reached through the proxy proxy.test:3128" in caplog.text
    for secret in ("er:", "ord", proxy.authorization.decode().split()[1]):
        assert secret not in shown


def test_peer_keeps_its_own_address(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTP_PROXY", "http://proxy.test:3128")
    peer = Peer(API, 80, None).by_environment()
    assert str(peer) == f"{API}:80"
    assert peer.proxy == Proxy("proxy.test", 3128, "HTTP_PROXY")
    assert Origin(f"http://{API}").peer.proxy is None  # only who asks for it gets one
