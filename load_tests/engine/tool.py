"""The load tool, aiperf: its environment, its command line, one run of it. It knows no gateway."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from load_tests.engine.table import Answers, answers
from load_tests.rig.processes import started

REQUIREMENTS = ("aiperf==0.13.0", "gguf==0.19.0")  # pinned: the command line moves between releases
TOKENIZER = "local/model"
INSTALLS_WITHIN_S = 1200
RUNS_WITHIN_S = 180.0
PROMPT_TOKENS = 32
OUTPUT_TOKENS, OUTPUT_STDDEV = 24, 4  # answers of equal length would all begin and end together
SEED = 7


@dataclass(frozen=True)
class Load:
    """What one run asks for."""

    concurrency: int
    requests: int
    extra: tuple[str, ...] = ()  # what this engine is told besides, as name:value


@dataclass(frozen=True)
class Tool:
    """An environment with the tool in it, and a tokenizer from local files."""

    folder: Path
    hub: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "HF_HOME": str(self.hub.parent),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def command(self, url: str, model: str, load: Load, out: Path) -> list[str]:
        extra = ("temperature:0", "ignore_eos:true", *load.extra)
        return [
            *(str(self.folder / "bin" / "aiperf"), "profile", "--ui", "none"),
            *("--model", model, "--url", url, "--endpoint-type", "chat", "--streaming"),
            *("--tokenizer", TOKENIZER, "--use-server-token-count", "--random-seed", str(SEED)),
            *("--synthetic-input-tokens-mean", str(PROMPT_TOKENS)),
            *("--synthetic-input-tokens-stddev", "0"),
            *("--output-tokens-mean", str(OUTPUT_TOKENS)),
            *("--output-tokens-stddev", str(OUTPUT_STDDEV)),
            *(word for one in extra for word in ("--extra-inputs", one)),
            *("--num-dataset-entries", str(load.requests)),
            *("--dataset-sampling-strategy", "sequential"),
            *("--concurrency", str(load.concurrency), "--request-count", str(load.requests)),
            *("--warmup-request-count", str(2 * load.concurrency), "--workers-max", "1"),
            *("--request-timeout-seconds", "60", "--output-artifact-dir", str(out)),
            *("--no-gpu-telemetry", "--no-server-metrics"),
        ]

    def run(self, url: str, model: str, load: Load, core: int, folder: Path) -> tuple[Answers, str]:
        """What came back, and the fingerprint of the prompts that were sent."""
        with tempfile.TemporaryDirectory(prefix="turn-", dir=folder) as name:
            out = Path(name)
            command = self.command(url, model, load, out / "kept")
            with started("aiperf", command, core, out, self.env) as running:
                try:
                    code = running.process.wait(RUNS_WITHIN_S)
                except subprocess.TimeoutExpired:
                    raise SystemExit(f"engine: aiperf took over {RUNS_WITHIN_S:.0f} s") from None
                if code:
                    raise SystemExit(
                        f"engine: aiperf ended with {code}; it last said\n{running.last_words()}"
                    )
            return answered(out / "kept", load.requests)


def answered(kept: Path, requests: int) -> tuple[Answers, str]:
    """From the files that the tool leaves."""
    summary = json.loads((kept / "profile_export_aiperf.json").read_text())
    inputs = (kept / "inputs.json").read_bytes()
    asked = {
        session["session_id"]: session["payloads"][0]["max_completion_tokens"]
        for session in json.loads(inputs)["data"]
    }
    records = [json.loads(line) for line in (kept / "profile_export.jsonl").open()]
    for error in filter(None, (record.get("error") for record in records)):
        print(f"engine: {error.get('type')} {error.get('code')}", file=sys.stderr, flush=True)
    got = answers(records, requests, asked).lasting(summary["benchmark_duration"]["avg"])
    return got, hashlib.sha256(inputs).hexdigest()


def prepared(gguf: Path) -> Tool:
    """The tool, installed if it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "lamplighter-tests" / "aiperf"
    marker = folder / "lamplighter-made-from"
    python = str(folder / "bin" / "python")
    wanted = " ".join(REQUIREMENTS)
    if not marker.exists() or marker.read_text() != wanted:
        print(f"engine: installing {wanted} into {folder}, once", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
        if subprocess.run([*pip, *REQUIREMENTS], timeout=INSTALLS_WITHIN_S).returncode:
            raise SystemExit(f"engine: pip could not install {wanted}, see above")
        marker.write_text(wanted)
    hub = folder / "home" / "hub"
    maker = str(Path(__file__).with_name("make_tokenizer.py"))
    if subprocess.run([python, maker, str(gguf), str(hub), TOKENIZER]).returncode:
        raise SystemExit("engine: the tokenizer could not be read from the weights, see above")
    return Tool(folder, hub)
