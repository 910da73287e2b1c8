"""The end of a gateway: in good order with SIGTERM, at once with a second one, or by kill -9."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cold.scenes import HELLO, Crowd, ask, cold, error_of, instances, ready, yaml
from tests.gateway import GatewayProcess, eventually, run_gateway

MODELS = {
    "paced": cold("--pace", "0.1", "--with-child"),
    "slow": cold("--ready-after", "0.8"),
    "never": cold("--never-ready"),
    "deaf": cold("--ignore-sigterm", stop_within="20s"),
}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with run_gateway(tmp_path, yaml(MODELS, server={"drain_within": "10s"})) as running:
        yield running


def draining(gateway: GatewayProcess) -> None:
    eventually(lambda: "draining: " in gateway.log, 5, "it drains")


def ends(gateway: GatewayProcess, processes: list[psutil.Process], within_s: float) -> None:
    """The gateway ends by itself, in good order, and leaves no process."""
    assert gateway.process.wait(within_s) == 0
    assert not any(p.is_running() for p in processes)


class Kept:
    """A connection that is kept alive, by hand: no client that opens another one unasked."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._socket = socket.create_connection(("127.0.0.1", gateway.port), 10)

    def send(self, path: str, body: object = None) -> None:
        payload = json.dumps(body).encode() if body else b""
        head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nhost: x\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        self._socket.sendall(head.encode() + payload)

    def until(self, mark: bytes) -> bytes:
        """What comes up to a mark, or to the end of the connection.

        A connection that is closed over what was sent too late ends with a reset, behind all that
        was answered.
        """
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while mark not in received and (data := self._socket.recv(65536)):
                received += data
        return received

    def close(self) -> None:
        self._socket.close()


def test_admin_drain_lets_all_end_and_takes_nothing_new(gateway: GatewayProcess) -> None:
    kept = Kept(gateway)
    kept.send("/health")
    assert kept.until(b"\r\n\r\nOK").startswith(b"HTTP/1.1 200 ")
    ask(gateway, "paced", max_tokens=1)
    with Crowd(gateway, 2) as crowd:
        [stream] = crowd.streams(1, "paced", max_tokens=15)
        waiting = crowd.ask("slow")
        eventually(lambda: gateway.model("slow")["waiting"] == 1)
        assert gateway.admin("POST", "/drain").status_code == 202
        assert gateway.http.get("/ready").status_code == 503
        refused = ask(gateway, "paced")
        assert (refused.status_code, error_of(refused)["code"]) == (503, "shutting_down")
        kept.send("/v1/chat/completions", {"model": "paced", "messages": HELLO})
        assert b"shutting_down" in kept.until(b"shutting_down")
        assert stream.result().whole
        assert waiting.result().status_code == 200
    kept.close()


def test_sigterm_lets_streams_and_starts_end_then_stops_every_server(
    gateway: GatewayProcess,
) -> None:
    ask(gateway, "paced", max_tokens=1)
    with Crowd(gateway, 2) as crowd:
        [stream] = crowd.streams(1, "paced", max_tokens=15)
        waiting = crowd.ask("slow")
        # two guards, two servers, a child of one of them
        eventually(lambda: len(gateway.children()) == 5, 5, "five processes")
        processes = gateway.children()
        gateway.process.send_signal(signal.SIGTERM)
        assert stream.result().whole
        assert waiting.result().status_code == 200
    ends(gateway, processes, 5)


def test_sigterm_closes_kept_connections_after_what_they_carry(gateway: GatewayProcess) -> None:
    """A call that comes too late is closed without a byte: safe to send again elsewhere."""
    ask(gateway, "paced", max_tokens=1)
    idle, busy = Kept(gateway), Kept(gateway)
    idle.send("/health")
    assert idle.until(b"\r\n\r\nOK").startswith(b"HTTP/1.1 200 ")
    body = {"model": "paced", "messages": HELLO, "stream": True}
    busy.send("/v1/chat/completions", body)
    busy.until(b"hello")
    gateway.process.send_signal(signal.SIGTERM)
    assert idle.until(b"no such mark") == b""
    busy.send("/v1/chat/completions", body)
    answer, done, rest = busy.until(b"no such mark").partition(b"[DONE]")
    assert b"over" in answer
    assert done
    assert b"HTTP/1.1" not in rest
    idle.close()
    busy.close()
    ends(gateway, [], 5)


def test_stream_that_outlasts_the_drain_ends_with_an_error_event(tmp_path: Path) -> None:
    text = yaml(MODELS, server={"drain_within": "500ms"})
    with run_gateway(tmp_path, text) as gateway, Crowd(gateway, 4) as crowd:
        streams = crowd.streams(3, "paced")
        waiting = crowd.ask("never")
        eventually(lambda: instances(gateway, "never"))
        processes = gateway.children()
        gateway.process.send_signal(signal.SIGTERM)
        assert {stream.result().error["code"] for stream in streams} == {"shutting_down"}
        refused = waiting.result()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "shutting_down")
        ends(gateway, processes, 5)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_drain_at_once(gateway: GatewayProcess, second: int) -> None:
    with Crowd(gateway, 2) as crowd:
        streams = crowd.streams(2, "paced")
        processes = gateway.children()
        gateway.process.send_signal(signal.SIGTERM)
        draining(gateway)
        gateway.process.send_signal(second)
        assert {stream.result().error["code"] for stream in streams} == {"shutting_down"}
        ends(gateway, processes, 5)


def test_second_signal_does_not_wait_for_servers_either(gateway: GatewayProcess) -> None:
    """A server that does not heed SIGTERM would have 20 s."""
    ask(gateway, "deaf")
    processes = gateway.children()
    gateway.process.send_signal(signal.SIGTERM)
    eventually(lambda: "instance deaf@1 is draining" in gateway.log, 5, "the server is stopped")
    gateway.process.send_signal(signal.SIGTERM)
    ends(gateway, processes, 5)


def test_sigterm_does_not_wait_for_a_start_that_nobody_waits_for(gateway: GatewayProcess) -> None:
    gateway.admin("POST", "/models/never/start")
    eventually(lambda: gateway.children() and instances(gateway, "never"))
    processes = gateway.children()
    gateway.process.send_signal(signal.SIGTERM)
    ends(gateway, processes, 5)


def test_server_that_does_not_heed_sigterm_is_killed_after_its_time(tmp_path: Path) -> None:
    models = {"deaf": cold("--ignore-sigterm", "--with-child", stop_within="400ms")}
    with run_gateway(tmp_path, yaml(models)) as gateway:
        ask(gateway, "deaf")
        ready(gateway, "deaf")
        processes = gateway.children()
        begun_s = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        ends(gateway, processes, 5)
        assert time.monotonic() - begun_s > 0.4


def test_kill_9_of_the_gateway_leaves_no_server_after_two_seconds(gateway: GatewayProcess) -> None:
    for model in ("paced", "deaf"):
        ask(gateway, model, max_tokens=1)
    gateway.admin("POST", "/models/never/start")
    eventually(lambda: len(gateway.children()) == 7, 5, "three guards, three servers, one child")
    processes = gateway.children()
    with Crowd(gateway, 1) as crowd:
        stream, ended = crowd.stream("paced")
        assert stream.begun.wait(5)
        gateway.process.kill()
        gateway.process.wait()
        eventually(lambda: not any(p.is_running() for p in processes), 2, "they died with it")
        assert ended.exception() is not None  # cut, which no caller can take for an end


def test_next_gateway_starts_where_one_was_killed(tmp_path: Path) -> None:
    text = yaml({"again": cold("--with-child")})
    with run_gateway(tmp_path, text) as gateway:
        ask(gateway, "again")
        gateway.process.kill()
        gateway.process.wait()
    with run_gateway(tmp_path, text) as gateway:
        assert ask(gateway, "again").status_code == 200
