"""One gateway with a cascade of each kind, over two scripted servers."""

from collections.abc import Iterator

import pytest

from tests.cascades.scenes import calibrated, pair, policy
from tests.fakes.threaded import FakeServers
from tests.gateway import GatewayProcess, run_gateway
from tests.proxy.scenes import yaml


@pytest.fixture(scope="module")
def gateway(
    fake_servers: FakeServers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("cascades")
    policies = {
        "plain": policy(),
        "early": policy(calibration=calibrated(folder)),
        "doubting": policy(self_check=True, samples=3),
        "labelled": policy(shadow=1.0, compare="exact"),
        "judged": policy(shadow=1.0),
    }
    text = yaml(pair(fake_servers.urls), policies=policies, store={"path": str(folder / "store")})
    with run_gateway(folder, text) as running:
        yield running
