"""What lies between the processes is for nobody else, and callers cannot reach through it."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.threaded import FakeServers
from tests.gateway import ADMIN_KEY, GatewayProcess, run_gateway
from tests.proxy.scenes import chat, model, yaml
from tests.relay.callers import Caller, request
from tests.workers.scenes import get, one_each, socket_folder

API_KEY = "sk-of-the-outside-api"


@pytest.fixture(scope="module")
def gateway(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    urls = fake_servers.urls[:1]
    models = {
        "hot": model(urls),
        "api": {"api": {"url": "http://127.0.0.1:9/v1", "key": "${env.LAMPLIGHTER_API}"}},
        "limited": model([{"url": urls[0], "max_concurrency": 1}]),  # the owner's
    }
    folder, env = tmp_path_factory.mktemp("safety"), {"LAMPLIGHTER_API": API_KEY}
    with run_gateway(folder, yaml(models), env, workers=2) as running:
        yield running


def test_socket_of_the_owner_is_out_of_reach_of_other_users(gateway: GatewayProcess) -> None:
    folder = socket_folder(gateway)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()
    assert [each.name for each in folder.iterdir()] == ["owner.sock"]


def test_only_the_owner_holds_the_ends_that_reach_a_worker(gateway: GatewayProcess) -> None:
    """Each worker has inherited its own two descriptors, and none of another's."""
    inherited = [
        {os.readlink(f"/proc/{worker.pid}/fd/{fd}") for fd in worker.cmdline()[-4:-2]}
        for worker in gateway.workers()
    ]
    for worker, own in zip(gateway.workers(), inherited, strict=True):
        others = set().union(*[ends for ends in inherited if ends is not own])
        folder = Path(f"/proc/{worker.pid}/fd")
        assert not others & {os.readlink(fd) for fd in folder.iterdir()}
        assert not [c for c in worker.net_connections("tcp") if c.status == psutil.CONN_LISTEN]


def test_no_key_is_in_a_command_line_or_an_environment(gateway: GatewayProcess) -> None:
    for worker in gateway.workers():
        shown = str(worker.cmdline()) + str(worker.environ())
        assert API_KEY not in shown
        assert ADMIN_KEY not in shown


@pytest.mark.parametrize(
    "headers",
    [
        ["connection: authorization, host, content-length"],
        ["x-forwarded-for: 127.0.0.1", "x-forwarded-host: localhost", "x-real-ip: 127.0.0.1"],
        ["forwarded: for=unix", "x-lamplighter-owner: 1", "x-original-url: /admin/models"],
        ["x-http-method-override: POST", "x-rewrite-url: /admin/drain"],
    ],
)
def test_admin_api_asks_for_its_key_whatever_a_caller_says(
    gateway: GatewayProcess, headers: list[str]
) -> None:
    with Caller(gateway) as caller:
        assert get(caller, "/admin/models", *headers).status == 403


def test_headers_for_one_hop_go_no_further(gateway: GatewayProcess, fakes: FakeServers) -> None:
    with Caller(gateway) as caller:
        sent = request(chat("limited"), "connection: x-secret, keep-alive", "x-secret: 1", "x-b: 2")
        assert caller.send(sent).answer().status == 200
    assert fakes.last.header("x-secret") is None
    assert fakes.last.header("x-b") == "2"


def test_whole_url_of_another_host_is_answered_here_as_its_path(gateway: GatewayProcess) -> None:
    with Caller(gateway) as caller:
        assert get(caller, "http://elsewhere.example:9/health").body == b"OK"
        assert get(caller, "http://elsewhere.example/admin/models").status == 403


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models/\xc3\xa9 HTTP/1.1\r\nhost: x\r\n",
        b"GET /v1/models/a%0d%0ab HTTP/1.1\r\nhost: x\r\n",
        b"GET /v1/models/a\tb HTTP/1.1\r\nhost: x\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nbad name: 1\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nb\xe9: 1\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\na: b\r\n folded: 1\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\na: b\rc: d\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"CONNECT elsewhere:80 HTTP/1.1\r\nhost: x\r\n",
        b"PRI * HTTP/2.0\r\n",
    ],
)
def test_odd_heads_are_refused_in_words_and_reach_nothing(
    gateway: GatewayProcess, fakes: FakeServers, head: bytes
) -> None:
    with Caller(gateway) as caller:
        got = caller.send(head + b"connection: close\r\n\r\n").answer("GET")
        assert 400 <= got.status < 500, got
        assert got.error["message"]
    assert fakes.posts == []
    assert "Traceback" not in gateway.log
    assert "never retrieved" not in gateway.log


def test_bytes_behind_a_body_are_the_callers_next_request_and_nobody_elses(
    gateway: GatewayProcess, fakes: FakeServers
) -> None:
    """The connection to the owner is shared: what is left over on one must not stay there."""
    body = request(chat("limited"))
    hidden = b"GET /admin/models HTTP/1.1\r\nhost: x\r\n\r\n"
    for attacker, _ in one_each(gateway):
        with attacker:
            attacker.send(body + hidden)
            assert attacker.answer().status == 200
            assert attacker.answer("GET").status == 403
    for victim, _ in one_each(gateway):
        with victim:
            assert get(victim, "/health").body == b"OK"
    assert len(fakes.posts) == 2


def test_trailers_do_not_reach_the_owner(gateway: GatewayProcess, fakes: FakeServers) -> None:
    payload = request(chat("limited")).partition(b"\r\n\r\n")[2]
    head = request(b"", "transfer-encoding: chunked", framed=False)
    parts = b"%x\r\n%b\r\n0\r\nx-late: 1\r\n\r\n" % (len(payload), payload)
    with Caller(gateway) as caller:
        assert caller.send(head + parts).answer().status == 200
    assert fakes.last.header("x-late") is None


def test_owner_is_reached_by_its_path_alone_and_only_inside_this_machine(
    gateway: GatewayProcess,
) -> None:
    with socket.socket(socket.AF_UNIX) as direct:
        direct.connect(str(socket_folder(gateway) / "owner.sock"))  # as the same user
        direct.sendall(b"GET /admin/models HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b" 403 " in direct.recv(65536)  # the key is asked for here too
    owner = psutil.Process(gateway.process.pid)
    listening = [c for c in owner.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert {(c.laddr.ip, c.laddr.port) for c in listening} == {("127.0.0.1", gateway.port)}
