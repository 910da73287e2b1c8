"""A gateway that hangs: its servers lose their lease, and it finds its way when it goes on."""

import signal
from pathlib import Path

import psutil
import pytest

from tests.cold.scenes import Crowd, ask, cold, instances, launches, ready, yaml
from tests.gateway import GatewayProcess, eventually, run_gateway


def hang_until_gone(gateway: GatewayProcess, servers: list[psutil.Process]) -> None:
    """Stop the gateway until these processes have ended; it goes on then."""
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: not any(map(_runs, servers)), 10, "the guard ends its server")
    finally:
        gateway.process.send_signal(signal.SIGCONT)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # which a stopped gateway cannot reap
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("deaf", [False, True])
def test_a_gateway_that_hangs_loses_its_server_and_starts_another(
    tmp_path: Path, deaf: bool
) -> None:
    options = ["--ignore-sigterm"] if deaf else []
    model = cold("--pace", "0.1", "--with-child", *options, lease="5s")
    with run_gateway(tmp_path, yaml({"leased": model})) as gateway:
        ask(gateway, "leased", max_tokens=1)
        [before] = ready(gateway, "leased")
        with Crowd(gateway, 1) as crowd:
            [stream] = crowd.streams(1, "leased")
            hang_until_gone(gateway, gateway.children())
            assert not stream.result().whole
        answer = ask(gateway, "leased", max_tokens=1)
        assert answer.status_code == 200
        [after] = ready(gateway, "leased")
        assert after["id"] != before["id"]
        assert launches(gateway, "leased") == 2
        end = "was killed by signal" if deaf else ": the gateway did not renew its lease"
        why = "the gateway did not renew its lease for 5 s (cold.lease)"
        [line] = [line for line in gateway.log.splitlines() if why in line]
        assert f"instance {before['id']} " in line
        assert end in line


def test_a_lease_that_a_reload_changes_holds_from_the_next_start_on(tmp_path: Path) -> None:
    def text(lease: str) -> str:
        return yaml({"leased": cold(lease=lease)})

    with run_gateway(tmp_path, text("1h")) as gateway:
        ask(gateway, "leased")
        [first] = ready(gateway, "leased")
        gateway.write(text("5s"))
        assert gateway.admin("POST", "/reload").status_code == 200
        assert instances(gateway, "leased")[0]["id"] == first["id"]
        gateway.admin("POST", "/models/leased/stop")
        eventually(lambda: not instances(gateway, "leased"), 10, "it is stopped")
        ask(gateway, "leased")
        hang_until_gone(gateway, gateway.children())
