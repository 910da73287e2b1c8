"""From a gateway's own labels to a calibration that it then judges by."""

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from msgspec.structs import replace

from policies.calibration import ABOVE_ALL, decode, encode
from tests.cascades.scenes import pair, policy, whole
from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess, eventually, run_gateway
from tests.proxy.scenes import HELLO, yaml

ASKED = 120


def test_labels_of_a_gateway_make_the_calibration_that_it_judges_by(
    fakes: FakeServers, tmp_path: Path
) -> None:
    store, target = tmp_path / "store", tmp_path / "calibration.json"
    learning = yaml(
        pair(fakes.urls),
        policies={"chat": policy(shadow=1.0, compare="exact")},
        store={"path": str(store)},
    )
    with run_gateway(tmp_path, learning) as gateway:
        rng = random.Random(7)
        for _ in range(ASKED):
            sure = rng.random() < 0.6
            right = rng.random() < (0.97 if sure else 0.3)
            fakes.reset()
            said = "Paris" if right else "Rome"
            # An escalated answer is asked of the large model twice: for the caller, for the label.
            fakes.script(whole(said, -0.02 if sure else -2.0), *[whole("Paris", None)] * 2)
            body = {"model": "chat", "messages": HELLO}
            assert gateway.http.post("/v1/chat/completions", json=body).status_code == 200
            fakes.arrived(2 if sure else 3)
        eventually(lambda: _labels(store) == ASKED, what="the labels")
        # A first fit: the file that the configuration will name is not there yet.
        gateway.write(learning.replace('"shadow": 1.0', f'"calibration": "{target}"'))
        command = [sys.executable, "-m", "proxy.cli", "calibrate", str(gateway.file)]
        made = subprocess.run(
            [*command, "--store", str(store)], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        assert "AUROC" in made.stdout
        found = decode(target.read_bytes())
        assert (found.labels, found.policy, found.small) == (ASKED, "chat", "small")
        assert gateway.admin("POST", "/reload").status_code == 200
        worse = replace(found, threshold=ABOVE_ALL)  # a fit that keeps nothing
        replace_file(target, encode(worse))
        eventually(lambda: _verdict(gateway, fakes) == "direct", what="the new file is read")
        replace_file(target, encode(found))
        eventually(lambda: _verdict(gateway, fakes) == "kept", what="the old one again")
        fakes.reset()
        fakes.script(whole("Paris", -0.02))
        response = gateway.http.post("/v1/chat/completions", json=body)
        assert response.headers["x-lamplighter-cascade"] == "kept"
        fakes.script(whole("Rome", -2.0), whole("Paris", None))
        response = gateway.http.post("/v1/chat/completions", json=body)
        assert response.headers["x-lamplighter-cascade"] == "escalated"


def replace_file(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


def _verdict(gateway: GatewayProcess, fakes: FakeServers) -> str:
    """What becomes of a sure answer."""
    fakes.reset()
    fakes.script(whole("Paris", -0.02))
    body = {"model": "chat", "messages": HELLO}
    return gateway.http.post("/v1/chat/completions", json=body).headers["x-lamplighter-cascade"]


def _labels(store: Path) -> int:
    with sqlite3.connect(store) as database:
        (count,) = database.execute("SELECT count(*) FROM labels").fetchone()
    return int(count)
