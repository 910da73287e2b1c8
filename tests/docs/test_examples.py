"""The examples start what they say: stand-ins for the engines write down argv and environment.

And what they say is what vLLM takes: its own parser reads the flags, where it is installed.
"""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backends.launchers import LaunchSpec
from backends.launchers.process import ProcessLauncher
from backends.log_ring import MASK, LogRing
from config.load import load
from config.schema import Config
from tests.engines.require import VLLM_VENV, need
from tests.gateway import GatewayProcess, run_gateway

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WITHIN_S = 20.0
ENV = {
    "OPENAI_API_KEY": "key-of-the-api",
    "ADMIN_KEY": "long-enough",
    "MODEL_CACHE": "/caches/compiled",
}
RECORD = """#!{python}
import json, os, sys, time
line = json.dumps({{"argv": sys.argv, "env": dict(os.environ)}})
print(line, flush=True)
time.sleep(600)
"""
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
taken = [vars(parser.parse_args(argv)) for argv in json.loads(sys.argv[1])]
print(json.dumps([{key: str(value) for key, value in known.items()} for known in taken]))
"""


@dataclass(frozen=True)
class Started:
    argv: list[str]
    env: dict[str, str]
    key: str | None
    port: str


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`vllm` and `llama-server` are our stand-ins."""
    for name in ("vllm", "llama-server"):
        program = tmp_path / name
        program.write_text(RECORD.format(python=sys.executable))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def example(name: str) -> Config:
    return load(EXAMPLES / f"{name}.yaml", ENV)


async def start(config: Config, model: str) -> Started:
    cold = config.models[model].cold
    assert cold is not None
    log = LogRing()
    served_as = config.served_as(model)
    spec = LaunchSpec(model, served_as, cold.command, cold.env, cold.base_path)
    server = await ProcessLauncher().launch(spec, log)
    try:
        async with asyncio.timeout(WITHIN_S):
            while not log.tail(1):  # noqa: ASYNC110 - the process outside sets no events
                await asyncio.sleep(0.01)
    finally:
        await server.stop(0)
    said = json.loads(log.tail(1)[0])
    port = server.url.removesuffix(cold.base_path).rpartition(":")[2]
    return Started(said["argv"][1:], said["env"], server.key, port)


def option(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


CASES = [
    pytest.param(file.stem, model, id=f"{file.stem}-{model}")
    for file in sorted(EXAMPLES.glob("*.yaml"))
    for model, part in load(file, ENV).models.items()
    if part.cold is not None
]


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize(("name", "model"), CASES)
async def test_a_started_server_listens_where_the_gateway_looks(name: str, model: str) -> None:
    started = await start(example(name), model)
    assert option(started.argv, "--port") == started.port
    assert option(started.argv, "--host") == "127.0.0.1"
    assert "{" not in " ".join(word for word in started.argv if not word.startswith('{"'))


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize(("name", "model"), [("sleep", "chat"), ("shared_gpu", "code")])
async def test_a_model_that_can_sleep_is_told_so_and_keeps_what_it_compiled(
    name: str, model: str
) -> None:
    config = example(name)
    started = await start(config, model)
    assert started.argv[:2] == ["serve", config.served_as(model)]
    assert "--enable-sleep-mode" in started.argv
    assert started.env["VLLM_CACHE_ROOT"] == "/caches/compiled"
    assert started.env["VLLM_API_KEY"] == MASK  # what the log shows in place of the key
    assert started.key


@pytest.mark.usefixtures("engines")
async def test_the_streamer_gets_its_settings_as_json() -> None:
    argv = (await start(example("sleep"), "chat")).argv
    assert option(argv, "--load-format") == "runai_streamer"
    assert json.loads(option(argv, "--model-loader-extra-config")) == {"concurrency": 16}


def test_models_on_one_gpu_stay_within_it() -> None:
    """vLLM takes the share of the card that it is told: no more than is counted for it."""
    config = example("shared_gpu")
    card = 80 * 2**30
    for model in config.models.values():
        assert model.cold is not None
        assert model.cold.device == "gpu0"
        assert model.cold.memory is not None
        if "--gpu-memory-utilization" in model.cold.command:
            share = float(option(list(model.cold.command), "--gpu-memory-utilization"))
            assert share * card <= model.cold.memory
    sizes = sorted(m.cold.memory for m in config.models.values() if m.cold and m.cold.memory)
    room = config.devices["gpu0"].memory
    assert sum(sizes[-2:]) <= room < sum(sizes)  # room for any two, not for all three


SERVE = """#!{python}
import os, sys
words = sys.argv[1:]
option = lambda name, default=None: words[words.index(name) + 1] if name in words else default
name = words[1] if words[0] == "serve" else option("--alias")
command = [sys.executable, "-IS", {fake!r}, "--port", option("--port"), "--model", name]
if "--enable-sleep-mode" in words:
    command.append("--sleep-mode")
if key := os.environ.get("VLLM_API_KEY"):
    os.environ["FAKE_API_KEY"] = key
os.execv(sys.executable, command)
"""


@pytest.fixture
def fake_engines(tmp_path: Path) -> dict[str, str]:
    """An environment in which `vllm` and `llama-server` start fakes that answer."""
    fake = str(Path(__file__).resolve().parents[1] / "fakes" / "process.py")
    for name in ("vllm", "llama-server"):
        program = tmp_path / name
        program.write_text(SERVE.format(python=sys.executable, fake=fake))
        program.chmod(0o755)
    return {**ENV, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def served(name: str) -> str:
    return (EXAMPLES / f"{name}.yaml").read_text().replace("version: 1\n", "")


def ask(gateway: GatewayProcess, model: str) -> int:
    chat = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return int(gateway.http.post("/v1/chat/completions", json=chat).status_code)


def test_three_models_on_one_gpu_all_answer_and_one_makes_room(
    tmp_path: Path, fake_engines: dict[str, str]
) -> None:
    with run_gateway(tmp_path, served("shared_gpu"), fake_engines) as gateway:
        assert [ask(gateway, model) for model in ("chat", "code", "draft")] == [200] * 3
        states = {model: gateway.model(model)["state"] for model in ("chat", "code", "draft")}
        assert states["draft"] == "ready"
        assert sorted(states[model] for model in ("chat", "code")) == ["ready", "sleeping"]
        asleep = next(model for model in states if states[model] == "sleeping")
        assert ask(gateway, asleep) == 200


def test_a_model_that_can_sleep_is_started_and_what_is_learned_is_kept(
    tmp_path: Path, fake_engines: dict[str, str]
) -> None:
    with run_gateway(tmp_path, served("sleep"), fake_engines) as gateway:
        assert ask(gateway, "chat") == 200
        assert gateway.model("chat")["state"] == "ready"
        assert (tmp_path / "lamplighter.db").is_file()


@pytest.mark.usefixtures("engines")
async def test_vllm_itself_takes_the_flags() -> None:
    need("vllm")
    every = [(await start(example(name), model)).argv for name, model in map(of_case, CASES)]
    argvs = [argv[1:] for argv in every if argv[0] == "serve"]
    assert len(argvs) >= 4
    python = Path(os.environ[VLLM_VENV]) / "bin" / "python"
    run = await asyncio.to_thread(
        subprocess.run,
        [python, "-c", PARSE, json.dumps(argvs)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    for argv, taken in zip(argvs, json.loads(run.stdout.splitlines()[-1]), strict=True):
        assert taken["port"] == option(argv, "--port")
        assert taken["enable_sleep_mode"] == str("--enable-sleep-mode" in argv)
        if "--load-format" in argv:
            assert taken["load_format"] == option(argv, "--load-format")


def of_case(case: Any) -> tuple[str, str]:
    name, model = case.values
    return name, model
